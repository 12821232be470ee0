"""The Orbax checkpoints of a run.

  WORKDIR/checkpoints/STEP/params     the model's parameters
  WORKDIR/checkpoints/STEP/optimizer  the optimiser's state

STEP counts finished updates. A checkpoint appears whole or not at all, and has
checksums of its arrays. Nothing is pickled.
"""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import os
from pathlib import Path
import tempfile
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from slot_attention import parallel, tasks


@contextlib.contextmanager
def open_checkpoints(
  workdir: Path, keep: int, newest: int
) -> Iterator[ocp.CheckpointManager]:
  """Orbax's manager of a run's checkpoints, which saves in the background.

  Used as a context, which waits for the last one.

  Args:
    workdir: of the run.
    keep: how many of the newest to keep.
    newest: step from which the run goes on. Checkpoints of later ones could not
      be restored; they are moved to WORKDIR/damaged-checkpoint-STEP-*.

  Raises:
    OSError: if the last one cannot be saved.
  """
  if parallel.is_first_process():
    for step, path in _damaged(workdir, newest):
      # Renaming replaces an empty folder.
      aside = tempfile.mkdtemp(
        prefix=f"damaged-checkpoint-{step}-", dir=workdir
      )
      path.rename(aside)
      logging.warning("%s was moved to %s", path, aside)
  parallel.any_process(False)  # Waits for the first one.
  manager = ocp.CheckpointManager(
    _folder(workdir),
    item_handlers=_handlers(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )
  try:
    yield manager
  except BaseException:
    with contextlib.suppress(Exception):  # It raises the same once more.
      manager.close()
    raise
  with _errors_of_saving(workdir):
    manager.wait_until_finished()
    manager.close()


def save(
  manager: ocp.CheckpointManager, step: int, params: Any, optimizer: Any
) -> None:
  """Begins to save; the end of the manager's context waits for the end.

  Raises:
    OSError: if this one or the one before cannot be saved. Those that were
      saved before stay.
  """
  # On the host they do not depend on the devices that restore them.
  items = jax.device_get({"params": params, "optimizer": optimizer})
  with _errors_of_saving(manager.directory.parent):
    manager.save(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in items.items()}
      ),
      custom_metadata={name: _digest(tree) for name, tree in items.items()},
    )


def restore_newest(
  workdir: Path | str, **like: Any
) -> tuple[int, dict[str, Any]] | None:
  """Restores the newest checkpoint that is whole, as arrays on the host.

  A damaged one is named in a warning, and the one before is taken.

  Args:
    workdir: of the run.
    **like: "params" and "optimizer", trees of arrays with the shapes and types
      to restore; if left out, only "params" is restored, with those it has.

  Returns:
    The step and what was restored of it; None if there is no checkpoint.

  Raises:
    ValueError: if all are damaged, or one is whole but its parameters have
      other names or shapes; names them.
  """
  if not _folder(workdir).exists():
    return None
  damaged = []
  with ocp.CheckpointManager(
    _folder(workdir),
    item_handlers=_handlers(),
    options=ocp.CheckpointManagerOptions(create=False),
  ) as manager:
    for step in sorted(manager.all_steps(), reverse=True):
      try:
        params = _restore(manager, step, "params")
        if not like:
          return step, {"params": params}
        _check_shapes(params, like["params"])
        optimizer = _restore(manager, step, "optimizer", like["optimizer"])
        return step, {"params": params, "optimizer": optimizer}
      except MisfitError:
        raise
      except Exception as error:  # Whatever Orbax stumbles over.
        damaged.append(
          f"{manager.directory / str(step)} is damaged ({_first_line(error)})"
        )
        logging.warning("The checkpoint %s; trying the one before", damaged[-1])
  if damaged:
    raise ValueError(
      f"no checkpoint can be restored: {'; '.join(damaged)}. Nothing was"
      f" changed; to start over, delete {workdir}"
    )
  return None


class MisfitError(ValueError):
  """Parameters with other names or shapes than a model's."""


def check_fit(
  params: Any, task: tasks.Task, image_shape: tuple[int, int, int]
) -> None:
  """Raises a MisfitError that names the parameters which a task has not.

  Args:
    params: loaded.
    task: that shall use them, on images [H, W, C].
    image_shape: H, W, C.
  """
  needed = jax.eval_shape(
    lambda key: task.init(key, image_shape), jax.random.key(0)
  )
  _check_shapes(params, needed)


def _check_shapes(params, like):
  saved = {name: leaf.shape for name, leaf in _named_leaves(params)}
  needed = {name: leaf.shape for name, leaf in _named_leaves(like)}
  wrong = [
    f"{name} is saved as {saved.get(name, 'nothing')}, the config needs"
    f" {needed.get(name, 'nothing')}"
    for name in sorted({**saved, **needed})
    if saved.get(name) != needed.get(name)
  ]
  if wrong:
    raise MisfitError(
      "the checkpoint does not fit the config: " + "; ".join(wrong)
    )


def _named_leaves(tree):
  return [
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _folder(workdir):
  return (Path(workdir) / "checkpoints").absolute()


def _handlers():
  return {
    "params": ocp.StandardCheckpointHandler(),
    "optimizer": ocp.StandardCheckpointHandler(),
  }


def _damaged(workdir, newest):
  """Number and path of the checkpoints after the newest that is whole."""
  return [
    (int(path.name), path)
    for path in _folder(workdir).glob("*")
    if path.name.isdecimal() and int(path.name) > newest
  ]


def _restore(manager, step, name, like=None):
  """A tree of numpy arrays; raises something if it is not what was saved."""
  if like is None:
    like = dict(manager.item_metadata(step)[name].tree)
  like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
  tree = manager.restore(step, args=args)[name]
  # Orbax does not notice changed numbers. Older checkpoints have no checksums.
  digest = _digest(tree)
  if manager.metadata(step).custom_metadata.get(name, digest) != digest:
    raise ValueError(f"the checksum of its {name} is wrong")
  return tree


def _digest(tree):
  digest = hashlib.sha256()
  for name, leaf in _named_leaves(tree):
    digest.update(f"{name} {leaf.dtype} {leaf.shape};".encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


@contextlib.contextmanager
def _errors_of_saving(workdir):
  """Orbax raises what tensorstore does: a ValueError if the disk is full."""
  try:
    yield
  except Exception as error:
    full = os.strerror(errno.ENOSPC)
    reason = full if full in str(error) else _first_line(error)
    raise OSError(
      f"a checkpoint cannot be saved in {workdir}: {reason}. Those"
      " saved before are intact: make room, and the same command goes on"
    ) from error


def _first_line(error):
  text = str(error).strip() or repr(error)
  return text.splitlines()[0][:500]
