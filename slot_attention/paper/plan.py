"""Lists what a table or figure has to train, and how long that takes."""

from collections.abc import Sequence
from pathlib import Path
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from slot_attention import parallel, tasks
from slot_attention.data import clevr, datasets
from slot_attention.paper.experiments import EXPERIMENTS
from slot_attention.paper.rows import Job, files_of, find_trained, jobs_of
from slot_attention.training import optimizers, train

# Number of examples in a measured step, on each device.
_NUM_EXAMPLES = 4
# The fields of a config on which the time of a step depends.
_DECISIVE = (
  "batch_size", "model", "loss", "data", "compute_dtype", "optimizer"
)  # fmt: skip


def missing_jobs(
  name: str,
  scale: str,
  seeds: Sequence[int],
  runs: Path,
  kept: Path | None = None,
  only_rows: str = "",
) -> list[Job]:
  """Returns the jobs of an experiment that need training, without repeats.

  Args:
    name: of the table or figure.
    scale: scale of the runs.
    seeds: seeds of each row.
    runs: see `rows.find_trained`.
    kept: see `rows.find_trained`.
    only_rows: leaves out rows whose labels do not contain this text.
  """
  experiment = EXPERIMENTS[name]
  missing = {
    job.directory: job
    for job in jobs_of(experiment, scale, seeds)
    if only_rows in job.row.label
    and not find_trained(job, files_of(name, experiment, job.row), runs, kept)
  }
  return list(missing.values())


def describe(jobs: Sequence[Job]) -> str:
  """Measures a step of each config and describes how long the jobs take.

  The estimate leaves out evaluations, and it counts a job that was interrupted
  as if it started anew.
  """
  seconds = {}  # Seconds of a step, by the fields on which they depend.
  lines, total = [], 0.0
  for job in jobs:
    fields = str([job.config[name] for name in _DECISIVE])
    if fields not in seconds:
      seconds[fields] = seconds_per_step(job.config)
    hours = seconds[fields] * job.config.num_steps / 3600
    total += hours
    lines.append(
      f"  {job.directory}: {job.config.num_steps:,} steps of"
      f" {job.config.batch_size}, about {hours:,.1f} hours"
    )
  device = jax.local_devices()[0].device_kind
  return "\n".join(
    [
      f"{len(jobs)} runs are missing. On this machine ({parallel.num_devices()}"
      f" device(s) of kind {device}) they take about {total:,.0f} hours:",
      *lines,
    ]
  )


def seconds_per_step(config: ConfigDict) -> float:
  """Measures a training step on noise.

  The step has few examples, and its time is scaled to the batch size. If a
  device computes many examples in parallel, the result is too pessimistic.
  """
  task = tasks.make_task(config)
  shape = datasets.image_shape(config.data)
  batch_size = _NUM_EXAMPLES * parallel.num_devices()
  rng = np.random.default_rng(0)
  batch = {
    "images": rng.integers(0, 256, (batch_size, 1, *shape), dtype=np.uint8),
    "example_ids": np.arange(batch_size, dtype=np.int32)[:, None],
  }
  if task.num_outputs:
    targets = (batch_size, 1, config.data.max_objects, clevr.TARGET_SIZE)
    batch["targets"] = rng.random(targets, np.float32)
  batch = parallel.shard(batch)
  optimizer, _ = optimizers.from_config(config)
  params = task.init(jax.random.key(0), shape)
  state = train.TrainState(jnp.int32(0), params, optimizer.init(params))
  state = parallel.replicate(state)
  step = train.make_train_step(task, optimizer, jax.random.key(1))
  times = []
  for _ in range(3):  # The first one compiles.
    start = time.monotonic()
    state, loss = step(state, batch)
    jax.block_until_ready((state, loss))
    times.append(time.monotonic() - start)
  return min(times[1:]) * config.batch_size / batch_size
