"""The Orbax checkpoints of a run.

  WORKDIR/checkpoints/STEP/params     the parameters of the model
  WORKDIR/checkpoints/STEP/optimizer  the state of the optimiser

STEP is the number of finished updates. A checkpoint exists only when it is
complete, and it has checksums of its arrays. No file is pickled.
"""

from collections.abc import Iterator, Mapping
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


class _Manager(ocp.CheckpointManager):
  """Leaves the agreement on signals to `parallel.agree_to_stop`.

  Both would set the same counter of JAX: that function to a number of
  dispatches, and Orbax to a number of steps. The number of steps is larger, so
  the processes would run past a signal.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


@contextlib.contextmanager
def open_checkpoints(
  workdir: Path, keep: int, newest: int
) -> Iterator[ocp.CheckpointManager]:
  """Opens Orbax's manager of a run's checkpoints as a context.

  The manager saves in the background. The end of the context waits for the last
  checkpoint.

  Args:
    workdir: folder of the run.
    keep: number of newest checkpoints to keep.
    newest: step of the checkpoint from which the run continues. Later
      checkpoints could not be restored; they are moved to
      WORKDIR/damaged-checkpoint-STEP-*.

  Raises:
    OSError: if the last checkpoint cannot be saved.
  """
  if parallel.is_first_process():
    for step, path in _damaged(workdir, newest):
      # The empty temporary folder reserves a name; renaming replaces it.
      aside = tempfile.mkdtemp(
        prefix=f"damaged-checkpoint-{step}-", dir=workdir
      )
      path.rename(aside)
      logging.warning("%s was moved to %s", path, aside)
  parallel.wait_for_all()
  manager = _Manager(
    _folder(workdir),
    item_handlers=_handlers(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )
  try:
    yield manager
  except BaseException:
    with contextlib.suppress(Exception):  # It would raise the error again.
      manager.close()
    raise
  with _errors_of_saving(workdir):
    manager.wait_until_finished()
    manager.close()


def save(
  manager: ocp.CheckpointManager, step: int, params: Any, optimizer: Any
) -> None:
  """Starts to save a checkpoint in the background.

  Args:
    manager: manager from `open_checkpoints`.
    step: number of finished updates.
    params: parameters of the model.
    optimizer: state of the optimiser.

  Raises:
    OSError: if this checkpoint or the one before cannot be saved. Earlier
      checkpoints stay intact.
  """
  # Checkpoints of host arrays can be restored on any number of devices.
  items = jax.device_get({"params": params, "optimizer": optimizer})
  with _errors_of_saving(manager.directory.parent):
    manager.save(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in items.items()}
      ),
      custom_metadata={name: _digest(tree) for name, tree in items.items()},
    )


def has_any(workdir: Path) -> bool:
  """Returns whether a run has a checkpoint, be it intact or damaged."""
  return any(path.name.isdecimal() for path in _folder(workdir).glob("*"))


def restore_newest(
  workdir: Path | str, like: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, Any]] | None:
  """Restores the newest intact checkpoint as arrays on the host.

  If a checkpoint is damaged, a warning names it, and the one before is tried.

  Args:
    workdir: folder of the run.
    like: a dict of "params" and "optimizer", trees of arrays with the shapes
      and types to restore. If it is None, only the parameters are restored,
      with the shapes and types of the checkpoint.

  Returns:
    The step, and a dict of "params" and, if asked for, "optimizer". None if
    there is no checkpoint.

  Raises:
    ValueError: if all checkpoints are damaged, or if the parameters of an
      intact one have other names or shapes than `like`, which are named.
  """
  if not _folder(workdir).exists():
    return None
  damaged = []
  with ocp.CheckpointManager(
    _folder(workdir),
    item_handlers=_handlers(),
    options=ocp.CheckpointManagerOptions(create=False),
  ) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
      try:
        params = _restore(manager, step, "params")
        if like is None:
          return step, {"params": params}
        _check_shapes(params, like["params"])
        optimizer = _restore(manager, step, "optimizer", like["optimizer"])
        return step, {"params": params, "optimizer": optimizer}
      except MisfitError:
        raise
      except Exception as error:  # Orbax raises many kinds of errors.
        if max(manager.all_steps(read=True), default=step) > steps[0]:
          # The run goes on, and has replaced the checkpoint meanwhile.
          return restore_newest(workdir, like)
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
  """The parameters of a checkpoint do not fit the model."""


def check_fit(
  params: Any, task: tasks.Task, image_shape: tuple[int, ...]
) -> None:
  """Raises a MisfitError if parameters do not fit a task.

  The error names the parameters and their shapes.

  Args:
    params: the parameters.
    task: the task that will use the parameters.
    image_shape: of an image or a video, see `datasets.image_shape`.
  """
  _check_shapes(params, task.param_shapes(image_shape))


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
  """Lists step and path of the checkpoints after the newest intact one."""
  return [
    (int(path.name), path)
    for path in _folder(workdir).glob("*")
    if path.name.isdecimal() and int(path.name) > newest
  ]


def _restore(manager, step, name, like=None):
  """Restores a tree of NumPy arrays; raises an error if it is damaged."""
  if like is None:
    like = dict(manager.item_metadata(step)[name].tree)
  like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
  tree = manager.restore(step, args=args)[name]
  # Orbax does not detect changed numbers. Old checkpoints have no checksums.
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
  """Turns errors of saving into an OSError that says what to do.

  If the disk is full, tensorstore and therefore Orbax raise a ValueError.
  """
  try:
    yield
  except Exception as error:
    full = os.strerror(errno.ENOSPC)
    reason = full if full in str(error) else _first_line(error)
    raise OSError(
      f"a checkpoint cannot be saved in {workdir}: {reason}. Earlier"
      " checkpoints are intact: make room, and the same command goes on"
    ) from error


def _first_line(error):
  text = str(error).strip() or repr(error)
  return text.splitlines()[0][:500]
