"""Writes the results of `reproduce` as tables and pictures."""

from collections.abc import Mapping
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from slot_attention import plots
from slot_attention.metrics import SHARES
from slot_attention.paper import curves
from slot_attention.paper.ablations import DIRECTIONS

# A seed of object discovery counts as one that segments into stripes (Section
# 4.1) if its squared error, the loss of Slot Attention, is above STRIPES_FACTOR
# times the median of its row. Seeds that find the objects have less than twice
# the median, as those in results/quickstart.json.
STRIPES_FACTOR = 3
_STRIPES_SEEDS = 3  # With fewer seeds, the median says nothing.

# A variant counts as equal to its default if the confidence interval of the
# difference is within TIGHT points.
TIGHT = 2
# The metrics in which variants are compared with their default.
_COMPARED = ("fg_ari", "ap_1")


def write(folder: Path, result: Mapping[str, Any], sweep: str) -> None:
  """Writes a result of `reproduce.reproduce` as .json, .csv, .md and .png."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{result['experiment']}_{result['scale']}"
  path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
  table = result["table"]
  columns = dict.fromkeys(column for line in table for column in line)
  with path.with_suffix(".csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, columns, restval="")
    writer.writeheader()
    writer.writerows(table)
  path.with_suffix(".md").write_text(_markdown(result, sweep))
  panels = _curves(table, sweep) if sweep else _bars(result)
  draw = plots.draw_curves if sweep else plots.draw_bars
  if panels:  # There are none if all runs diverged.
    draw(path.with_suffix(".png"), panels)


def make_table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Makes one line for each row, point of a sweep, and metric.

  If all seeds of a row diverged, it has one line without a metric.
  """
  lines = []
  for row in result["rows"]:
    by_seed = {
      seed: measured if isinstance(measured, list) else [measured]
      for seed, measured in row["seeds"].items()
      if measured is not None
    }
    stripes = _stripes(by_seed)
    diverged = [seed for seed in row["seeds"] if seed not in by_seed]
    about = {"label": row["label"], "config": row["config"]}
    left_out = {"stripes": " ".join(stripes), "diverged": " ".join(diverged)}
    if not by_seed:
      lines.append({**about, "metric": "", "paper": "", **left_out})
    for points in zip(*by_seed.values()):
      where = {key: points[0][key] for key in _PLACES if key in points[0]}
      for metric in points[0]:
        if metric in where or metric in ("sweep", "num_examples"):
          continue
        scale = 100 if metric.startswith(SHARES) else 1
        values = [scale * point[metric] for point in points]
        kept = [x for seed, x in zip(by_seed, values) if seed not in stripes]
        lines.append(
          {
            **about,
            **where,
            "metric": metric,
            "mean": float(np.mean(values)),
            "std": float(np.std(values)),
            "num_seeds": len(values),
            "mean_without_stripes": float(np.mean(kept)),
            "std_without_stripes": float(np.std(kept)),
            "paper": row["paper"].get(metric, ""),
            **left_out,
          }
        )
  return lines


# The fields that distinguish the points of a sweep.
_PLACES = ("step", "num_iterations", "num_slots", "num_objects")

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


def _stripes(by_seed):
  """Returns the seeds that count as stripes, see `STRIPES_FACTOR`."""
  losses = {
    seed: float(
      np.median([point.get("mse", point["loss"]) for point in points])
    )
    for seed, points in by_seed.items()
    if "fg_ari" in points[0]
  }
  if len(losses) < _STRIPES_SEEDS:
    return []
  limit = STRIPES_FACTOR * np.median(list(losses.values()))
  return [seed for seed, loss in losses.items() if loss > limit]


