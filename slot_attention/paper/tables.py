"""Writes the results of `reproduce` as tables and pictures."""

from collections.abc import Mapping
import csv
import io
from pathlib import Path
from typing import Any

from slot_attention import files, plots
from slot_attention.metrics import PERCENT_PREFIXES
from slot_attention.paper import curves, statistics

# What runs along the horizontal axis of a sweep.
_ALONG = {
  curves.STEPS: "step",
  "iterations": "num_iterations",
  "objects": "num_objects",
  "slots": "num_objects",
  "more_slots": "num_slots",
}
# The sweeps whose pictures compare rows, not metrics.
_COMPARING = (curves.STEPS, "more_slots")


def write(folder: Path, result: Mapping[str, Any], sweep: str) -> None:
  """Writes a result of `reproduce.reproduce` as .json, .csv, .md and .png."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{result['experiment']}_{result['scale']}"
  files.write_json(path.with_suffix(".json"), result)
  table = result["table"]
  columns = dict.fromkeys(column for line in table for column in line)
  text = io.StringIO(newline="")
  writer = csv.DictWriter(text, columns, restval="")
  writer.writeheader()
  writer.writerows(table)
  files.write(path.with_suffix(".csv"), text.getvalue())
  files.write(path.with_suffix(".md"), _markdown(result, sweep))
  panels = _curves(table, sweep) if sweep else _bars(result)
  draw = plots.draw_curves if sweep else plots.draw_bars
  picture = path.with_suffix(".png")
  if panels:
    draw(picture, panels)
  else:  # All runs diverged. The picture of earlier ones would mislead.
    picture.unlink(missing_ok=True)


def _markdown(result, sweep):
  lines = [f"# {result['title']}", "", _about(result, sweep)]
  if sweep == curves.STEPS:
    return "\n".join([*lines, *_steps(result)])
  lines += ["", *_measured(result, sweep)]
  if result["differences"]:
    lines += ["", "## Differences from the default", "", _DIFFERENCES, ""]
    lines += grid(
      ["row", "config", "metric", "difference", "paper", "agrees"],
      [
        [
          line["label"],
          line["config"],
          line["metric"],
          _difference(line),
          line["paper"],
          line["agrees"],
        ]
        for line in result["differences"]
      ],
    )
  return "\n".join(lines) + "\n"


def _about(result, sweep):
  """Says where the numbers of a result are from, and how to read them."""
  table = result["table"]
  about = (
    f"`{result['command']}`, {origin(result)},"
    f" {pairs(result['versions'])}{_flags(result)}.\n\n"
  )
  if sweep == curves.STEPS:
    about += "Means over the seeds, in percent."
  else:
    about += (
      "Mean ± standard deviation over the seeds (the divisor is their number),"
      " in percent except for the loss."
    )
  if any(line["metric"] == "mse" for line in table):
    about += (
      " mse is the squared error of the reconstruction, for models whose loss"
      " is another; it is not in percent."
    )
  if any(line["metric"] == "fg_ari" for line in table):
    about += (
      " A seed counts as stripes (Section 4.1) if its squared error is above"
      f" {statistics.STRIPES_FACTOR} times the median of its row, which must"
      f" have at least {statistics.MIN_SEEDS_FOR_STRIPES} seeds. Stripes that"
      " are reconstructed well are missed."
    )
    if not any(line["stripes"] for line in table):
      about += " No seed is above this limit."
    elif sweep != curves.STEPS:
      about += " The table shows the means with and without these seeds."
  if any(line["diverged"] for line in table):
    about += (
      " Diverged seeds ended at a loss or gradient that is not finite; the"
      " means leave them out."
    )
  if result["scale"] != "paper":
    about += (
      f" The scale {result['scale']} has other data and models than the paper,"
      " see the configs, and its numbers cannot be compared with the paper's."
    )
  return about


def _flags(result):
  """Names the XLA_FLAGS of the runs, if there were any."""
  flags = result.get("xla_flags", "none")
  return "" if flags == "none" else f", XLA_FLAGS: {_or(flags)}"


def _or(values):
  """Joins values that `reproduce` merged, for example "x; or none"."""
  return "; or ".join(values.split(" and "))


def origin(result: Mapping[str, Any]) -> str:
  """Formats the days and the processors on which a result was measured."""
  days = result["date"].split(" and ")
  days = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
  return f"{days}, {_or(result['hardware'])}"


def _measured(result, sweep):
  """Makes the tables with a line for each row and point of a sweep.

  Lines below it have the numbers without stripes, and the paper's. If both of
  the paper's tasks are measured, each has a table.
  """
  of_sets = {
    line["config"] for line in result["table"] if line["metric"] == "ap_1"
  }
  tables = {}
  for line in result["table"]:
    task = "Set prediction" if line["config"] in of_sets else "Object discovery"
    tables.setdefault(task, []).append(line)
  if len(tables) == 1:
    return _grid_of(result["table"], sweep)
  lines = []
  for task, table in tables.items():
    lines += [f"## {task}", "", *_grid_of(table, sweep), ""]
  return lines[:-1]


def _grid_of(table, sweep):
  metrics = [*dict.fromkeys(line["metric"] for line in table if line["metric"])]
  # Columns of the points of a sweep, without those of one value.
  places = [
    place
    for place in statistics.POINT_KEYS[1:]
    if sweep and len({line.get(place, "") for line in table}) > 1
  ]
  groups = {}
  for line in table:
    where = tuple(line.get(place, "") for place in places)
    group = groups.setdefault((line["label"], line["config"], *where), {})
    group[line["metric"]] = line
  rows = []

  def add(label, columns, numbers):
    rows.append([label, *columns, *(numbers.get(x, "") for x in metrics)])

  for (label, *columns), lines in groups.items():
    stripes, diverged = (
      " ".join(dict.fromkeys(x[key] for x in lines.values() if x[key]))
      for key in ("stripes", "diverged")
    )
    note = f", {seeds(diverged)} diverged" if diverged else ""
    numbers = {x: here(line) for x, line in lines.items()}
    add(f"{label}{note}", columns, numbers)
    if stripes:
      add(
        f"{label}, without {seeds(stripes)}",
        columns,
        {x: here(line, "_without_stripes") for x, line in lines.items()},
      )
    paper = {x: line["paper"] for x, line in lines.items() if line["paper"]}
    if paper:
      add(f"{label}, in the paper", [""] * len(columns), paper)
  return grid(["row", "config", *places, *metrics], rows)


def _steps(result):
  """Makes the lines about evaluations during training."""
  lines = []
  for metric in statistics.COMPARED:
    titles, *rows = curves.compare(result, metric)
    if rows:
      lines += ["", f"## {metric}", "", _STEPS, "", *grid(titles, rows)]
  return [*lines, ""]


_STEPS = (
  "The mean over the seeds at each step. The last column is the first step at"
  " which a seed is at least as good as the mean of the first row's last"
  " evaluation: the mean over the seeds, or how many seeds get there."
)

_DIFFERENCES = (
  "The difference is the variant's mean minus the default's, in points, with"
  " its 95 % confidence interval over the seeds (Welch's t, which takes their"
  " values for normally distributed). With fewer than"
  f" {statistics.MIN_SEEDS_TO_COMPARE} seeds of either there is none. Appendix"
  " B says how the variant compares, and the last column whether the interval"
  " agrees."
  " It agrees with better or worse if it lies on that side of zero, and with"
  f" equal if it lies within {statistics.TIGHT} points. A wider interval that"
  " includes zero does not separate the two."
)


def _difference(line):
  if line["difference"] is None:
    return "diverged"
  if line["interval"] is None:
    return f"{line['difference']:+.1f}"
  low, high = line["interval"]
  return f"{line['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def here(line, suffix=""):
  """Formats mean and standard deviation of a line of the table.

  One or two seeds are named, since their deviation says little.
  """
  if not line["metric"]:
    return ""
  digits = 1 if line["metric"].startswith(PERCENT_PREFIXES) else 4
  mean, std, num_seeds = (
    line[f"{name}{suffix}"] for name in ("mean", "std", "num_seeds")
  )
  if num_seeds == 1:
    return f"{mean:.{digits}f} (1 seed)"
  few = " (2 seeds)" if num_seeds == 2 else ""
  return f"{mean:.{digits}f} ± {std:.{digits}f}{few}"


def without_stripes(line):
  """Formats mean and deviation without the stripes; "" if there are none."""
  if not line["stripes"]:
    return ""
  return f"{here(line, '_without_stripes')}, without {seeds(line['stripes'])}"


def seeds(names):
  """Formats names of seeds, for example "seeds 0 1 2"; "" for no seeds."""
  return f"seed{'s' * (' ' in names)} {names}" if names else ""


def pairs(values):
  """Formats a dict, for example "python 3.12.1, jax 0.12.0"."""
  return ", ".join(f"{key} {value}" for key, value in values.items())


def grid(columns, rows):
  """Makes the lines of a Markdown table."""
  lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
  return [lines[0], f"|{'---|' * len(columns)}", *lines[1:]]


def _bars(result):
  """Makes the panels of `plots.draw_bars`, without diverged seeds.

  Variants are compared in one metric of each task, all other rows in all.
  """
  is_ablation = any(row["direction"] for row in result["rows"])
  metrics = {}
  for row in result["rows"]:
    for measured in row["seeds"].values():
      metrics.setdefault(row["config"], {}).update(measured or {})
  panels = {}
  for row in result["rows"]:
    for metric in metrics[row["config"]]:
      if metric.startswith(PERCENT_PREFIXES) and (
        metric in statistics.COMPARED or not is_ablation
      ):
        panel, label = panels.setdefault(metric, {}), row["label"]
        if label in panel:  # The default of another config.
          label += f", {row['config']}"
        values = [
          100 * measured[metric]
          for measured in row["seeds"].values()
          if measured and metric in measured
        ]
        if values:
          panel[label] = values
  return panels


def _curves(table, sweep):
  """Makes the panels of `plots.draw_curves`, with standard deviations."""
  panels = {}
  for line in table:
    along = _ALONG[sweep].replace("_", " ")
    if sweep in _COMPARING:
      if line["metric"] not in statistics.COMPARED:
        continue
      panel, name = f"{along} ({line['metric']})", line["label"]
    elif line["metric"].startswith(PERCENT_PREFIXES):
      panel, name = f"{line['label']}: {along}", line["metric"]
    else:
      continue
    if sweep == "objects":
      panel += f", T = {line['num_iterations']}"
    curve = panels.setdefault(panel, {}).setdefault(name, [])
    curve.append((line[_ALONG[sweep]], line["mean"], line["std"]))
  return panels
