r"""Compares the training steps of this project with those in PyTorch and Keras.

  python -m benchmarks.steps
  python -m benchmarks.steps --configs=tetrominoes_object_discovery \
    --torch_python=torch_env/bin/python --output=results/steps

Each contender runs in its own process. All processes are started first, and
then the contenders take turns. A turn starts with a dispatch that is not timed,
so that caches and memory do not depend on the turn before. A contender whose
framework is not installed is left out.

The steps of this project include its input pipeline. Those of the others use
batches that are already on the device. The floor is the time that all
multiplications and additions of a step would take at the speed of a large
matrix product, which is measured in the same run. Memory is that of the device;
on a CPU, it is that of the whole process.

With --output=NAME, the command writes NAME.json and NAME.md.
"""

from collections.abc import Mapping, Sequence
import itertools
import os
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import jax_worker, operations, records, workers
import configs
from slot_attention import command, start, tasks, validation
from slot_attention.data import datasets
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

_CONFIGS = (
  "tetrominoes_object_discovery",
  "multi_dsprites_object_discovery",
  "clevr6_object_discovery",
  "clevr_set_prediction",
)
# The flags with which XLA calls oneDNN on x86 CPUs.
_ONEDNN = " ".join(
  (
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_use_onednn=false",
    "--xla_cpu_experimental_ynn_fusion_type=",
    "--xla_cpu_use_xnnpack=false",
  )
)
_SMALL_PAGES = dict.fromkeys(start.HUGE_PAGES_ENVIRONMENT, "")
# Of each contender: environment variables. The commands of this project take
# huge pages by themselves.
_CONTENDERS = {
  "jax": start.HUGE_PAGES_ENVIRONMENT,
  "jax small pages": _SMALL_PAGES,
  "jax onednn": {"XLA_FLAGS": _ONEDNN, **start.HUGE_PAGES_ENVIRONMENT},
  "torch": _SMALL_PAGES,
  "torch huge pages": start.HUGE_PAGES_ENVIRONMENT,
  "torch compiled": _SMALL_PAGES,
  "torch compiled huge pages": start.HUGE_PAGES_ENVIRONMENT,
  "keras": _SMALL_PAGES,
  "keras huge pages": start.HUGE_PAGES_ENVIRONMENT,
}
_DEFAULT_CONTENDERS = ("jax", "torch", "torch compiled", "keras")


def make_specification(
  name: str,
  *,
  batch_size: int,
  steps_per_dispatch: int,
  precision: str,
  data_dir: str,
  remat_chunk_size: int = 0,
) -> dict[str, Any]:
  """Makes the specification of `benchmarks.workers` for a config.

  A batch size of 0 is that of the config.
  """
  config = configs.load(name)
  batch_size = batch_size or config.batch_size
  changes = {
    "batch_size": batch_size,
    "steps_per_dispatch": steps_per_dispatch,
    "data.source": "procedural",
    "data.data_dir": data_dir,
    # Four different batches are enough.
    "data.num_train": 4 * batch_size,
    "data.num_eval": batch_size,
    # Half of the CLEVR scenes have too many objects for CLEVR6.
    "data.num_examples": 7 * batch_size,
  }
  if "decoder" in config.model:
    changes["model.decoder.remat_chunk_size"] = remat_chunk_size
  config = changed(config, changes)
  return {
    "config": name,
    "changes": changes,
    "model": config.model.to_dict(),
    "image_shape": datasets.image_shape(config.data),
    "batch_size": batch_size,
    "max_objects": config.data.max_objects,
    "optimizer": config.get("optimizer", validation.DEFAULTS["optimizer"]),
    "learning_rate": config.learning_rate,
    "max_grad_norm": config.max_grad_norm,
    "precision": precision,
    "compile": False,
  }


def start_worker(
  contender: str, specification: Mapping[str, Any], flags: command.Flags
) -> workers.Worker | None:
  """Starts a contender; returns None if its framework is not installed."""
  python, module, framework = {
    "jax": (None, "benchmarks.jax_worker", "jax"),
    "torch": (flags.torch_python, "benchmarks.torch_worker", "torch"),
    "keras": (flags.keras_python, "benchmarks.keras_worker", "tensorflow"),
  }[contender.partition(" ")[0]]
  python = python or sys.executable
  if not workers.has_package(python, framework):
    print(f"{contender} is left out: {python} has no {framework}")
    return None
  compiled = contender not in ("torch", "torch huge pages")
  return workers.Worker(
    python,
    module,
    {**specification, "compile": compiled},
    _CONTENDERS[contender],
  )


