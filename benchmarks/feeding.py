"""Measures what it costs to bring the batches to the devices in training.

  python -m benchmarks.feeding --config=quickstart
  python -m benchmarks.feeding --config=quickstart --output=results/feeding

The command times
  - batches alone, which the host gathers and sends, or which are gathered on
    the devices (data_placement);
  - training steps alone, on a batch that is already on the devices;
  - training steps that are fed in either way.
The cost of feeding is the difference between the last two. The measurements
take turns in random order. As in training, one dispatch has
config.steps_per_dispatch steps. With --output=NAME, it writes NAME.json.
"""

from collections.abc import Sequence
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import records
from slot_attention import command, parallel, tasks
from slot_attention.data import batches, loading
from slot_attention.training import optimizers, train


def make_measurements(config, dispatches):
  """Returns a dict from name to a function that does what is measured.

  Each function waits until the devices are done.
  """
  task = tasks.make_task(config)
  data = loading.load(config.data)
  optimizer, _ = optimizers.from_config(config)
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


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_config(arguments, "The experiment.")
  records.define_repetition(flags, steps=100, rounds=5)
  records.define_output(flags)
  flags.parse(arguments)
  if flags.config is None:
    raise command.UsageError("give --config")
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  config = flags.config
  jax.config.update("jax_num_cpu_devices", config.num_cpu_devices)
  dispatches = range(0, flags.steps, config.steps_per_dispatch)
  num_steps = len(dispatches) * config.steps_per_dispatch
  measurements = make_measurements(config, dispatches)
  seconds = {name: [] for name in measurements}
  # A measurement may depend on the one before, so their order is random.
  order = np.random.default_rng(0)
  for _ in range(flags.rounds + 1):
    for name in order.permutation(list(measurements)):
      start = time.perf_counter()
      measurements[name]()
      seconds[name].append((time.perf_counter() - start) / num_steps)
  # The first round compiles.
  medians = {name: float(np.median(x[1:])) for name, x in seconds.items()}
  alone = medians["steps alone"]
  for name, median in medians.items():
    print(
      f"{name:<27}{config.batch_size / median:12,.0f} examples/s,"
      f" {median / alone:7.3f} of a step"
    )
  record = records.describe(
    "benchmarks.feeding",
    ["jax"],
    num_devices=parallel.num_devices(),
    batch_size=config.batch_size,
    seconds_per_batch=medians,
  )
  records.write(flags.output, record)


if __name__ == "__main__":
  command.run(main)
