"""Times training steps beside those of PyTorch and of Keras, in one run.

  python -m benchmarks.steps
  python -m benchmarks.steps --configs=tetrominoes_object_discovery \
    --torch_python=torch_env/bin/python --output=results/steps

Every contender is a process of its own (see `benchmarks.workers`); all are
started, and then take turns. A turn begins with a dispatch that is not timed,
so that caches and memory are no longer those of the turn before. This project's
steps are fed by its input path and those of the others from batches that lie on
the device. A contender whose framework is not installed is left out. The floor
is what multiplications and additions would take at the speed of a large matrix
product, measured in the same run. Memory is the device's, or on a CPU that of
the whole process.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
from pathlib import Path
import sys
from typing import Any

from absl import app, flags
import jax
import numpy as np

from benchmarks import jax_worker, operations, workers
import configs
from slot_attention import tasks
from slot_attention.data import datasets
from slot_attention.paper.provenance import command, provenance
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

CONFIGS = flags.DEFINE_list(
  "configs",
  [
    "tetrominoes_object_discovery",
    "multi_dsprites_object_discovery",
    "clevr6_object_discovery",
    "clevr_set_prediction",
  ],
  "Names of configs.",
)
CONTENDERS = flags.DEFINE_list(
  "contenders",
  ["jax", "torch", "torch compiled", "keras"],
  "Which.",
)
TORCH_PYTHON = flags.DEFINE_string(
  "torch_python", sys.executable, "A Python that has PyTorch."
)
KERAS_PYTHON = flags.DEFINE_string(
  "keras_python", sys.executable, "A Python that has TensorFlow."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "0: the config's.")
PRECISION = flags.DEFINE_enum(
  "precision", "float32", tasks.COMPUTE_DTYPES, "Of all contenders."
)
REMAT_CHUNK_SIZE = flags.DEFINE_integer("remat_chunk_size", 0, "Of ours.")
STEPS_PER_DISPATCH = flags.DEFINE_integer("steps_per_dispatch", 1, "Of ours.")
STEPS = flags.DEFINE_integer("steps", 3, "In each measurement.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of which the median is taken.")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "Of prepared data.")
OUTPUT = flags.DEFINE_string("output", "", "Where to write .json and .md.")


def make_specification(name: str) -> dict[str, Any]:
  """What `benchmarks.workers` says of the steps of a config."""
  config = configs.load(name)
  batch_size = BATCH_SIZE.value or config.batch_size
  changes = {
    "batch_size": batch_size,
    "steps_per_dispatch": STEPS_PER_DISPATCH.value,
    "data.source": "procedural",
    "data.data_dir": DATA_DIR.value,
    # Enough for batches that differ.
    "data.num_train": 4 * batch_size,
    "data.num_eval": batch_size,
    # Of CLEVR6, half have too many objects; evaluation counts only others.
    "data.num_examples": 7 * batch_size,
  }
  if "decoder" in config.model:
    changes["model.decoder.remat_chunk_size"] = REMAT_CHUNK_SIZE.value
  config = changed(config, changes)
  return {
    "config": name,
    "changes": changes,
    "model": config.model.to_dict(),
    "image_shape": datasets.image_shape(config.data),
    "batch_size": batch_size,
    "max_objects": config.data.max_objects,
    "learning_rate": config.learning_rate,
    "max_grad_norm": config.max_grad_norm,
    "precision": PRECISION.value,
    "compile": False,
  }


def start_worker(
  contender: str, specification: Mapping[str, Any]
) -> workers.Worker | None:
  """A `workers.Worker`, or None if its framework is not installed."""
  python, module, framework = {
    "jax": (sys.executable, "benchmarks.jax_worker", "jax"),
    "torch": (TORCH_PYTHON.value, "benchmarks.torch_worker", "torch"),
    "keras": (KERAS_PYTHON.value, "benchmarks.keras_worker", "tensorflow"),
  }[contender.partition(" ")[0]]
  if not workers.has_package(python, framework):
    print(f"{contender}: left out, {python} has no {framework}")
    return None
  compiled = contender != "torch"
  return workers.Worker(python, module, {**specification, "compile": compiled})


def measure(name: str) -> dict[str, Any]:
  """Times the steps of a config, of all contenders in turns."""
  specification = make_specification(name)
  contenders = {
    contender: worker
    for contender in CONTENDERS.value
    if (worker := start_worker(contender, specification))
  }
  jobs = [(c, w) for c, worker in contenders.items() for w in worker.works]
  compiling, memory = {}, {}
  seconds = {job: [] for job in jobs}
  rounds = ROUNDS.value + 1
  with progress_bar(total=rounds * len(jobs), desc=name, unit="job") as bar:
    for i, (contender, work) in itertools.product(range(rounds), jobs):
      worker = contenders[contender]
      first = worker.measure(work, STEPS_PER_DISPATCH.value)
      if i == 0:  # It has compiled.
        compiling[contender, work] = first["seconds"]
      else:
        dispatches = -(-STEPS.value // STEPS_PER_DISPATCH.value)
        answer = worker.measure(work, dispatches * STEPS_PER_DISPATCH.value)
        seconds[contender, work].append(answer["seconds"])
        memory[contender] = answer["peak_bytes"]
      bar.update()
  for worker in contenders.values():
    worker.stop()
  config = changed(configs.load(name), specification["changes"])
  num_operations = operations.count_operations(config)
  result = {
    "batch_size": specification["batch_size"],
    "operations": num_operations,
    "contenders": {
      contender: {
        "versions": worker.versions,
        "peak_bytes": memory[contender],
        "works": {
          work: {
            "seconds": float(np.median(seconds[contender, work])),
            "seconds_of_rounds": seconds[contender, work],
            "seconds_of_first": compiling[contender, work],
          }
          for work in worker.works
        },
      }
      for contender, worker in contenders.items()
    },
  }
  if "jax" in contenders:
    product = seconds["jax", jax_worker.PRODUCT]
    peak = jax_worker.PRODUCT_OPERATIONS / min(product)
    result["peak_operations_per_second"] = peak
    result["floor_seconds"] = num_operations / peak
  return result


def to_markdown(results: Mapping[str, Any]) -> str:
  """One table for each config."""
  lines = []
  for name, result in results.items():
    batch_size = result["batch_size"]
    lines += [
      "",
      f"## {name}, batch of {batch_size}",
      "",
      f"{result['operations'] / 1e9:.4g} GFLOP a training step.",
      "",
      "| contender | work | s a step | of rounds | images/s | times as long as"
      " jax | of the floor's speed | first step, s | peak memory, GB |",
      f"|{'---|' * 9}",
    ]
    for contender, measured in result["contenders"].items():
      for work, times in measured["works"].items():
        if work == jax_worker.PRODUCT:
          continue
        rounds = times["seconds_of_rounds"]
        ours = result["contenders"].get("jax", {"works": {}})["works"]
        ratio = ours and f"{times['seconds'] / ours[work]['seconds']:.2f}"
        floor = ""
        if ours and work == "training":
          floor = f"{result['floor_seconds'] / times['seconds']:.0%}"
        cells = [
          contender,
          work,
          f"{times['seconds']:.4g}",
          f"{min(rounds):.4g} to {max(rounds):.4g}",
          f"{batch_size / times['seconds']:,.4g}",
          ratio or "",
          floor,
          f"{times['seconds_of_first']:.3g}",
          f"{measured['peak_bytes'] / 1e9:.3g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines[1:]) + "\n"


def main(arguments: Sequence[str]) -> None:
  del arguments
  jax.config.update("jax_platforms", "cpu")  # The device is for the workers.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  results = {name: measure(name) for name in CONFIGS.value}
  table = to_markdown(results)
  print(table)
  if OUTPUT.value:
    versions = {}
    for contender, measured in next(iter(results.values()))[
      "contenders"
    ].items():
      for package, version in measured["versions"].items():
        if versions.setdefault(package, version) != version:
          versions[f"{package} of {contender}"] = version
    device = versions.pop("device", "cpu")
    about = {
      "command": command("benchmarks.steps"),
      **provenance(),
      "versions": versions,
      "precision": PRECISION.value,
      "configs": results,
    }
    if device != "cpu":  # The workers are there, this process is not.
      about["hardware"] = device
    path = Path(OUTPUT.value)
    path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    listed = ", ".join(f"{key} {value}" for key, value in versions.items())
    path.with_suffix(".md").write_text(
      f"# Steps in {PRECISION.value}\n\n`{about['command']}`, {about['date']},"
      f" {about['hardware']}; {listed}. Medians over the rounds, in which the"
      f" contenders took turns.\n\n{table}"
    )


if __name__ == "__main__":
  app.run(main)
