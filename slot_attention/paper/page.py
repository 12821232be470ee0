"""Writes the page results/README.md, which lists all measurements."""

import collections
from pathlib import Path

from slot_attention import files
from slot_attention.paper import statistics, tables
from slot_attention.paper.experiments import EXPERIMENTS
from slot_attention.paper.rows import changed_values, config_name, rows_at

# The pictures that `figures.py` draws of any run: place in the paper, title,
# and the picture of a small run (relative to the folder of the results).
PICTURES = (
  ("Figure 3", "Slots, attention, iterations", "../docs/quickstart_slots.png"),
  (
    "Figure 4",
    "Slots of greyscale CLEVR6 without their masks",
    "../docs/clevr_grayscale_small_slots.png",
  ),
  (
    "Figure 6",
    "Attention of set prediction",
    "../docs/clevr_set_prediction_small_attention.png",
  ),
  (
    "Figure 20",
    "More objects and more slots than in training",
    "../docs/clevr_small_more_slots.png",
  ),
  (
    "Table 2",
    "Predictions after each iteration",
    "../docs/clevr_set_prediction_small.png",
  ),
)


def render(results: Path) -> str:
  """Makes the page from the JSON files in the folder of the results."""
  records = {
    path.stem: files.read_json(path) for path in sorted(results.glob("*.json"))
  }
  drawn = {path.stem for path in results.glob("*.png")}
  figures = [
    [experiment.place, experiment.title]
    + [_measured(records, drawn, name, scale) for scale in ("paper", "small")]
    for name, experiment in EXPERIMENTS.items()
  ]
  figures += [
    [place, title, "not yet", f"[picture]({picture})"]
    for place, title, picture in PICTURES
  ]
  numbers = [
    [experiment.place, row.label, metric, number]
    + [_number(records, name, row, metric, s) for s in ("paper", "small")]
    for name, experiment in EXPERIMENTS.items()
    for row in experiment.rows
    for metric, number in row.paper.items()
    if experiment.see != "table3"  # It has the numbers of Table 3.
  ]
  lines = [
    _PAGE,
    *tables.grid(
      ["where", "row", "metric", "paper", "here, paper's scale", "here, small"],
      numbers,
    ),
    "",
    _FIGURES,
    *tables.grid(["where", "what", "paper's scale", "small scale"], figures),
    "",
    "## Directions of appendix B",
    "",
    "The lists count the variants that compare with the default as the paper"
    " says (yes), that do not (no), that cannot be told from the default (not"
    f" separable), that equal it within {statistics.TIGHT} points, that have"
    f" fewer than {statistics.MIN_SEEDS_TO_COMPARE} seeds (too few seeds), and"
    " of which the paper says nothing (not stated). 95 % confidence intervals"
    " decide.",
    "",
  ]
  for stem, record in records.items():
    if record.get("scale") == "smoke":
      continue
    agrees = collections.defaultdict(collections.Counter)
    for line in record.get("differences", ()):
      agrees[line["metric"]][line["agrees"] or "not stated"] += 1
    for metric, counts in agrees.items():
      counted = ", ".join(f"{counts[x]} {x}" for x in sorted(counts))
      lines.append(f"- [{stem}]({stem}.md), {metric}: {counted}")
  if not lines[-1]:
    lines.append("Nothing has been measured yet.")
  lines += ["", "## Other measurements", ""]
  pictures = collections.defaultdict(str)
  for path in sorted(results.glob("*.png")):
    owners = [stem for stem in records if path.stem.startswith(stem)]
    pictures[max(owners, key=len, default="")] += (
      f", [{path.stem}]({path.name})"
    )
  lines += [
    f"- [{stem}.json]({stem}.json): {_origin_of(record)}{pictures[stem]}"
    for stem, record in records.items()
    if "experiment" not in record
  ]
  return "\n".join(lines) + "\n"


_PAGE = """# What was measured

`python -m slot_attention.paper.reproduce --page` writes this page from the JSON
files in this folder.

The paper's scale has the paper's data, models and steps. The small scale has
the configs whose names end in `_small`, and `savi.py` for videos, instead. Its
numbers show how methods compare, and cannot be compared with the paper's. The
tables say "none" where something does not exist at a scale.

## The paper's numbers

All numbers are in percent.
"""

_FIGURES = """## The paper's tables and figures

`python -m slot_attention.paper.reproduce NAME` measures a table or figure, and
`python -m slot_attention.paper.figures --workdir=RUN` draws the last five rows
of this table. `runs/SCALE/CONFIG/CHANGES/SEED/metrics.jsonl.gz` is the curve of
each run that finished since 2026-11-27.
"""


def write(results: Path) -> None:
  """Writes the page into the folder of the results."""
  files.write(results / "README.md", render(results))


def _measured(records, drawn, name, scale):
  """Makes the cell of the page for an experiment at a scale."""
  experiment = EXPERIMENTS[name]
  if not rows_at(experiment, scale):
    return "none"
  stem, seen = f"{name}_{scale}", f"{experiment.see}_{scale}"
  if stem in records:
    record = records[stem]
    counts = [len(row["seeds"]) for row in record["rows"]]
    fewest, most = min(counts), max(counts)
    num_seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    picture = f", [picture]({stem}.png)" * (stem in drawn)
    return (
      f"[{stem}]({stem}.md){picture},"
      f" {num_seeds} seed{'s' * (most > 1)}, {tables.origin(record)}"
      f"{_missing(record, experiment)}"
    )
  if seen in records:
    return f"see [{seen}]({seen}.md){_missing(records[seen], experiment)}"
  return "not yet"


def _missing(record, experiment):
  """Lists the configs and rows of an experiment that a record lacks."""
  scale = record["scale"]
  has = [(row["config"], row["changes"]) for row in record["rows"]]
  configs, rows = collections.defaultdict(list), collections.defaultdict(list)
  for row in rows_at(experiment, scale):
    config = config_name(row, scale)
    configs[config].append(row.label)
    if (config, changed_values(row, scale)) not in has:
      rows[config].append(row.label)
  names = []
  for config, labels in rows.items():
    whole = labels == configs[config]
    names += [config] if whole else [f"{x} on {config}" for x in labels]
  return "".join(f"; {name} not yet" for name in names)


def _number(records, name, row, metric, scale):
  """Makes the cell of the page for a number of the paper at a scale."""
  key = (row.label, config_name(row, scale), metric)
  for shown in (name, EXPERIMENTS[name].see):
    for line in records.get(f"{shown}_{scale}", {"table": []})["table"]:
      if key == (line["label"], line["config"], line["metric"]):
        without = tables.without_stripes(line)
        return tables.here(line) + (f" ({without})" if without else "")
  return "not yet"


def _origin_of(record):
  """Formats command, date, hardware, versions and seeds of a record."""
  missing = "not recorded"
  hardware = record.get("hardware", record.get("device", missing))
  if isinstance(hardware, dict):
    hardware = tables.pairs(hardware)
  versions = record.get("versions", {"jax": record.get("jax", missing)})
  seeds = record.get("seeds", [record["seed"]] if "seed" in record else [])
  seeds = [x["seed"] if isinstance(x, dict) else x for x in seeds]
  parts = [
    f"`{record.get('command', missing)}`",
    (record.get("date") or missing)[:10],
    hardware,
    tables.pairs(versions),
    tables.seeds(" ".join(map(str, seeds))),
  ]
  return ", ".join(part for part in parts if part)