def make_differences(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Compares each variant with the default.

  The metric is the foreground ARI of object discovery, and the average
  precision at distance 1 of set prediction.

  Returns:
    For each variant of the paper's ablations, a dict with its metric, the
    difference of the means in points, the 95 % confidence interval of the
    difference (Welch's t), how the paper compares the variant, and whether this
    agrees. Difference and interval are None if all seeds of the variant
    diverged.
  """
  measured = {
    (row["label"], row["config"]): [x for x in row["seeds"].values() if x]
    for row in result["rows"]
  }
  lines = []
  for row in result["rows"]:
    defaults = measured.get(("default", row["config"]))
    if not row["direction"] or not defaults:
      continue
    metric = next((x for x in _COMPARED if x in defaults[0]), None)
    if metric is None:  # The data has no masks.
      continue
    default, variant = (
      [100 * x[metric] for x in seeds]
      for seeds in (defaults, measured[row["label"], row["config"]])
    )
    if not variant:
      difference = interval = None
    elif min(len(default), len(variant)) < 2:
      continue  # One seed says nothing of the scatter.
    else:
      difference = float(np.mean(variant) - np.mean(default))
      interval = _confidence_interval(variant, default)
    lines.append(
      {
        "label": row["label"],
        "config": row["config"],
        "metric": metric,
        "difference": difference,
        "interval": interval,
        "paper": row["direction"],
        "agrees": _verdict(interval, DIRECTIONS.get(row["direction"])),
      }
    )
  return lines


def _confidence_interval(a, b):
  """Returns the 95 % confidence interval of mean(a) - mean(b), Welch's t.

  Without any scatter, as of a precision that is always 0, it is one number.
  """
  if not np.ptp(a) and not np.ptp(b):
    return [float(np.mean(a) - np.mean(b))] * 2
  test = scipy.stats.ttest_ind(a, b, equal_var=False)
  return [float(x) for x in test.confidence_interval(0.95)]


def _verdict(interval, expected):
  """Says whether a confidence interval agrees with the paper's direction.

  A variant whose seeds all diverged is worse than the default.
  """
  if expected is None:
    return ""
  low, high = interval or (-math.inf, -math.inf)
  sign = (low > 0) - (high < 0)
  is_tight = -TIGHT <= low and high <= TIGHT
  if sign == expected != 0 or (expected == 0 and is_tight):
    return "yes"
  if sign == 0:
    return f"equal within {TIGHT} points" if is_tight else "not separable"
  return "no"


def _markdown(result, sweep):
  table = result["table"]
  about = (
    f"`{result['command']}`, {result['date']}, {result['hardware']},"
    f" {pairs(result['versions'])}. Mean ± standard deviation over the seeds,"
    " in percent except for the loss."
  )
  if any(line["metric"] == "mse" for line in table):
    about += (
      " Where the loss is another one, mse is the squared error of the"
      " reconstruction, not in percent."
    )
  # Optional columns.
  more = {}
  if any(line["metric"] == "fg_ari" for line in table):
    about += (
      " A seed counts as stripes (Section 4.1) if its evaluation loss is above"
      f" {STRIPES_FACTOR} times the median of its row, which must have at least"
      f" {_STRIPES_SEEDS} seeds."
    )
    if any(line["stripes"] for line in table):
      more["without stripes"] = without_stripes
      about += " The table shows the means with and without these seeds."
    else:
      about += " There are no such seeds."
  if any(line["diverged"] for line in table):
    more["diverged"] = lambda line: seeds(line["diverged"])
    about += (
      " Diverged seeds ended at a loss or gradient that is not finite; the"
      " means are without them."
    )
  if result["scale"] != "paper":
    about += (
      f" The scale {result['scale']} has other data and models than the paper,"
      " see the configs, and its numbers cannot be compared with the paper's."
    )
  if sweep == curves.STEPS:
    return "\n".join([f"# {result['title']}", "", about, *_steps(result)])
  places = _PLACES[1:] if sweep else ()
  rows = [
    [
      line["label"],
      line["config"],
      *(line.get(place, "") for place in places),
      line["metric"],
      here(line),
      *(show(line) for show in more.values()),
      line["paper"],
    ]
    for line in table
  ]
  for label, numbers in result["others"].items():
    for metric, number in numbers.items():
      rows.append([label, *[""] * (1 + len(places)), metric])
      rows[-1] += [""] * (1 + len(more)) + [number]
  columns = ["row", "config", *places, "metric", "here", *more, "paper"]
  lines = [f"# {result['title']}", "", about, "", *grid(columns, rows)]
  if result["differences"]:
    lines += ["", _DIFFERENCES, ""]
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


def _steps(result):
  """Makes the lines about evaluations during training."""
  lines = []
  for metric in _COMPARED:
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
  "The difference is that of the mean to the default's, in points, with its"
  " 95 % confidence interval over the seeds (Welch's t). The paper's appendix B"
  " says how the variant compares, and the last column whether this agrees: not"
  " if the interval lies on the other side of zero; an interval that includes"
  f" zero is not separable, or, if it is within {TIGHT} points, says that both"
  " are equal."
)


def _difference(line):
  if line["difference"] is None:
    return "diverged"
  low, high = line["interval"]
  return f"{line['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def here(line, suffix=""):
  """Formats mean and standard deviation of a line of the table.

  One or two seeds are named, since their deviation says little.
  """
  if not line["metric"]:
    return ""
  digits = 1 if line["metric"].startswith(SHARES) else 4
  mean, std = line[f"mean{suffix}"], line[f"std{suffix}"]
  if line["num_seeds"] == 1:
    return f"{mean:.{digits}f} (1 seed)"
  few = " (2 seeds)" if line["num_seeds"] == 2 else ""
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
  """Makes the panels of `plots.draw_bars`, without diverged seeds."""
  metrics = {}
  for row in result["rows"]:
    for measured in row["seeds"].values():
      metrics.setdefault(row["config"], {}).update(measured or {})
  panels = {}
  for row in result["rows"]:
    for metric in metrics[row["config"]]:
      if metric.startswith(SHARES):
        panels.setdefault(metric, {})[row["label"]] = [
          100 * measured[metric]
          for measured in row["seeds"].values()
          if measured
        ]
  return panels


def _curves(table, sweep):
  """Makes the panels of `plots.draw_curves`, with standard deviations."""
  panels = {}
  for line in table:
    along = _ALONG[sweep].replace("_", " ")
    if sweep in _COMPARING:
      if line["metric"] not in _COMPARED:
        continue
      panel, name = f"{along} ({line['metric']})", line["label"]
    elif line["metric"].startswith(SHARES):
      panel, name = f"{line['label']}: {along}", line["metric"]
    else:
      continue
    if sweep == "objects":
      panel += f", T = {line['num_iterations']}"
    curve = panels.setdefault(panel, {}).setdefault(name, [])
    curve.append((line[_ALONG[sweep]], line["mean"], line["std"]))
  return panels
