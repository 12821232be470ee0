"""Tables, pictures and the results page, from what `reproduce.py` measured."""

import collections
from collections.abc import Mapping
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from slot_attention import visualization
from slot_attention.paper.experiments import (
  DIRECTIONS,
  EXPERIMENTS,
  PICTURES,
  changed_values,
  config_name,
  rows_at,
)

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
  draw = visualization.draw_curves if sweep else visualization.draw_bars
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
    f" {_pairs(result['versions'])}. Mean ± standard deviation over the seeds,"
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
      more["without stripes"] = _without_stripes
      about += " all seeds, and all but those, are shown."
    else:
      about += " there are none."
  if any(line["diverged"] for line in table):
    more["diverged"] = lambda line: _seeds(line["diverged"])
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
      _here(line),
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
  lines = [f"# {result['title']}", "", about, "", *_grid(columns, rows)]
  if result["differences"]:
    lines += ["", _DIFFERENCES, ""]
    lines += _grid(
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


def _here(line, suffix=""):
  """Mean and deviation of a line of the table."""
  if not line["metric"]:
    return ""
  digits = 4 if line["metric"] == "loss" else 1
  mean, std = line[f"mean{suffix}"], line[f"std{suffix}"]
  return f"{mean:.{digits}f} ± {std:.{digits}f}"


def _without_stripes(line):
  if not line["stripes"]:
    return ""
  return f"{_here(line, '_without_stripes')}, without {_seeds(line['stripes'])}"


def _seeds(names):
  return f"seed{'s' * (' ' in names)} {names}" if names else ""


def _pairs(values):
  return ", ".join(f"{key} {value}" for key, value in values.items())


def _grid(columns, rows):
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


def page(results: Path) -> str:
  """What is measured, of the paper and else, by the JSON files of a folder."""
  records = {
    path.stem: json.loads(path.read_text())
    for path in sorted(results.glob("*.json"))
  }
  figures = [
    [experiment.place, experiment.title]
    + [_measured(records, name, scale) for scale in ("paper", "small")]
    for name, experiment in EXPERIMENTS.items()
  ]
  figures += [
    [place, title, "not yet", f"[picture]({picture})" if picture else "not yet"]
    for place, title, picture in PICTURES
  ]
  numbers = [
    [experiment.place, row.label, metric, number]
    + [_number(records, name, row, metric, s) for s in ("paper", "small")]
    for name, experiment in EXPERIMENTS.items()
    for row in experiment.rows
    for metric, number in row.paper.items()
    if experiment.see != "table3"  # Whose numbers stand there.
  ]
  lines = [
    _PAGE,
    *_grid(["where", "what", "paper's scale", "small scale"], figures),
    "",
    "## The paper's numbers",
    "",
    "In percent. Those at the small scale are of other data and models.",
    "",
    *_grid(
      ["where", "row", "metric", "paper", "paper's scale", "small scale"],
      numbers,
    ),
    "",
    "## Directions of appendix B",
    "",
    "Whether variants differ from the default as the paper says:",
    "",
  ]
  for stem, record in records.items():
    agrees = collections.Counter(
      line["agrees"] or "not stated" for line in record.get("differences", ())
    )
    if agrees and record["scale"] != "smoke":
      counts = ", ".join(f"{agrees[x]} {x}" for x in sorted(agrees))
      lines.append(f"- [{stem}]({stem}.md): {counts}")
  if not lines[-1]:
    lines.append("Not yet measured.")
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

Written by `python -m slot_attention.paper.reproduce --page` from the JSON files in
this folder.

## The paper's tables and figures

`python -m slot_attention.paper.reproduce NAME` measures them; the last ones are drawn
by `python -m slot_attention.paper.figures --workdir=RUN`. The paper's scale has the
paper's data, models and steps; the small one `configs/quickstart.py` and
`configs/clevr_set_prediction_small.py` in their place, and none where these
cannot stand for them.
"""


def write_page(results: Path) -> None:
  """Writes `page` into the folder that it is about."""
  (results / "README.md").write_text(page(results))


def _measured(records, name, scale):
  """The cell of the page for an experiment at a scale."""
  experiment = EXPERIMENTS[name]
  if not rows_at(experiment, scale):
    return "none"
  stem, seen = f"{name}_{scale}", f"{experiment.see}_{scale}"
  if stem in records:
    record = records[stem]
    return (
      f"[{stem}]({stem}.md), [picture]({stem}.png),"
      f" {len(record['rows'][0]['seeds'])} seeds, {record['date']},"
      f" {record['hardware']}{_missing(record, experiment)}"
    )
  if seen in records:
    return f"see [{seen}]({seen}.md){_missing(records[seen], experiment)}"
  return "not yet"


def _missing(record, experiment):
  """Names configs and rows of an experiment of which a record has no run."""
  scale = record["scale"]
  has = [(row["config"], row["changes"]) for row in record["rows"]]
  configs, rows = collections.defaultdict(list), collections.defaultdict(list)
  for row in rows_at(experiment, scale):
    config = config_name(row.config, scale)
    configs[config].append(row.label)
    if (config, changed_values(row, scale)) not in has:
      rows[config].append(row.label)
  names = []
  for config, labels in rows.items():
    names += [config] if labels == configs[config] else labels
  return "".join(f"; {name} not yet" for name in names)


def _number(records, name, row, metric, scale):
  """The cell of the page for a number of the paper at a scale."""
  config = config_name(row.config, scale)
  exist = rows_at(EXPERIMENTS[name], scale)
  if (row.label, row.config) not in {(x.label, x.config) for x in exist}:
    return "none"
  key = (row.label, config, metric)
  for shown in (name, EXPERIMENTS[name].see):
    for line in records.get(f"{shown}_{scale}", {"table": []})["table"]:
      if key == (line["label"], line["config"], line["metric"]):
        without = _without_stripes(line)
        return _here(line) + (f" ({without})" if without else "")
  return "not yet"


def _origin_of(record):
  """Command, date, hardware, versions and seeds of a record of anything."""
  missing = "not recorded"
  hardware = record.get("hardware", record.get("device", missing))
  if isinstance(hardware, dict):
    hardware = _pairs(hardware)
  versions = record.get("versions", {"jax": record.get("jax", missing)})
  seeds = record.get("seeds", [record["seed"]] if "seed" in record else [])
  seeds = [x["seed"] if isinstance(x, dict) else x for x in seeds]
  parts = [
    f"`{record.get('command', missing)}`",
    record.get("date", missing)[:10],
    hardware,
    _pairs(versions),
    _seeds(" ".join(map(str, seeds))),
  ]
  return ", ".join(part for part in parts if part)
