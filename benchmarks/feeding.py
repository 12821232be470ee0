"""Times how examples come to the devices, beside what a training step needs.

  python -m benchmarks.feeding --config=configs/quickstart.py

Measures, in turns whose order is random: batches alone, gathered and sent by
the host or taken from what lies on the devices; steps alone, on a batch that is
there already; and steps that are fed. What feeding costs is the difference of
the last two. As in training, config.steps_per_dispatch of them come together.
"""

import json
from pathlib import Path
import time

from absl import app, flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np

from slot_attention import parallel, tasks
from slot_attention.data import batches, loading
from slot_attention.paper.provenance import command, provenance
from slot_attention.training import optimizers, train

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment.")
STEPS = flags.DEFINE_integer("steps", 100, "In each measurement.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of which the median is taken.")
OUTPUT = flags.DEFINE_string("output", "", "JSON file to write.")


def make_measurements(config, dispatches):
  """Functions by name that do these batches or steps, and wait for them."""
  task = tasks.make_task(config)
  data = loading.load(config.data)
  optimizer = optimizers.make_optimizer(lambda step: 1e-4, config.max_grad_norm)
  params = task.init(jax.random.key(0), data.image_shape)
  state = [
    parallel.replicate(
      train.TrainState(jnp.int32(0), params, optimizer.init(params))
    )
  ]
  train_step = train.make_train_step(task, optimizer, jax.random.key(1))
  feeders = {
    placement: batches.Feeder(data.splits["train"], placement)
    for placement in batches.PLACEMENTS
  }

  def feed(placement):
    return feeders[placement].train_batches(
      dispatches, batch_size=config.batch_size, seed=0
    )

  def only_batches(placement):
    for batch in feed(placement):
      jax.block_until_ready(batch)

  def steps(fed):
    for batch in fed:
      state[0], loss = train_step(state[0], batch)
    jax.block_until_ready(loss)

  resident = next(feed("device"))
  return {
    "batches from the host": lambda: only_batches("host"),
    "batches from the devices": lambda: only_batches("device"),
    "steps alone": lambda: steps([resident] * len(dispatches)),
    "steps fed by the host": lambda: steps(feed("host")),
    "steps fed from the devices": lambda: steps(feed("device")),
  }


def main(_):
  config = CONFIG.value
  jax.config.update("jax_num_cpu_devices", config.num_cpu_devices)
  dispatches = range(0, STEPS.value, config.steps_per_dispatch)
  num_steps = len(dispatches) * config.steps_per_dispatch
  measurements = make_measurements(config, dispatches)
  seconds = {name: [] for name in measurements}
  order = np.random.default_rng(0)  # What comes before may have its effect.
  for _ in range(ROUNDS.value + 1):
    for name in order.permutation(list(measurements)):
      start = time.perf_counter()
      measurements[name]()
      seconds[name].append((time.perf_counter() - start) / num_steps)
  # The first round compiled.
  medians = {name: float(np.median(x[1:])) for name, x in seconds.items()}
  alone = medians["steps alone"]
  for name, median in medians.items():
    print(
      f"{name:<27}{config.batch_size / median:12,.0f} examples/s,"
      f" {median / alone:7.3f} of a step"
    )
  if OUTPUT.value:
    result = {
      "command": command("benchmarks.feeding"),
      **provenance(["jax"]),
      "num_devices": parallel.num_devices(),
      "batch_size": config.batch_size,
      "seconds_per_batch": medians,
    }
    Path(OUTPUT.value).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
