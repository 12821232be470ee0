"""A run's folder: its config and its Orbax checkpoints.

  WORKDIR/config.json              the config of the run
  WORKDIR/checkpoints/STEP/params  the model's parameters
  WORKDIR/checkpoints/STEP/optimizer

STEP counts finished updates. Nothing is pickled.
"""

import json
import os
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

import jax
import ml_collections
import orbax.checkpoint as ocp

from slot_attention import tasks

# Fields that may change when a run goes on: they do not touch its numbers, or
# only in rounding.
RUN_FIELDS = (
  "num_steps",
  "max_minutes",
  "log_every",
  "eval_every",
  "eval_batch_size",
  "checkpoint_every",
  "keep_checkpoints",
  "data_placement",
  "num_cpu_devices",
  "data.data_dir",
)


class Run(NamedTuple):
  """A run loaded from its folder.

  Attributes:
    config: the run's own.
    task: that the config describes; `task.apply(params, batch, key)`.
    params: of `task.model`.
    step: finished updates.
  """

  config: ml_collections.ConfigDict
  task: tasks.Task
  params: Any
  step: int


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Makes the folder of a run, or checks that the one there is of this run.

  Raises:
    ValueError: if the folder belongs to a run with another config.
    OSError: if it cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise type(error)(
      f"the workdir {workdir} cannot be written ({error.strerror}); choose"
      " another with --workdir"
    ) from error

  if (workdir / "config.json").exists():
    differences = _differences(load_config(workdir), config)
    changed = {
      name: values
      for name, values in differences.items()
      if name not in RUN_FIELDS
    }
    if changed:
      raise ValueError(
        f"{workdir} belongs to a run with another config: "
        + "; ".join(
          f"{name} was {there!r}, is now {here!r}"
          for name, (there, here) in sorted(changed.items())
        )
        + ". Choose another --workdir, or delete that folder to start over"
      )


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Writes the config of a run; from now on the folder belongs to it."""
  path = workdir / "config.json"
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  os.replace(partial, path)


def load_config(workdir: Path | str) -> ml_collections.ConfigDict:
  """The config of a run.

  Raises:
    ValueError: if there is no run in this folder, or its config is damaged.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"there is no run in {workdir}: {path.name} is missing")
  try:
    return ml_collections.ConfigDict(_tuples(json.loads(path.read_text())))
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error


def open_checkpoints(
  workdir: Path | str, keep: int | None = None
) -> ocp.CheckpointManager:
  """Orbax's manager of a run's checkpoints, which saves in the background.

  Args:
    workdir: of the run.
    keep: how many of the newest to keep; all if left out.
  """
  return ocp.CheckpointManager(
    (Path(workdir) / "checkpoints").absolute(),
    item_handlers={
      "params": ocp.StandardCheckpointHandler(),
      "optimizer": ocp.StandardCheckpointHandler(),
    },
    options=ocp.CheckpointManagerOptions(max_to_keep=keep),
  )


def save(
  manager: ocp.CheckpointManager, step: int, params: Any, optimizer: Any
) -> None:
  """Begins to save; `manager.wait_until_finished()` waits for the end."""
  if step in manager.all_steps():
    return
  manager.save(
    step,
    args=ocp.args.Composite(
      params=ocp.args.StandardSave(params),
      optimizer=ocp.args.StandardSave(optimizer),
    ),
  )


def restore(
  manager: ocp.CheckpointManager, step: int, **items: Any
) -> dict[str, Any]:
  """Restores "params" and "optimizer", or one of them.

  Args:
    manager: from `open_checkpoints`.
    step: of the checkpoint.
    **items: for each item a tree of arrays with the shapes, types and devices
      to restore; their values do not matter.
  """
  args = {
    name: ocp.args.StandardRestore(
      jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    )
    for name, tree in items.items()
  }
  return dict(manager.restore(step, args=ocp.args.Composite(**args)))


def load_run(workdir: Path | str) -> Run:
  """Loads the newest checkpoint of a run, without its optimiser.

  Raises:
    ValueError: if there is no run or no checkpoint in that folder.
  """
  config = load_config(workdir)
  with open_checkpoints(workdir) as manager:
    step = manager.latest_step()
    if step is None:
      raise ValueError(f"the run in {workdir} has no checkpoint yet")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      dict(manager.item_metadata(step)["params"].tree),
    )
    params = restore(manager, step, params=saved)["params"]
  return Run(config, tasks.make_task(config), params, step)


def check_fit(
  params: Any, task: tasks.Task, image_shape: tuple[int, int, int]
) -> None:
  """Raises a ValueError that names the parameters which a task has not.

  Args:
    params: loaded.
    task: that shall use them, on images [H, W, C].
    image_shape: H, W, C.
  """

  def shapes(tree):
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

  saved = shapes(params)
  needed = shapes(
    jax.eval_shape(lambda key: task.init(key, image_shape), jax.random.key(0))
  )
  wrong = [
    f"{name} is saved as {saved.get(name, 'nothing')}, the config needs"
    f" {needed.get(name, 'nothing')}"
    for name in sorted({**saved, **needed})
    if saved.get(name) != needed.get(name)
  ]
  if wrong:
    raise ValueError(
      "the checkpoint does not fit the config: " + "; ".join(wrong)
    )


def _tuples(value):
  """JSON has no tuples; configs have no lists."""
  if isinstance(value, dict):
    return {name: _tuples(child) for name, child in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _differences(there, here):
  """Dotted name to the two values, where configs differ; None where absent."""
  there, here = _flatten(there.to_dict()), _flatten(here.to_dict())
  return {
    name: (there.get(name), here.get(name))
    for name in {**there, **here}
    if there.get(name) != here.get(name)
  }


def _flatten(tree, prefix=""):
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flatten(value, f"{prefix}{name}."))
    else:
      flat[prefix + name] = value
  return flat
