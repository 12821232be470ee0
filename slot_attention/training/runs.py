"""The folder of a run, with its config and its lock.

WORKDIR/config.json    the config of the run to which the folder belongs
WORKDIR/data.json      what the run was trained on
WORKDIR/lock           locked while the run trains
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
from pathlib import Path
import tempfile
import time
from typing import Any, NamedTuple

from absl import logging
import filelock
from flax import traverse_util
import ml_collections

from slot_attention import files, parallel, tasks, validation
from slot_attention.data import datasets
from slot_attention.training import checkpoints

# The file in the folder of a run that says on which data it is trained.
_DATA = "data.json"

# Fields that may change when a run continues. num_steps and max_minutes decide
# where it ends; the others change its results at most by rounding.
FREE_FIELDS = (
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
  "model.invariant_decoder.remat_chunk_size",
)


class Run(NamedTuple):
  """A run loaded from its folder.

  Attributes:
    config: the config of the run.
    task: the task of the config. `task.apply(params, batch, key)` applies its
      model.
    params: parameters of the model.
    step: number of finished updates.
  """

  config: ml_collections.ConfigDict
  task: tasks.Task
  params: Any
  step: int


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Makes the folder of a run, or checks that it belongs to this run.

  A folder without a checkpoint belongs to nobody yet: after a divergence, for
  example, another learning rate can be tried there.

  Args:
    workdir: folder of the run.
    config: config of the run.

  Raises:
    ValueError: if the folder belongs to a run with another config, or lies
      in that of the training images.
    OSError: if the folder cannot be written.
  """
  datasets.check_outside(config.data, "--workdir", str(workdir))
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise type(error)(
      f"the workdir {workdir} cannot be written ({error.strerror}); choose"
      " another with --workdir"
    ) from error

  has_config = (workdir / "config.json").exists()
  if has_config and checkpoints.has_any(workdir):
    differences = _differences(load_config(workdir), config)
    changed = {
      name: values
      for name, values in differences.items()
      # Processes may find the original in different places.
      if name not in (*FREE_FIELDS, "data.path")
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
  """Writes the config of a run. From then on, the folder belongs to the run.

  Raises:
    ValueError: if the processes do not share the folder.
  """
  path = workdir / "config.json"
  if parallel.is_first_process():
    files.write_json(path, config.to_dict())
  parallel.wait_for_all()
  patience = 60  # Seconds until a network disk shows the new file.
  while not path.exists() and patience:
    time.sleep(1)
    patience -= 1
  if parallel.any_process(not patience):
    raise ValueError(
      f"the processes do not share the workdir {workdir}: choose a folder on a"
      " disk that all of them use"
    )


def save_data(workdir: Path, description: Mapping[str, Any]) -> None:
  """Writes which data a run is trained on, see `loading.Data`.

  It warns if the run has been trained on other data before.
  """
  if checkpoints.has_any(workdir):
    if differ := changed_data(workdir, description):
      logging.warning(
        "The data has changed since the earlier steps of %s (%s): the run goes"
        " on with other examples.",
        workdir,
        ", ".join(differ),
      )
  if parallel.is_first_process():
    files.write_json(workdir / _DATA, _comparable(description))


def changed_data(workdir: Path, description: Mapping[str, Any]) -> list[str]:
  """Returns what differs from the data on which a run was trained.

  Args:
    workdir: folder of the run.
    description: of the data, see `loading.Data`.

  Returns:
    Names of `description`. There are none if the folder does not say on which
    data the run was trained.
  """
  path = workdir / _DATA
  if not path.exists():
    return []
  before, now = files.read_json(path), _comparable(description)
  if "procedural" in before and before["name"] == now["name"]:
    # An option that the run did not have yet has its default, which draws
    # the same examples.
    options = datasets.DATA_SETS[now["name"]].with_defaults(
      before["procedural"]
    )
    before["procedural"] = json.loads(json.dumps(options))
  return sorted(x for x in now if before.get(x) != now[x])


def _comparable(description):
  """Returns a description as in JSON, without the path of an original.

  The path does not tell what is in it.
  """
  now = {name: x for name, x in description.items() if name != "path"}
  return json.loads(json.dumps(now))


def load_config(workdir: Path | str) -> ml_collections.ConfigDict:
  """Loads and checks the config of a run.

  Raises:
    ValueError: if there is no run in this folder, or if its config is damaged
      or invalid.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"there is no run in {workdir}: {path.name} is missing")
  fields = files.read_json(path)
  try:
    return validation.checked(ml_collections.ConfigDict(_tuples(fields)))
  except ValueError as error:
    raise ValueError(f"{path} cannot be used: {error}") from error


def load(workdir: Path | str) -> Run:
  """Loads the newest checkpoint of a run, without its optimiser.

  Raises:
    ValueError: if there is no run or no checkpoint in this folder, if all
      checkpoints are damaged, or if the newest one does not fit the config.
  """
  config = load_config(workdir)
  restored = checkpoints.restore_newest(workdir)
  if restored is None:
    raise ValueError(f"the run in {workdir} has no checkpoint yet")
  step, items = restored
  task = tasks.make_task(config)
  image_shape = datasets.image_shape(config.data)
  checkpoints.check_fit(items["params"], task, image_shape)
  return Run(config, task, items["params"], step)


def changed_fields(
  workdir: Path, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns the fields in which a config differs from that of a run.

  The fields of `FREE_FIELDS` are left out.

  Args:
    workdir: folder of the run.
    config: the other config.

  Returns:
    A dict from the dotted names of the fields to their values in `config`.
  """
  differences = _differences(load_config(workdir), config)
  return {
    name: value
    for name, (_, value) in sorted(differences.items())
    if name not in FREE_FIELDS
  }


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Locks the folder of a run, so that no other process trains there.

  Raises:
    ValueError: if another process has locked it.
  """
  lock_file = filelock.FileLock(workdir / "lock", fallback_to_soft=False)
  taken = False
  if parallel.is_first_process():
    try:
      lock_file.acquire(blocking=False)
    except filelock.Timeout:
      taken = True
    except OSError as error:  # Some network disks have no locks.
      logging.info("%s cannot be locked: %s", workdir, error.strerror)
  try:
    if parallel.any_process(taken):
      raise ValueError(
        f"another process is training in {workdir}; wait for it, end it, or"
        " choose another --workdir"
      )
    yield
  finally:
    lock_file.release()


def _tuples(value):
  """Converts lists to tuples: JSON has no tuples, and configs no lists."""
  if isinstance(value, dict):
    return {name: _tuples(child) for name, child in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _differences(there, here):
  """Returns a dict from dotted name to both values where two configs differ.

  The value of a missing field is None.
  """
  there, here = (
    traverse_util.flatten_dict(config.to_dict(), sep=".")
    for config in (there, here)
  )
  return {
    name: (there.get(name), here.get(name))
    for name in {**there, **here}
    if there.get(name) != here.get(name)
  }
