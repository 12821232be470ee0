"""Compares what training Slot Attention and its rivals costs.

  python -m benchmarks.rivals
  python -m benchmarks.rivals --discovery_batch_size=8 --sets_batch_size=16 \
    --output=results/rivals_cpu

The paper says (Section 4.1) that Slot Attention needs less memory and time than
IODINE. The command trains Slot Attention, IODINE and MONet on one data set of
object discovery, and Slot Attention, the Slot MLP and DSPN on one of set
prediction. All models of a kind have the same batch size. Every model has a
process of its own, and the models of a kind take turns. A turn starts with a
step that is not timed; in the first turn, this step compiles. Memory is the
largest that the device has used. On a CPU it is that of the whole process, with
the libraries and the data.

Absolute numbers hold on accelerators only: on a CPU, the table has ratios to
Slot Attention. With --output=NAME, the command writes NAME.json and NAME.md.
"""

from collections.abc import Mapping, Sequence
import itertools
import os
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import operations, records, steps, workers
import configs
from slot_attention import command, tasks
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

# By kind of task: what a config has in front of the name, for each model.
MODELS = {
  "discovery": {"Slot Attention": "", "IODINE": "iodine:", "MONet": "monet:"},
  "sets": {"Slot Attention": "", "Slot MLP": "slot_mlp:", "DSPN": "dspn:"},
}
_BASE = "Slot Attention"
# What is divided by that of Slot Attention on a CPU.
_MEASURED = ("seconds", "images_per_second", "peak_bytes", "seconds_to_compile")


def config_name(prefix: str, name: str) -> str:
  """Puts a prefix in front of a config, but behind its "smoke:"."""
  plain = name.removeprefix("smoke:")
  return f"{name.removesuffix(plain)}{prefix}{plain}"


def measure(
  kind: str, name: str, batch_size: int, flags: command.Flags
) -> dict[str, dict[str, Any]]:
  """Measures the models of a kind in turns.

  Args:
    kind: key of `MODELS`.
    name: name of the config of Slot Attention.
    batch_size: of all models; 0 takes that of the config.
    flags: of the command.

  Returns:
    A dict from the name of each model to its config, batch size, numbers of
    parameters and operations, versions, and measurements.
  """
  batch_size = batch_size or configs.load(name).batch_size
  specifications = {
    model: steps.make_specification(
      config_name(prefix, name),
      batch_size=batch_size,
      steps_per_dispatch=1,
      precision="float32",  # The rivals have no other.
      data_dir=flags.data_dir,
    )
    for model, prefix in MODELS[kind].items()
  }
  started = {
    model: workers.Worker(sys.executable, "benchmarks.jax_worker", x)
    for model, x in specifications.items()
  }
  seconds = {model: [] for model in started}
  first_step, memory = {}, {}
  rounds = flags.rounds + 1
  with progress_bar(total=rounds * len(started), desc=kind, unit="turn") as bar:
    for i, (model, worker) in itertools.product(range(rounds), started.items()):
      first = worker.measure("training", 1)
      answer = worker.measure("training", flags.steps)
      if i == 0:  # The first step of all compiles; the round warms up.
        first_step[model] = first["seconds"]
      else:
        seconds[model].append(answer["seconds"])
      memory[model] = answer["peak_bytes"]
      bar.update()
  for worker in started.values():
    worker.stop()
  return {
    model: {
      "config": specifications[model]["config"],
      "batch_size": batch_size,
      **_size(specifications[model]),
      "versions": worker.versions,
      "seconds": float(np.median(seconds[model])),
      "seconds_of_rounds": seconds[model],
      "images_per_second": batch_size / float(np.median(seconds[model])),
      "peak_bytes": memory[model],
      "seconds_to_compile": first_step[model]
      - float(np.median(seconds[model])),
    }
    for model, worker in started.items()
  }


def _size(specification):
  """Counts parameters, and operations of a training step."""
  config = configs.load(specification["config"])
  config = changed(config, specification["changes"])
  task = tasks.make_task(config)
  params = jax.eval_shape(
    lambda key: task.init(key, specification["image_shape"]), jax.random.key(0)
  )
  return {
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "operations": operations.count_operations(config),
  }


def to_markdown(results: Mapping[str, Any], device: str) -> str:
  """Formats the results as one table for each kind.

  Args:
    results: from kind to what `measure` returns.
    device: "cpu" for ratios to Slot Attention.
  """
  lines = []
  for models in results.values():
    base = models[_BASE]
    batch = f"batch of {base['batch_size']}"
    names = ["s a step", "images/s", "peak memory, GB", "to compile, s"]
    scales = (1, 1, 1e9, 1)
    if device == "cpu":
      names = ["time of a step", "images/s", "peak memory", "time to compile"]
      scales = [base[key] for key in _MEASURED]
    columns = [batch, "config", "parameters, M", "GFLOP a step", *names]
    lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for model, measured in models.items():
      cells = [
        model,
        f"`{measured['config']}`",
        f"{measured['parameters'] / 1e6:.3g}",
        f"{measured['operations'] / 1e9:.3g}",
        *(f"{measured[key] / x:.3g}" for key, x in zip(_MEASURED, scales)),
      ]
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines[1:]) + "\n"


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "discovery",
    "multi_dsprites_object_discovery",
    "Config of object discovery that IODINE and MONet have, too.",
  )
  flags.define_string(
    "sets",
    "clevr_set_prediction",
    "Config of set prediction that the Slot MLP and DSPN have, too.",
  )
  for kind in MODELS:
    flags.define_integer(
      f"{kind}_batch_size",
      0,
      f"Batch size of the models of --{kind}; 0 takes that of Slot Attention.",
      minimum=0,
    )
  records.define_repetition(flags, steps=3, rounds=5)
  records.define_data_dir(flags)
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  jax.config.update("jax_platforms", "cpu")  # The device is for the workers.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  results = {
    "discovery": measure(
      "discovery", flags.discovery, flags.discovery_batch_size, flags
    ),
    "sets": measure("sets", flags.sets, flags.sets_batch_size, flags),
  }
  versions = results["sets"][_BASE]["versions"]
  device = versions.pop("device")
  table = to_markdown(results, device)
  print(table)
  record = records.describe(
    "benchmarks.rivals", versions=versions, results=results
  )
  what = "ratios to Slot Attention"
  if device != "cpu":  # This process is on the CPU, the workers are not.
    record["hardware"] = device
    what = "numbers"
  records.write(
    flags.output,
    record,
    title="What training the rivals costs",
    remark="Medians over the rounds, in which the models of a table took turns."
    f" The last four columns are {what}.",
    table=table,
  )


if __name__ == "__main__":
  command.run(main)
