"""Compiles training steps for TPUs, without one, and says what they need.

  python -m benchmarks.tpu --output=results/tpu
  python -m benchmarks.tpu --configs=quickstart --variants="as it is,by phase"

Each step is compiled in a process of its own, one after the other. Nothing is
measured but the time that compiling takes on this machine: the other numbers
are the compiler's, and times of steps and runs are computed from the chip's
published numbers. With --output=NAME, the command writes NAME.json and NAME.md
after every step. The same command goes on from there: it does not compile a
step again if NAME.json has it with the same versions.
"""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import itertools
import json
import multiprocessing
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import records
import configs
from slot_attention import command, losses, tasks
from slot_attention.models import convolutions, slot_models
from slot_attention.paper import provenance, rows
from slot_attention.progress import progress_bar
from slot_attention.training import chips, compilation

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")
_CONFIGS = (
  rows.TETROMINOES,
  rows.MULTI_DSPRITES,
  rows.BINARIZED,
  rows.CLEVR6,
  rows.GRAYSCALE,
  rows.CLEVR10_SETS,
  rows.CLEVR6_SETS,
)


# Each function takes one part out of the step of this process. Only
# `_no_matching` and `_no_check` change results.
def _no_shortcut(config):
  slot_models.SpatialBroadcastDecoder._use_shortcut = False


def _no_barrier(config):
  slot_models.relu = nn.relu


def _by_phase(config):
  # Without the gradients that are for CPUs.
  convolutions.conv_transpose = convolutions.conv_transpose_by_phase.fun


def _no_matching(config):
  def match(costs):  # Each prediction has the target of the same number.
    numbers = jnp.arange(min(costs.shape[1:]))
    return (jnp.broadcast_to(numbers, (len(costs), len(numbers))),) * 2

  losses.match = match


def _no_check(config):
  jnp.isfinite = lambda x: jnp.ones((), bool)


def _with(field, value):
  def change(config):
    config.update_from_flattened_dict({field: value})

  return change


# By its name: changes the config or this process.
VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
  "as it is": lambda config: None,
  "no shortcut": _no_shortcut,
  "no barrier": _no_barrier,
  "by phase": _by_phase,
  "no matching": _no_matching,
  "no check of finiteness": _no_check,
  "remat in chunks of 8": _with("model.decoder.remat_chunk_size", 8),
  "1 step a dispatch": _with("steps_per_dispatch", 1),
  "1 iteration": _with("model.slot_attention.num_iterations", 1),
}


def compile_case(
  name: str, topology: str, precision: str, variant: str
) -> dict[str, Any]:
  """Compiles a step of a config; see `compilation.compile_step`.

  If it does not fit, the only fact is why.
  """
  config = configs.load(name)
  config.compute_dtype = precision
  VARIANTS[variant](config)
  case = {"config": name, "precision": precision, "variant": variant}
  try:
    facts = compilation.compile_step(config, topology)
  except compilation.DoesNotFitError as error:
    return {**case, "topology": topology, "does_not_fit": str(error)}
  return {**case, **facts, **compilation.estimate(facts)}


