"""What a training step costs, against K, T, image size, batch and options.

  python -m benchmarks.costs --config=configs/tetrominoes_object_discovery.py

Times the loss of a random batch with its gradients, all cases in turns; counts
their operations; and asks XLA for the memory that it plans. Ratios are to the
config as it is.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, config_flags
import numpy as np

from benchmarks import operations
from slot_attention import tasks
from slot_attention.data import datasets
from slot_attention.paper.provenance import command, provenance
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment.")
STEPS = flags.DEFINE_integer("steps", 3, "In each measurement.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of which the median is taken.")
OUTPUT = flags.DEFINE_string("output", "", "Where to write .json and .md.")

_MODULE = "model.slot_attention"


def make_cases(config: ConfigDict) -> dict[str, ConfigDict]:
  """The config and what is near it, by name."""
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
  """A function without arguments that does a step, and what XLA knows of it."""
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
  facts = {
    "image_size": "x".join(map(str, image_shape[:2])),
    "batch_size": config.batch_size,
    "operations": operations.count_operations(config),
    "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
    "seconds_to_compile": time.perf_counter() - start,
  }
  return lambda: step(params, batch), facts


def measure(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Facts and seconds of a step, by case."""
  compiled = {
    name: compile_case(case) for name, case in make_cases(config).items()
  }
  seconds = {name: [] for name in compiled}
  total = (ROUNDS.value + 1) * len(compiled)
  with progress_bar(total=total, desc="measuring", unit="case") as progress:
    for _ in range(ROUNDS.value + 1):
      for name, (step, _) in compiled.items():
        start = time.perf_counter()
        for _ in range(STEPS.value):
          outputs = step()
        jax.block_until_ready(outputs)
        seconds[name].append((time.perf_counter() - start) / STEPS.value)
        progress.update()
  # The first round warmed up.
  return {
    name: {**facts, "seconds": float(np.median(seconds[name][1:]))}
    for name, (_, facts) in compiled.items()
  }


def to_markdown(cases: dict[str, dict[str, Any]]) -> str:
  """The cases as a table, relative to the first."""
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


def main(_):
  config = CONFIG.value
  cases = measure(config)
  table = to_markdown(cases)
  print(table)
  if not OUTPUT.value:
    return
  about = {
    "command": command("benchmarks.costs"),
    **provenance(["jax"]),
    "cases": cases,
  }
  path = Path(OUTPUT.value)
  path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
  versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
  path.with_suffix(".md").write_text(
    f"# What a step costs\n\n`{about['command']}`, {about['date']},"
    f" {about['hardware']}, {versions}. Times are ratios to the first row, of"
    " medians over rounds in which the cases took turns; memory is what XLA"
    f" plans for temporary arrays on this hardware.\n\n{table}"
  )


if __name__ == "__main__":
  app.run(main)
