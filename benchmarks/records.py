"""What the benchmarks share: flags, turns, and the files of their results."""

from collections.abc import Callable, Iterable, Mapping
import itertools
import json
import os
from pathlib import Path
import time
from typing import Any

import jax
import numpy as np

from slot_attention import command
from slot_attention.paper import provenance

# As the user set them: a benchmark may add its own.
_XLA_FLAGS = os.environ.get("XLA_FLAGS", "").strip()


def define_output(flags: command.Flags) -> None:
  """Defines --output."""
  flags.define_string(
    "output", None, "Path of the results, without a suffix. Default: none."
  )


def define_data_dir(flags: command.Flags) -> None:
  """Defines --data_dir."""
  flags.define_string("data_dir", "data", "Folder of the prepared data sets.")


def define_repetition(
  flags: command.Flags, *, rounds: int, steps: int | None = None
) -> None:
  """Defines --rounds and, if it has a default, --steps."""
  if steps is not None:
    flags.define_integer(
      "steps", steps, "Number of steps in each measurement.", minimum=1
    )
  flags.define_integer(
    "rounds",
    rounds,
    "Number of measurements, of which the median is taken.",
    minimum=1,
  )


def take_turns(
  calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
  """Returns the median of the seconds of each call, over rounds of turns.

  A round before these is not counted, since it compiles.
  """
  seconds = {name: [] for name in calls}
  for _, (name, call) in itertools.product(range(rounds + 1), calls.items()):
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds[name].append(time.perf_counter() - start)
  return {name: float(np.median(x[1:])) for name, x in seconds.items()}


def describe(
  module: str,
  packages: Iterable[str] = ("jax", "flax", "optax"),
  **results: Any,
) -> dict[str, Any]:
  """Returns command, date, hardware, versions and flags, and the results.

  Results of the same names replace what this machine says.
  """
  return {
    "command": provenance.command(module),
    **provenance.provenance(packages),
    "xla_flags": _XLA_FLAGS or "none",
    **results,
  }


def write(
  output: str | None,
  record: dict[str, Any],
  *,
  title: str = "",
  remark: str = "",
  table: str = "",
) -> None:
  """Writes a record as OUTPUT.json, and as OUTPUT.md if it has a table.

  Args:
    output: value of --output; None writes nothing.
    record: of `describe`.
    title: of the page.
    remark: sentences that follow command, date, hardware and versions there.
    table: Markdown.
  """
  if not output:
    return
  path = Path(output)
  path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
  if not table:
    return
  versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
  path.with_suffix(".md").write_text(
    f"# {title}\n\n`{record['command']}`, {record['date']},"
    f" {record['hardware']}; {versions}. {remark}\n\n{table}"
  )