def to_markdown(cases: Sequence[Mapping[str, Any]]) -> str:
  """Formats the cases as a table."""
  lines = [
    "| config | slice | precision | variant | to compile | memory | of it"
    " temporary | code | GFLOP | GB accessed | in HBM | by arithmetic | by HBM"
    " | by all bytes | by the compiler | the run | chip-hours | all-reduces |",
    f"|{'---|' * 18}",
  ]
  for case in cases:
    cells = [case[x] for x in ("config", "topology", "precision", "variant")]
    if "does_not_fit" in case:
      cells += [case["does_not_fit"], *[""] * 13]
    else:
      estimated = case["compiler_seconds"]
      hours = case["least_hours"], case["fetching_hours"]
      cells += [
        f"{case['seconds_to_compile']:.0f} s",
        f"{compilation.memory_bytes(case) / 2**30:.3g} GiB",
        f"{case['temporary_bytes'] / 2**30:.3g} GiB",
        f"{case['code_bytes'] / 2**20:.3g} MiB",
        f"{case['operations'] / 1e9:,.4g}",
        f"{case['bytes_accessed'] / 1e9:.3g}",
        f"{case['main_memory_bytes'] / 1e9:.3g}",
        f"{case['arithmetic_seconds'] * 1e3:.3g} ms",
        f"{case['main_memory_seconds'] * 1e3:.3g} ms",
        f"{case['all_memory_seconds'] * 1e3:.3g} ms",
        f"{estimated * 1e3:.3g} ms" if estimated else "none",
        " to ".join(f"{x:.2g}" for x in hours) + " h",
        " to ".join(f"{x * case['chips']:.2g}" for x in hours),
        str(case["collectives"].get("all-reduce", 0)),
      ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "configs", ",".join(_CONFIGS), "Names of configs, with commas."
  )
  flags.define_string(
    "topologies", "v5e:2x2,v5e:4x4", "Slices of TPUs, with commas."
  )
  flags.define_string(
    "precisions", ",".join(tasks.COMPUTE_DTYPES), "Precisions, with commas."
  )
  flags.define_string(
    "variants",
    "as it is",
    f"Changes of the step, with commas: {', '.join(VARIANTS)}.",
  )
  records.define_output(flags)
  flags.parse(arguments)
  for name, choices in (
    ("topologies", chips.TOPOLOGIES),
    ("precisions", tasks.COMPUTE_DTYPES),
    ("variants", VARIANTS),
  ):
    for value in flags[name].value.split(","):
      if value not in choices:
        raise command.UsageError(
          f"--{name}: {value} is not one of {', '.join(choices)}"
        )
  return flags


def finished(path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
  """Returns the steps that were compiled before, by what `compile_case` takes.

  Only those of the same versions count.
  """
  path = path.with_suffix(".json")
  if not path.exists():
    return {}
  record = json.loads(path.read_text())
  if record["versions"] != provenance.provenance(_PACKAGES)["versions"]:
    return {}
  names = ("config", "topology", "precision", "variant")
  return {tuple(case[name] for name in names): case for case in record["cases"]}


def write(output: str | None, cases: Sequence[Mapping[str, Any]]) -> None:
  """Writes the cases as JSON and as a table."""
  records.write(
    output,
    records.describe("benchmarks.tpu", _PACKAGES, cases=cases),
    title="Training steps compiled for TPUs",
    remark="The steps were compiled there, and no TPU was used. Memory is that"
    " of a chip, with the examples on it, at most."
    " Operations and bytes are those of a step on each chip; HBM is the chip's"
    " main memory, and other bytes lie on the chip. Times are computed from the"
    " chip's published peak and bandwidth: those of a run are the longer one of"
    " arithmetic and HBM, and of arithmetic and all bytes. Real ones can be"
    " longer.",
    table=to_markdown(cases),
  )


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  jax.config.update("jax_platforms", "cpu")
  choices = (flags.configs, flags.topologies, flags.precisions, flags.variants)
  combinations = list(itertools.product(*(x.split(",") for x in choices)))
  done = finished(Path(flags.output)) if flags.output else {}
  missing = [case for case in combinations if case not in done]
  with (
    concurrent.futures.ProcessPoolExecutor(
      max_workers=1,
      max_tasks_per_child=1,
      mp_context=multiprocessing.get_context("spawn"),
    ) as pool,
    progress_bar(total=len(missing), desc="compiling", unit="step") as bar,
  ):
    for case, facts in zip(missing, pool.map(compile_case, *zip(*missing))):
      done[case] = facts
      bar.update()
      # Earlier cases that this command does not name are kept, after its own.
      ordered = dict.fromkeys([*combinations, *done])
      write(flags.output, [done[x] for x in ordered if x in done])
  print(to_markdown([done[case] for case in combinations]))


if __name__ == "__main__":
  command.run(main)
