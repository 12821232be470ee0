"""A run's folder, and what it holds beside the checkpoints.

WORKDIR/config.json    the config of the run; whose folder this is
WORKDIR/lock           held while the run trains
"""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any, NamedTuple

from absl import logging
import ml_collections

from slot_attention import parallel, tasks, validation
from slot_attention.training import checkpoints

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
  "steps_per_dispatch",
  "num_cpu_devices",
  "data.data_dir",
  "model.decoder.remat_chunk_size",
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


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Makes the folder of a run, or checks that an existing one is this run's.

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
  """Writes the config of a run; from now on the folder belongs to it.

  Raises:
    ValueError: if other processes do not see what the first one wrote.
  """
  path = workdir / "config.json"
  if parallel.is_first_process():
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    os.replace(partial, path)
  parallel.any_process(False)  # Waits for the first one.
  patience = 60  # Seconds in which a network disk shows what is new.
  while not path.exists() and patience:
    time.sleep(1)
    patience -= 1
  if parallel.any_process(not patience):
    raise ValueError(
      f"the processes do not share the workdir {workdir}: choose a folder on a"
      " disk that all of them see"
    )


def load_config(workdir: Path | str) -> ml_collections.ConfigDict:
  """The config of a run, checked whole.

  Raises:
    ValueError: if there is no run in this folder, or its config is damaged or
      cannot be used.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"there is no run in {workdir}: {path.name} is missing")
  try:
    fields = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error
  try:
    return validation.checked(ml_collections.ConfigDict(_tuples(fields)))
  except ValueError as error:
    raise ValueError(f"{path} cannot be used: {error}") from error


def load(workdir: Path | str) -> Run:
  """Loads the newest checkpoint of a run, without its optimiser.

  Raises:
    ValueError: if there is no run or no checkpoint in that folder, or all are
      damaged.
  """
  config = load_config(workdir)
  restored = checkpoints.restore_newest(workdir)
  if restored is None:
    raise ValueError(f"the run in {workdir} has no checkpoint yet")
  step, items = restored
  return Run(config, tasks.make_task(config), items["params"], step)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Keeps other runs from writing into the folder of this one.

  Raises:
    ValueError: if another run does.
  """
  with (workdir / "lock").open("w") as file:
    taken = False
    if parallel.is_first_process():
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        taken = True
      except OSError as error:  # Some network disks have no locks.
        logging.info("%s cannot be locked: %s", workdir, error.strerror)
    if parallel.any_process(taken):
      raise ValueError(
        f"another process is training in {workdir}; wait for it, end it, or"
        " choose another --workdir"
      )
    yield


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
