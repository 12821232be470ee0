"""Runs that nobody trained, for tests of what is done with a run."""

from pathlib import Path

import jax

import configs
from slot_attention import tasks
from slot_attention.training import checkpoints


def make_run(workdir: Path, name: str, **model: dict) -> Path:
  """A run of the smoke config of a config, with fresh parameters, at step 3.

  Args:
    workdir: of the run; its data lies beside it.
    name: of the config.
    **model: sections of config.model, with fields to change.
  """
  config = configs.load(f"smoke:{name}")
  config.data.data_dir = str(workdir.parent / "data")
  config.model.update(model)
  task = tasks.make_task(config)
  params = task.init(jax.random.key(0), tasks.image_shape(config))
  workdir.mkdir()
  checkpoints.save_config(workdir, config)
  with checkpoints.open_checkpoints(workdir, keep=1, newest=0) as manager:
    checkpoints.save(manager, 3, params, optimizer=params)
  return workdir
