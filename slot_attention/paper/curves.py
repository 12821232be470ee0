"""Compares models by their evaluations during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slot_attention.training import writers

# The sweep of an `Experiment` that has the evaluations during training.
STEPS = "steps"


def read(workdir: Path) -> list[dict[str, Any]]:
  """Reads the evaluations of a run.

  Args:
    workdir: folder of the run.

  Returns:
    For each evaluation, a dict of "sweep", "step" and the metrics.
  """
  return [
    {"sweep": STEPS, **{k: v for k, v in line.items() if k != "split"}}
    for line in writers.read(workdir)
    if line["split"] == "eval"
  ]


def first_step(
  points: Sequence[Mapping[str, Any]], metric: str, value: float
) -> int | None:
  """Returns the first step at which a metric is at least a value, or None."""
  steps = [point["step"] for point in points if point[metric] >= value]
  return min(steps, default=None)


def compare(result: Mapping[str, Any], metric: str) -> list[list[str]]:
  """Compares rows by how soon they reach what the first row ends with.

  Args:
    result: a result of `reproduce.reproduce` whose sweep is `STEPS`.
    metric: the metric. Rows without it are left out.

  Returns:
    A table whose first line has the titles. Every other line is of a row: its
    label, the mean of the metric in percent at each step at which the first row
    is evaluated, and when it reaches the goal. The goal is the first row's mean
    at its last evaluation. The last cell is the mean of the steps at which the
    seeds reach the goal, or the number of seeds that do, if not all.
  """
  steps, titles, lines, goal = [], [], [], None
  for row in result["rows"]:
    seeds = [x for x in row["seeds"].values() if x and metric in x[0]]
    if not seeds:
      continue
    means = {
      points[0]["step"]: np.mean([x[metric] for x in points])
      for points in zip(*seeds)
    }
    if goal is None:
      steps = list(means)
      goal = means[steps[-1]]
      titles = [f"{step:,}" for step in steps]
      titles.append(f"reaches the end of {row['label']}")
    reached = [first_step(points, metric, goal) for points in seeds]
    done = [step for step in reached if step is not None]
    # Other rows may be evaluated at other steps.
    cells = [f"{100 * means[x]:.1f}" if x in means else "" for x in steps]
    lines.append([row["label"], *cells])
    lines[-1].append(
      f"{np.mean(done):,.0f}"
      if len(done) == len(seeds)
      else f"{len(done)} of {len(seeds)} seeds"
    )
  return [["row", *titles], *lines]
