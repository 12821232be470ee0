"""Measures the share of each part of a model in the time of a step on a CPU.

  python -m benchmarks.profile --name=tetrominoes_object_discovery
  python -m benchmarks.profile --name=clevr6_object_discovery \
    --batch_size=4 --output=results/profile_clevr6

XLA's profiler records when each instruction begins and ends. The name of an
instruction in the program says to which part of the model it belongs. The table
has the share of each part of a training step, forward and backward, and of an
inference. Instructions may run at the same time, so these are shares of their
sum. With --output=NAME, the command writes NAME.json and NAME.md.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import gzip
import json
import os
from pathlib import Path
import re
import tempfile
from typing import Any

import jax

from benchmarks import jax_worker, records, steps, workers
from slot_attention import command

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = .*op_name=\"([^\"]*)\"")
# The path behind the class of the model, without names of private methods.
_PATH = re.compile(r"[/(][A-Z]\w*\)*/(.+)")
_PRIVATE = re.compile(r"[^/]*\._[^/]*/")
# Their events contain those of the instructions inside.
_CONTAINERS = ("while", "call", "conditional")
_OTHERS = "loss, optimiser and all else"


def part_of(op_name: str) -> tuple[str, str]:
  """Returns the part of the model and the direction of an instruction.

  Args:
    op_name: where JAX made it, such as "jit(f)/transpose(jvp(ObjectDiscovery))/
      decoder/conv_1/add".
  """
  direction = "backward" if "transpose(" in op_name else "forward"
  found = _PATH.search(_PRIVATE.sub("", op_name))
  names = found[1].split("/") if found else []
  if len(names) < 2:
    return _OTHERS, direction
  part = "/".join(names[:2]) if names[1].startswith("conv_") else names[0]
  return part, direction


def read_program(lines: Iterable[str]) -> dict[str, str]:
  """Returns the op_name of each instruction of a program in HLO's text."""
  return {
    found[1]: found[2] for line in lines if (found := _INSTRUCTION.match(line))
  }


def sum_up(
  events: Iterable[Mapping[str, Any]], program: Mapping[str, str]
) -> dict[str, dict[str, float]]:
  """Returns the share of each part and direction, largest parts first."""
  sums = collections.defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
  for event in events:
    name = event.get("name", "")
    if event.get("ph") != "X" or name.startswith(_CONTAINERS):
      continue
    if name in program:
      part, direction = part_of(program[name])
      sums[part][direction] += event["dur"]
  total = sum(sum(of_part.values()) for of_part in sums.values())
  ordered = sorted(sums, key=lambda part: -sum(sums[part].values()))
  return {
    part: {direction: x / total for direction, x in sums[part].items()}
    for part in ordered
  }


def profile(work: workers.Work, dump: Path) -> dict[str, dict[str, float]]:
  """Runs a work of `jax_worker` once under the profiler.

  Args:
    work: takes a number of steps.
    dump: folder in which XLA writes the programs that it compiles.

  Returns:
    The shares that `sum_up` returns.
  """
  work(1)  # Compiles, which dumps the program.
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, create_perfetto_trace=True):
      work(1)
    (file,) = Path(folder).glob("**/perfetto_trace.json.gz")
    trace = json.loads(gzip.decompress(file.read_bytes()))
  events = trace["traceEvents"] if isinstance(trace, dict) else trace
  names = {event.get("name") for event in events}
  # The program of which most instructions have run.
  programs = [
    read_program(file.read_text().splitlines())
    for file in dump.glob("*cpu_after_optimizations.txt")
  ]
  return sum_up(events, max(programs, key=lambda x: len(names & set(x))))


def to_markdown(shares: Mapping[str, Mapping[str, Any]]) -> str:
  """Formats the shares of all works as a table."""
  training, inference = shares["training"], shares["inference"]
  lines = [
    "| part | training, forward | training, backward | inference |",
    "|---|---|---|---|",
  ]
  for part, of_part in training.items():
    cells = [of_part["forward"], of_part["backward"]]
    cells.append(inference.get(part, {}).get("forward", 0.0))
    lines.append(f"| {part} | {' | '.join(f'{x:.1%}' for x in cells)} |")
  return "\n".join(lines) + "\n"


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "name", "tetrominoes_object_discovery", "Name of the config."
  )
  flags.define_integer(
    "batch_size", 0, "Batch size; 0 takes that of the config.", minimum=0
  )
  records.define_data_dir(flags)
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  specification = steps.make_specification(
    flags.name,
    batch_size=flags.batch_size,
    steps_per_dispatch=1,
    precision="float32",
    data_dir=flags.data_dir,
  )
  with tempfile.TemporaryDirectory() as dump:
    # XLA reads this before its first use.
    os.environ["XLA_FLAGS"] = (
      f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump}"
      " --xla_dump_hlo_as_text --xla_cpu_enable_xprof_traceme=true"
    )
    jax.config.update("jax_platforms", "cpu")
    # XLA does not dump a program that comes from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    works, _, _ = jax_worker.make(specification)
    shares = {
      name: profile(works[name], Path(dump))
      for name in ("training", "inference")
    }
  table = to_markdown(shares)
  print(table)
  records.write(
    flags.output,
    records.describe("benchmarks.profile", ["jax", "jaxlib"], shares=shares),
    title=f"Parts of a step of {flags.name}",
    remark="Shares of the sum over all instructions.",
    table=table,
  )


if __name__ == "__main__":
  command.run(main)
