"""Computes how the paper's configs scale to 256 TPU chips, from records.

  python -m benchmarks.scaling --output=results/scaling

Nothing is measured here. The model in `benchmarks.scaling_model` computes the
time of a step from the records of `benchmarks.tpu`. Hosts gather and draw
examples as fast as `benchmarks.feeding` and `benchmarks.clevr_renderer` have
measured. With --output=NAME, the command writes NAME.json, NAME.md and
NAME.png.
"""

from collections.abc import Mapping, Sequence
import json
import math
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks import scaling_model as model
from benchmarks.scaling_model import ESTIMATES, MACHINES, NUM_CHIPS
from slot_attention import command, plots
from slot_attention.paper import tables


def to_markdown(result: Mapping[str, Any]) -> str:
  """Formats what `compute` returns as tables."""
  scaled = result["configs"]
  strong = [x for x in scaled if x["strong"]]
  lines = []

  def add(title, columns, rows):
    lines.extend(["", f"## {title}", "", *tables.grid(columns, rows)])

  def name(x):
    return x["config"], x["precision"]

  def cells(rows, cell):
    """Returns a cell for each number, "" where there is no row."""
    return [*map(cell, rows)] + [""] * (len(NUM_CHIPS) - len(rows))

  add(
    "All-reduce, microseconds",
    ["MB", *map(str, NUM_CHIPS)],
    [
      [f"{size / 1e6:.2f}"]
      + [f"{model.all_reduce_seconds(size, n) * 1e6:.0f}" for n in NUM_CHIPS]
      for size in sorted({x["gradient_bytes"] for x in scaled})
    ]
    + [
      ["axes", *("x".join(map(str, model.axes_of(n))) for n in NUM_CHIPS)],
      ["links", *map(model.links_of, NUM_CHIPS)],
      ["hops", *map(model.hops_of, NUM_CHIPS)],
    ],
  )
  add(
    "Strong scaling: efficiency, %",
    [
      "config",
      "precision",
      "batch",
      "compiled shares",
      *NUM_CHIPS,
      "below 50 % at",
    ],
    [
      [*name(x), x["batch_size"], ", ".join(map(str, x["compiled_shares"]))]
      + cells(x["strong"], _percent)
      + [" / ".join(str(x["stops_at"][e] or "none") for e in ESTIMATES)]
      for x in strong
    ],
  )
  add(
    "Strong scaling: hours of the run",
    ["config", "precision", *NUM_CHIPS],
    [
      [*name(x)]
      + cells(
        x["strong"],
        lambda row: " / ".join(f"{row[f'{e}_hours']:.2g}" for e in ESTIMATES),
      )
      for x in strong
    ],
  )
  add(
    "Strong scaling: memory of a chip, GiB",
    ["config", "precision", *NUM_CHIPS],
    [
      [*name(x)]
      + cells(x["strong"], lambda row: f"{row['memory_bytes'] / 2**30:.2g}")
      for x in strong
    ],
  )
  add(
    "Strong scaling: MB a second that a host brings if it gathers the batches",
    ["config", "precision", "kB an image", *NUM_CHIPS],
    [
      [*name(x), f"{x['example_bytes'] / 1e3:.3g}"]
      + cells(
        x["strong"], lambda row: f"{row['host_bytes_per_second'] / 1e6:,.0f}"
      )
      for x in strong
    ],
  )
  add(
    "Weak scaling: efficiency, %",
    ["config", "precision", "images a chip", *NUM_CHIPS],
    [
      [*name(x), max(x["compiled_shares"]), *cells(x["weak"], _percent)]
      for x in scaled
    ],
  )
  add(
    "Images a second of a chip, by images a chip",
    ["config", "precision", *NUM_CHIPS],
    [
      [*name(x)]
      + cells(
        x["worth"],
        lambda row: (
          " / ".join(f"{row[f'{e}_images_per_second']:,.0f}" for e in ESTIMATES)
          + (" (operations)" if row["arithmetic_decides"] else "")
        ),
      )
      for x in strong
    ],
  )
  add(
    "The smallest share: time by the line through the others / as compiled",
    ["config", "precision", "images a chip", "shorter", "longer"],
    [
      [*name(x), x["compiled_shares"][0]]
      + [f"{x['line_errors'][e]:.2f}" for e in ESTIMATES]
      for x in scaled
      if x["line_errors"]
    ],
  )
  add(
    "Drawing CLEVR: minutes of the slowest machine of one core",
    ["config", "core-hours", *MACHINES],
    [
      [name, f"{x[0]['core_hours']:.2f}", *(f"{y['minutes']:.0f}" for y in x)]
      for name, x in result["preparation"].items()
    ],
  )
  return "\n".join(lines).lstrip() + "\n"


def _percent(row):
  return " / ".join(f"{100 * row[f'{x}_efficiency']:.0f}" for x in ESTIMATES)


def draw(path: Path, result: Mapping[str, Any]) -> None:
  """Draws the efficiencies of float32, by the longer time, over the chips."""
  panels = {}
  for kind in ("strong", "weak"):
    panels[f"{kind} scaling: doublings of one chip"] = {
      x["config"]: [
        (math.log2(row["chips"]), 100 * row["fetching_efficiency"])
        for row in x[kind]
      ]
      for x in result["configs"]
      if x["precision"] == "float32" and x["strong"]
    }
  plots.draw_curves(path, panels)


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "compiled",
    "results/tpu.json,results/tpu_shares.json",
    "Records of benchmarks.tpu, with commas.",
  )
  flags.define_string(
    "feeding",
    "results/feeding_tetrominoes.json",
    "Record of benchmarks.feeding for Tetrominoes.",
  )
  flags.define_string(
    "renderer",
    "results/clevr_renderer.json",
    "Record of benchmarks.clevr_renderer.",
  )
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  paths = [*flags.compiled.split(","), flags.feeding, flags.renderer]
  sources = {path: json.loads(Path(path).read_text()) for path in paths}
  *compiled, feeding, renderer = sources.values()
  cases = [case for source in compiled for case in source["cases"]]
  result = model.compute(cases, feeding, renderer)
  text = to_markdown(result)
  print(text)
  if not flags.output:
    return
  about = ("command", "date", "hardware", "versions")
  origins = {
    path: {name: source[name] for name in about}
    for path, source in sources.items()
  }
  records.write(
    flags.output,
    records.describe("benchmarks.scaling", ["jax"], sources=origins, **result),
    title="Scaling on paper",
    remark=f"Computed from {', '.join(f'`{x}`' for x in paths)}. No step was"
    " measured, and no TPU was used. Columns are numbers of v5e chips, of"
    " images or of machines. Of two numbers, the first is by the shorter time"
    " of a step, and the second by the longer one.",
    table=text,
  )
  draw(Path(flags.output).with_suffix(".png"), result)


if __name__ == "__main__":
  command.run(main)
