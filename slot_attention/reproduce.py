"""The paper's tables and figures, one command each.

  python -m slot_attention.reproduce --list
  python -m slot_attention.reproduce figure11 --scale=small --seeds 0 1 2

Trains the models of `experiments.EXPERIMENTS` that are not trained yet,
evaluates them, and writes RESULTS/NAME_SCALE.json, .csv, .md and .png: mean and
standard deviation over the seeds, beside the paper's numbers. A run that was
stopped goes on, a finished one is not repeated, and several processes with the
same command share the runs.

Scales: "paper" as the paper's; "small" for two CPU cores: configs/quickstart.py
and configs/clevr_set_prediction_small.py in the place of object discovery and
set prediction; "smoke" to see that everything works, with meaningless numbers.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import datetime
import fcntl
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import sys
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

import configs
from slot_attention import evaluate, experiments, train, visualization
from slot_attention.experiments import EXPERIMENTS, Experiment, Row

SCALES = ("smoke", "small", "paper")
_SMALL = {
  experiments.CLEVR6: "quickstart",
  experiments.TETROMINOES: "quickstart",
  experiments.CLEVR10_SETS: "clevr_set_prediction_small",
}


def config_name(name: str, scale: str) -> str | None:
  """The config that stands for one of the paper at a scale, or None."""
  if scale == "paper":
    return name
  if scale == "smoke":
    return f"smoke:{name}"
  prefix, _, plain = name.rpartition(":")
  if plain not in _SMALL:
    return None
  return f"{prefix}:{_SMALL[plain]}" if prefix else _SMALL[plain]


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
  """A copy of a config with some fields changed, see `experiments.Row`."""
  config = config.copy_and_resolve_references()
  for field, change in changes.items():
    *sections, name = field.split(".")
    section = config
    for part in sections:
      section = section[part]
    section[name] = change(section[name]) if callable(change) else change
  return config


def run_directory(row: Row, config: ConfigDict, scale: str, seed: int) -> Path:
  """Where a run lies, below the folder of all runs; equal runs share it."""
  values = (
    f"{field.rpartition('.')[-1]}={_value(config, field)}"
    for field in sorted(row.changes)
  )
  name = config_name(row.config, scale).replace(":", "_")
  return Path(scale, name, ",".join(values) or "default", str(seed))


def rows_at(experiment: Experiment, scale: str) -> list[Row]:
  """The rows that exist at a scale, each once."""
  rows = {}
  for row in experiment.rows:
    if (name := config_name(row.config, scale)) is not None:
      rows.setdefault((name, row.label), row)
  return list(rows.values())


def reproduce(
  name: str,
  *,
  scale: str,
  seeds: Sequence[int],
  runs: Path,
  results: Path,
  data_dir: str,
) -> dict[str, Any]:
  """Trains what is missing of a table or figure, and writes its results.

  Args:
    name: a key of `EXPERIMENTS`.
    scale: one of `SCALES`.
    seeds: of each row.
    runs: folder of all runs.
    results: folder of the results.
    data_dir: of prepared data.

  Returns:
    What is written as JSON.

  Raises:
    ValueError: if nothing of the experiment exists at this scale.
  """
  experiment = EXPERIMENTS[name]
  rows = rows_at(experiment, scale)
  if not rows:
    raise ValueError(f"nothing of {name} exists at --scale={scale}")
  jobs = [(row, seed) for seed in seeds for row in rows]
  measured = {}
  # First those that no other process works on; then wait for the others.
  for wait in (False, True):
    for i, (row, seed) in enumerate(jobs):
      if (row.label, row.config, seed) in measured:
        continue
      config = changed(
        configs.load(config_name(row.config, scale)),
        {**row.changes, "seed": seed, "data.data_dir": data_dir},
      )
      workdir = runs / run_directory(row, config, scale, seed)
      with _lock(workdir, wait) as locked:
        if locked:
          logging.info("Run %d of %d: %s", i + 1, len(jobs), workdir)
          measured[row.label, row.config, seed] = _measure(
            name, experiment, row, config, workdir
          )
  result = {
    "experiment": name,
    "title": experiment.title,
    "scale": scale,
    "command": f"python -m slot_attention.reproduce {name} --scale={scale}"
    f" --seeds {' '.join(map(str, seeds))}",
    "date": datetime.date.today().isoformat(),
    "hardware": _hardware(),
    "versions": {
      "python": platform.python_version(),
      **{p: importlib.metadata.version(p) for p in ("jax", "flax", "optax")},
    },
    "rows": [
      {
        "label": row.label,
        "config": config_name(row.config, scale),
        "changes": {
          field: _value(
            changed(configs.load(config_name(row.config, scale)), row.changes),
            field,
          )
          for field in row.changes
        },
        "paper": dict(row.paper),
        "seeds": {
          str(seed): measured[row.label, row.config, seed] for seed in seeds
        },
      }
      for row in rows
    ],
    "others": {label: dict(x) for label, x in experiment.others.items()},
  }
  _write(results, result, experiment.sweep)
  return result


def _value(config, field):
  for part in field.split("."):
    config = config[part]
  return config


def _hardware():
  devices = jax.devices()
  if devices[0].platform == "cpu":
    return f"{os.cpu_count()} CPU cores"
  return f"{len(devices)} x {devices[0].device_kind}"


@contextlib.contextmanager
def _lock(workdir: Path, wait: bool) -> Iterator[bool]:
  """Whether this process has the run to itself; if it waits, always."""
  workdir.parent.mkdir(parents=True, exist_ok=True)
  with workdir.with_name(f"{workdir.name}.lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      yield False
      return
    yield True


def _measure(name, experiment, row, config, workdir):
  """Metrics of a run, or the rows of its sweep; computed once."""
  path = workdir / f"reproduce_{name}.json"
  if path.exists():
    return json.loads(path.read_text())
  trained = workdir / "trained.json"
  if not trained.exists():
    start = time.monotonic()
    metrics = train.train(config, workdir)
    trained.write_text(
      json.dumps({"seconds": time.monotonic() - start, "metrics": metrics})
    )
  config = changed(config, row.evaluation)
  if experiment.sweep:
    swept = evaluate.sweep_run(workdir, config)
    measured = [x for x in swept if x["sweep"] == experiment.sweep]
  elif row.evaluation:
    measured = evaluate.evaluate_run(workdir, config)
  else:
    measured = json.loads(trained.read_text())["metrics"]
  path.write_text(json.dumps(measured))
  return measured


def _write(folder, result, sweep):
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{result['experiment']}_{result['scale']}"
  path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
  table = _table(result)
  with path.with_suffix(".csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(table[0]), restval="")
    writer.writeheader()
    writer.writerows(table)
  path.with_suffix(".md").write_text(_markdown(result, table, sweep))
  if sweep:
    visualization.draw_curves(path.with_suffix(".png"), _curves(table, sweep))
  else:
    visualization.draw_bars(path.with_suffix(".png"), _bars(table))


def _table(result):
  """One line for each row, point of a sweep, and metric."""
  lines = []
  for row in result["rows"]:
    by_seed = [
      measured if isinstance(measured, list) else [measured]
      for measured in row["seeds"].values()
    ]
    for points in zip(*by_seed):
      where = {key: points[0][key] for key in _PLACES if key in points[0]}
      for metric in points[0]:
        if metric in where or metric in ("sweep", "num_examples"):
          continue
        values = [point[metric] for point in points]
        # Losses as they are, everything else in percent.
        scale = 1 if metric == "loss" else 100
        lines.append(
          {
            "label": row["label"],
            "config": row["config"],
            **where,
            "metric": metric,
            "mean": scale * float(np.mean(values)),
            "std": scale * float(np.std(values)),
            "num_seeds": len(values),
            "paper": row["paper"].get(metric, ""),
          }
        )
  return lines


# What tells the points of a sweep apart.
_PLACES = ("num_iterations", "num_slots", "num_objects")


def _markdown(result, table, sweep):
  versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
  measured = (
    f"`{result['command']}`, {result['date']}, {result['hardware']},"
    f" {versions}. Mean ± standard deviation over the seeds, in percent but for"
    " the loss."
  )
  if result["scale"] != "paper":
    measured += (
      f" Scale {result['scale']}: other data and models than the paper's, see"
      " the configs; not to be compared with its numbers."
    )
  lines = [f"# {result['title']}", "", measured, ""]
  places = _PLACES if sweep else ()
  columns = ("row", "config", *places, "metric", "here", "paper")
  lines.append(f"| {' | '.join(columns)} |")
  lines.append(f"|{'---|' * len(columns)}")
  for line in table:
    digits = 4 if line["metric"] == "loss" else 1
    here = f"{line['mean']:.{digits}f} ± {line['std']:.{digits}f}"
    cells = [
      line["label"],
      line["config"],
      *(line[place] for place in places),
      line["metric"],
      here,
      line["paper"],
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  for label, numbers in result["others"].items():
    for metric, number in numbers.items():
      cells = [label, "", *("" for _ in places), metric, "", number]
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _bars(table):
  """Config to metric to label to mean and deviation."""
  panels = {}
  for line in table:
    if line["metric"] != "loss":
      panel = panels.setdefault(line["config"], {})
      bars = panel.setdefault(line["metric"], {})
      bars[line["label"]] = (line["mean"], line["std"])
  return panels


def _curves(table, sweep):
  """Panel to name of a curve to its points, with deviations."""
  along = "num_iterations" if sweep == "iterations" else "num_objects"
  panels = {}
  for line in table:
    if line["metric"] == "loss":
      continue
    panel = f"{line['label']}: {along.replace('_', ' ')}"
    if sweep == "objects":
      panel += f", T = {line['num_iterations']}"
    curve = panels.setdefault(panel, {}).setdefault(line["metric"], [])
    curve.append((line[along], line["mean"], line["std"]))
  return panels


def _list(runs: Path, scale: str, seeds: Sequence[int]) -> None:
  """Prints what there is, what is missing, and how long runs took."""
  for name, experiment in EXPERIMENTS.items():
    rows = rows_at(experiment, scale)
    done = missing = 0
    seconds = []
    for row in rows:
      config = changed(
        configs.load(config_name(row.config, scale)), row.changes
      )
      for seed in seeds:
        trained = (
          runs / run_directory(row, config, scale, seed) / "trained.json"
        )
        if trained.exists():
          done += 1
          seconds.append(json.loads(trained.read_text())["seconds"])
        else:
          missing += 1
    took = f", {np.mean(seconds):.0f} s a run" if seconds else ""
    print(
      f"{name:<15} {done} runs done, {missing} missing{took}:"
      f" {experiment.title}" + ("" if rows else f" (not at --scale={scale})")
    )


def main(arguments: Sequence[str]) -> None:
  """The command line; see the top of this file."""
  parser = argparse.ArgumentParser(
    prog="reproduce", description=__doc__.partition("\n")[0]
  )
  parser.add_argument("name", nargs="?", choices=EXPERIMENTS)
  parser.add_argument("--scale", choices=SCALES, default="paper")
  parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
  parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
  parser.add_argument("--results", type=Path, default=Path("results"))
  parser.add_argument("--data_dir", default="data")
  parser.add_argument("--list", action="store_true")
  options = parser.parse_args(arguments)
  logging.set_verbosity(logging.INFO)
  if options.list or options.name is None:
    _list(options.runs, options.scale, options.seeds)
    return
  if options.scale == "small":
    jax.config.update("jax_num_cpu_devices", 2)
  try:
    reproduce(
      options.name,
      scale=options.scale,
      seeds=list(options.seeds),
      runs=options.runs,
      results=options.results,
      data_dir=options.data_dir,
    )
  except (ValueError, OSError, FloatingPointError) as error:
    sys.exit(f"error: {' '.join(str(error).split())}")
  except train.InterruptedRunError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
  main(sys.argv[1:])
