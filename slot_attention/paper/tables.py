"""Tables and pictures of what `reproduce` measured."""

from collections.abc import Mapping
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from slot_attention import plots
from slot_attention.paper.experiments import DIRECTIONS

# A seed of object discovery whose loss is more than so many times the median of
# its row is taken for one that segments into stripes (Section 4.1). Seeds that
# found the objects stay below twice the median (results/quickstart.json).
STRIPES_FACTOR = 3
_STRIPES_SEEDS = 3  # Of fewer none stands out.


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
  if panels:  # Else every run diverged.
    draw(path.with_suffix(".png"), panels)


def make_table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """One line for each row, point of a sweep, and metric.

  A row whose seeds all diverged is one line without a metric.
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
        # Losses as they are, everything else in percent.
        scale = 1 if metric == "loss" else 100
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


# What tells the points of a sweep apart.
_PLACES = ("num_iterations", "num_slots", "num_objects")


def _stripes(by_seed):
  """The seeds of object discovery whose loss stands out."""
  losses = {
    seed: float(np.median([point["loss"] for point in points]))
    for seed, points in by_seed.items()
    if "fg_ari" in points[0]
  }
  if len(losses) < _STRIPES_SEEDS:
    return []
  limit = STRIPES_FACTOR * np.median(list(losses.values()))
  return [seed for seed, loss in losses.items() if loss > limit]


def make_differences(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Of each variant to the default, in foreground ARI, beside the paper's."""
  measured = {
    (line["label"], line["config"]): line
    for line in result["table"]
    if line["metric"] == "fg_ari"
  }
  lines = []
  for row in result["rows"]:
    default = measured.get(("default", row["config"]))
    if not row["direction"] or default is None:
      continue
    here = measured.get((row["label"], row["config"]))
    # A variant that diverged with every seed is worse, whatever the deviation.
    difference, deviation, sign = None, None, -1
    if here is not None:
      freedom = here["num_seeds"] + default["num_seeds"] - 2
      if not freedom:
        continue
      squares = [x["num_seeds"] * x["std"] ** 2 for x in (here, default)]
      deviation = math.sqrt(sum(squares) / freedom)
      difference = here["mean"] - default["mean"]
      sign = int(np.sign(difference)) if abs(difference) > deviation else 0
    expected = DIRECTIONS.get(row["direction"])
    if expected is None:
      agrees = ""
    elif sign == expected:
      agrees = "yes"
    else:
      agrees = "no" if sign else "within the deviation"
    lines.append(
      {
        "label": row["label"],
        "config": row["config"],
        "difference": difference,
        "pooled_std": deviation,
        "paper": row["direction"],
        "agrees": agrees,
      }
    )
  return lines


def _markdown(result, sweep):
  table = result["table"]
  about = (
    f"`{result['command']}`, {result['date']}, {result['hardware']},"
    f" {pairs(result['versions'])}. Mean ± standard deviation over the seeds,"
    " in percent but for the loss."
  )
  # Columns that most tables do not need.
  more = {}
  if any(line["metric"] == "fg_ari" for line in table):
    about += (
      " Seeds whose evaluation loss is above"
      f" {STRIPES_FACTOR} times the median of their row, of at least"
      f" {_STRIPES_SEEDS}, count as stripes (Section 4.1):"
    )
    if any(line["stripes"] for line in table):
      more["without stripes"] = without_stripes
      about += " all seeds, and all but those, are shown."
    else:
      about += " there are none."
  if any(line["diverged"] for line in table):
    more["diverged"] = lambda line: seeds(line["diverged"])
    about += (
      " Diverged: seeds that ended at a loss or gradient that is not finite;"
      " they are in no mean."
    )
  if result["scale"] != "paper":
    about += (
      f" Scale {result['scale']}: other data and models than the paper's, see"
      " the configs; not to be compared with its numbers."
    )
  places = _PLACES if sweep else ()
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
      ["row", "config", "difference", "paper", "agrees"],
      [
        [
          line["label"],
          line["config"],
          "diverged"
          if line["difference"] is None
          else f"{line['difference']:+.1f} ± {line['pooled_std']:.1f}",
          line["paper"],
          line["agrees"],
        ]
        for line in result["differences"]
      ],
    )
  return "\n".join(lines) + "\n"


_DIFFERENCES = (
  "Differences to the default in points of foreground ARI, ± the standard"
  " deviation of single seeds, pooled over both rows; what the paper's appendix"
  " B says of the variant; and whether this agrees. Up to the deviation a"
  " difference counts as none."
)


def here(line, suffix=""):
  """Mean and deviation of a line of the table."""
  if not line["metric"]:
    return ""
  digits = 4 if line["metric"] == "loss" else 1
  mean, std = line[f"mean{suffix}"], line[f"std{suffix}"]
  return f"{mean:.{digits}f} ± {std:.{digits}f}"


def without_stripes(line):
  """Mean and deviation of a line without its stripes, or nothing."""
  if not line["stripes"]:
    return ""
  return f"{here(line, '_without_stripes')}, without {seeds(line['stripes'])}"


def seeds(names):
  """Seeds 0 1 2 as words, or nothing."""
  return f"seed{'s' * (' ' in names)} {names}" if names else ""


def pairs(values):
  """A mapping as words."""
  return ", ".join(f"{key} {value}" for key, value in values.items())


def grid(columns, rows):
  """Lines of a Markdown table."""
  lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
  return [lines[0], f"|{'---|' * len(columns)}", *lines[1:]]


def _bars(result):
  """Metric to label to the percent of its seeds that did not diverge."""
  metrics = {}
  for row in result["rows"]:
    for measured in row["seeds"].values():
      metrics.setdefault(row["config"], {}).update(measured or {})
  panels = {}
  for row in result["rows"]:
    for metric in metrics[row["config"]]:
      panels.setdefault(metric, {})[row["label"]] = [
        100 * measured[metric] for measured in row["seeds"].values() if measured
      ]
  panels.pop("loss", None)
  return panels


def _curves(table, sweep):
  """Panel to name of a curve to its points, with deviations."""
  along = "num_iterations" if sweep == "iterations" else "num_objects"
  panels = {}
  for line in table:
    if line["metric"] in ("loss", ""):
      continue
    panel = f"{line['label']}: {along.replace('_', ' ')}"
    if sweep == "objects":
      panel += f", T = {line['num_iterations']}"
    curve = panels.setdefault(panel, {}).setdefault(line["metric"], [])
    curve.append((line[along], line["mean"], line["std"]))
  return panels