def measure(name: str, flags: command.Flags) -> dict[str, Any]:
  """Times the steps of a config by all contenders."""
  specification = make_specification(
    name,
    batch_size=flags.batch_size,
    steps_per_dispatch=flags.steps_per_dispatch,
    precision=flags.precision,
    data_dir=flags.data_dir,
    remat_chunk_size=flags.remat_chunk_size,
  )
  contenders = {
    contender: worker
    for contender in flags.contenders.split(",")
    if (worker := start_worker(contender, specification, flags))
  }
  jobs = [(c, w) for c, worker in contenders.items() for w in worker.works]
  compiling, memory = {}, {}
  seconds = {job: [] for job in jobs}
  rounds = flags.rounds + 1
  with progress_bar(total=rounds * len(jobs), desc=name, unit="job") as bar:
    for i, (contender, work) in itertools.product(range(rounds), jobs):
      worker = contenders[contender]
      first = worker.measure(work, flags.steps_per_dispatch)
      if i == 0:  # The first round compiles.
        seconds_of_call = first["seconds"] * flags.steps_per_dispatch
        compiling[contender, work] = seconds_of_call
      else:
        dispatches = -(-flags.steps // flags.steps_per_dispatch)
        answer = worker.measure(work, dispatches * flags.steps_per_dispatch)
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
  """Formats the results as one table for each config."""
  lines = []
  for name, result in results.items():
    batch_size = result["batch_size"]
    lines += [
      "",
      f"## {name}, batch of {batch_size}",
      "",
      f"A training step has {result['operations'] / 1e9:.4g} GFLOP.",
      "",
      "| contender | work | s a step | of rounds | images/s | times as long as"
      " jax | of the floor's speed | first call, s | peak memory, GB |",
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


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "configs", ",".join(_CONFIGS), "Names of configs, with commas."
  )
  flags.define_string(
    "contenders",
    ",".join(_DEFAULT_CONTENDERS),
    "Names of contenders, with commas. jax is this project. jax small pages is"
    " the same without the huge pages that its commands use on Linux. jax"
    " onednn has flags by which XLA calls oneDNN on x86 CPUs. jax and keras"
    " compile the whole step, torch compiled compiles the forward and backward"
    f" pass, and torch compiles nothing. Names: {', '.join(_CONTENDERS)}.",
  )
  flags.define_string(
    "torch_python",
    None,
    "Python interpreter that has PyTorch. Default: this one.",
  )
  flags.define_string(
    "keras_python",
    None,
    "Python interpreter that has TensorFlow. Default: this one.",
  )
  flags.define_integer(
    "batch_size",
    0,
    "Batch size of all contenders; 0 takes that of the config.",
    minimum=0,
  )
  flags.define_choice(
    "precision",
    "float32",
    tasks.COMPUTE_DTYPES,
    "Precision of all contenders.",
  )
  flags.define_integer(
    "remat_chunk_size",
    0,
    "model.decoder.remat_chunk_size of this project.",
    minimum=0,
  )
  flags.define_integer(
    "steps_per_dispatch", 1, "steps_per_dispatch of this project.", minimum=1
  )
  records.define_repetition(flags, steps=3, rounds=5)
  records.define_data_dir(flags)
  records.define_output(flags)
  flags.parse(arguments)
  for contender in flags.contenders.split(","):
    if contender not in _CONTENDERS:
      raise command.UsageError(
        f"--contenders: {contender} is not one of {', '.join(_CONTENDERS)}"
      )
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  jax.config.update("jax_platforms", "cpu")  # The device is for the workers.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  results = {name: measure(name, flags) for name in flags.configs.split(",")}
  table = to_markdown(results)
  print(table)
  versions = {}
  contenders = next(iter(results.values()))["contenders"]
  for contender, measured in contenders.items():
    for package, version in measured["versions"].items():
      if versions.setdefault(package, version) != version:
        versions[f"{package} of {contender}"] = version
  device = versions.pop("device", "cpu")
  record = records.describe(
    "benchmarks.steps",
    versions=versions,
    precision=flags.precision,
    configs=results,
  )
  if device != "cpu":  # This process is on the CPU, the workers are not.
    record["hardware"] = device
  records.write(
    flags.output,
    record,
    title=f"Steps in {flags.precision}",
    remark="Medians over the rounds, in which the contenders took turns.",
    table=table,
  )


if __name__ == "__main__":
  command.run(main)
