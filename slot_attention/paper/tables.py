"""Writes the results of `reproduce` as tables and pictures."""

from collections.abc import Mapping
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from slot_attention import plots
from slot_attention.metrics import SHARES
from slot_attention.paper.experiments import DIRECTIONS

# A seed of object discovery counts as one that segments into stripes (Section
# 4.1) if its squared error, the loss of Slot Attention, is above STRIPES_FACTOR
# times the median of its row. Seeds that find the objects have less than twice
# the median, as those in results/quickstart.json.
STRIPES_FACTOR = 3
_STRIPES_SEEDS = 3  # With fewer seeds, the median says nothing.


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
_PLACES = ("num_iterations", "num_slots", "num_objects")


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
  """Compares each variant with the default, in foreground ARI.

  Returns:
    For each variant of the paper's ablations, a dict with its difference, the
    pooled standard deviation, how the paper compares it, and whether this
    agrees. The difference is None if all seeds of the variant diverged.
  """
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
    # A variant whose seeds all diverged is worse than the default.
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
  "The difference is that to the default, in points of foreground ARI, ± the"
  " standard deviation of single seeds, pooled over both rows. The paper's"
  " appendix B says how the variant compares, and the last column whether this"
  " agrees. A difference within the deviation counts as none."
)


def here(line, suffix=""):
  """Formats mean and standard deviation of a line of the table."""
  if not line["metric"]:
    return ""
  digits = 1 if line["metric"].startswith(SHARES) else 4
  mean, std = line[f"mean{suffix}"], line[f"std{suffix}"]
  return f"{mean:.{digits}f} ± {std:.{digits}f}"


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
  along = "num_iterations" if sweep == "iterations" else "num_objects"
  panels = {}
  for line in table:
    if not line["metric"].startswith(SHARES):
      continue
    panel = f"{line['label']}: {along.replace('_', ' ')}"
    if sweep == "objects":
      panel += f", T = {line['num_iterations']}"
    curve = panels.setdefault(panel, {}).setdefault(line["metric"], [])
    curve.append((line[along], line["mean"], line["std"]))
  return panels
