"""Measures how a training step depends on K, T, image size, batch and options.

  python -m benchmarks.costs --config=tetrominoes_object_discovery
  python -m benchmarks.costs --config=quickstart --output=results/costs

Each case changes the config in one respect. The command times the loss of a
random batch and its gradients, where the cases take turns. It also counts the
operations and asks XLA for the memory that it plans. Times are ratios to the
unchanged config. With --output=NAME, it writes NAME.json and NAME.md.
"""

from collections.abc import Sequence
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks import operations, records
from slot_attention import command, tasks
from slot_attention.data import datasets
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

_MODULE = "model.slot_attention"


def make_cases(config: ConfigDict) -> dict[str, ConfigDict]:
  """Makes a dict from the name of each case to its config."""
  slots = config.model.slot_attention.num_slots
  iterations = config.model.slot_attention.num_iterations
  cases = {
    "as it is": {},
    f"K = {2 * slots}": {f"{_MODULE}.num_slots": 2 * slots},
    "T = 1": {f"{_MODULE}.num_iterations": 1},
    f"T = {2 * iterations}": {f"{_MODULE}.num_iterations": 2 * iterations},
    f"batch of {2 * config.batch_size}": {"batch_size": 2 * config.batch_size},
    "bfloat16": {"compute_dtype": "bfloat16"},
  }
  larger = "data.preprocessing.image_size"
  if "decoder" in config.model:
    cases["remat in chunks of 8"] = {"model.decoder.remat_chunk_size": 8}
    larger = "model.decoder.broadcast_size"
  cases["about twice the pixels"] = {larger: _scale}
  return {name: changed(config, changes) for name, changes in cases.items()}


def _scale(size):
  if isinstance(size, Sequence):
    return tuple(map(_scale, size))
  return round(size * 2**0.5)


def compile_case(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
  """Compiles a step.

  Returns:
    A function without arguments that does a step, and a dict of facts about it.
  """
  gradient, _, shapes = operations.gradient_of_step(config)
  task = tasks.make_task(config)
  image_shape = task.image_shape or datasets.image_shape(config.data)
  params = task.init(jax.random.key(0), image_shape)
  batch = {
    name: jax.random.randint(jax.random.key(1), x.shape, 0, 255).astype(x.dtype)
    for name, x in shapes.items()
  }
  batch["targets"] = jax.random.uniform(
    jax.random.key(2), shapes["targets"].shape, jnp.float32
  )
  start = time.perf_counter()
  step = jax.jit(gradient).lower(params, batch).compile()
  seconds_to_compile = time.perf_counter() - start
  facts = {
    "image_size": "x".join(map(str, image_shape[:2])),
    "batch_size": config.batch_size,
    "operations": operations.count_operations(config),
    "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
    "seconds_to_compile": seconds_to_compile,
  }
  return lambda: step(params, batch), facts


def measure(
  config: ConfigDict, *, steps: int, rounds: int
) -> dict[str, dict[str, Any]]:
  """Measures all cases.

  Args:
    config: the unchanged config.
    steps: number of steps in each measurement.
    rounds: number of measurements of each case, of which the median is taken.

  Returns:
    A dict from the name of each case to the facts and the seconds of its step.
  """
  compiled = {
    name: compile_case(case) for name, case in make_cases(config).items()
  }
  seconds = {name: [] for name in compiled}
  total = (rounds + 1) * len(compiled)
  with progress_bar(total=total, desc="measuring", unit="case") as progress:
    for _ in range(rounds + 1):
      for name, (step, _) in compiled.items():
        start = time.perf_counter()
        for _ in range(steps):
          outputs = step()
        jax.block_until_ready(outputs)
        seconds[name].append((time.perf_counter() - start) / steps)
        progress.update()
  # The first round only warms up.
  return {
    name: {**facts, "seconds": float(np.median(seconds[name][1:]))}
    for name, (_, facts) in compiled.items()
  }


def to_markdown(cases: dict[str, dict[str, Any]]) -> str:
  """Formats the cases as a table, with times relative to the first case."""
  base = next(iter(cases.values()))
  lines = [
    "| case | images | batch | time | GFLOP | memory | to compile |",
    f"|{'---|' * 7}",
  ]
  for name, case in cases.items():
    cells = [
      name,
      case["image_size"],
      str(case["batch_size"]),
      f"{case['seconds'] / base['seconds']:.2f}",
      f"{case['operations'] / 1e9:.3g}",
      f"{case['temporary_bytes'] / 1e6:,.0f} MB",
      f"{case['seconds_to_compile'] / base['seconds_to_compile']:.1f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_config(arguments, "The unchanged config.")
  records.define_repetition(flags, steps=3, rounds=5)
  records.define_output(flags)
  flags.parse(arguments)
  if flags.config is None:
    raise command.UsageError("give --config")
  if "slot_attention" not in flags.config.model:
    raise command.UsageError("--config: only Slot Attention has these cases")
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  cases = measure(flags.config, steps=flags.steps, rounds=flags.rounds)
  table = to_markdown(cases)
  print(table)
  records.write(
    flags.output,
    records.describe("benchmarks.costs", ["jax"], cases=cases),
    title="What a step costs",
    remark="Times are ratios to the first row, of medians over rounds in which"
    " the cases took turns. Memory is what XLA plans for temporary arrays on"
    " this hardware.",
    table=table,
  )


if __name__ == "__main__":
  command.run(main)
