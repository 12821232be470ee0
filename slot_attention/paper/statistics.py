"""Means, deviations and differences over the seeds of an experiment."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np
import scipy.stats

from slot_attention.metrics import PERCENT_PREFIXES
from slot_attention.paper.ablations import DIRECTIONS

# A seed of object discovery counts as one that segments into stripes (Section
# 4.1) if its squared error, the loss of Slot Attention, is above STRIPES_FACTOR
# times the median of its row. Seeds that find the objects have less than twice
# the median, as those in results/quickstart.json.
STRIPES_FACTOR = 3
MIN_SEEDS_FOR_STRIPES = 3  # With fewer seeds, the median says nothing.

# A variant counts as equal to its default if the confidence interval of the
# difference is within TIGHT points.
TIGHT = 2
# With fewer seeds of a variant or its default, they are not compared: seeds may
# either succeed or fail, and an interval of two says little of that.
MIN_SEEDS_TO_COMPARE = 3
# The metrics in which variants are compared with their default.
COMPARED = ("fg_ari", "ap_1")
# The fields that distinguish the points of a sweep.
POINT_KEYS = ("step", "num_iterations", "num_slots", "num_objects")


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
    places = [
      [[x.get(place) for place in POINT_KEYS] for x in points]
      for points in by_seed.values()
    ]
    if any(x != places[0] for x in places):
      raise ValueError(
        f"the seeds of {row['label']} ({row['config']}) were evaluated at"
        " different points"
      )
    for points in zip(*by_seed.values()):
      where = {key: points[0][key] for key in POINT_KEYS if key in points[0]}
      for metric in points[0]:
        if metric in where or metric in ("sweep", "num_examples"):
          continue
        if any(metric not in point for point in points):
          continue  # A seed of an earlier version does not have it.
        scale = 100 if metric.startswith(PERCENT_PREFIXES) else 1
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
            "num_seeds_without_stripes": len(kept),
            "mean_without_stripes": float(np.mean(kept)),
            "std_without_stripes": float(np.std(kept)),
            "paper": row["paper"].get(metric, ""),
            **left_out,
          }
        )
  return lines


def _stripes(by_seed):
  """Returns the seeds that count as stripes, see `STRIPES_FACTOR`."""
  losses = {}
  for seed, points in by_seed.items():
    if "step" in points[0]:  # During training, the last evaluation counts.
      points = points[-1:]
    if "fg_ari" in points[0]:
      errors = [point.get("mse", point["loss"]) for point in points]
      losses[seed] = float(np.median(errors))
  if len(losses) < MIN_SEEDS_FOR_STRIPES:
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
    diverged. The interval is None if there are too few seeds.
  """
  measured = {
    (row["label"], row["config"]): [x for x in row["seeds"].values() if x]
    for row in result["rows"]
  }
  num_seeds = {
    (row["label"], row["config"]): len(row["seeds"]) for row in result["rows"]
  }
  lines = []
  for row in result["rows"]:
    defaults = measured.get(("default", row["config"]))
    if not row["direction"] or not defaults:
      continue
    variants = measured[row["label"], row["config"]]
    metric = next(
      (x for x in COMPARED if all(x in y for y in defaults + variants)), None
    )
    if metric is None:  # The data has no masks.
      continue
    default, variant = (
      [100 * x[metric] for x in seeds] for seeds in (defaults, variants)
    )
    expected = DIRECTIONS.get(row["direction"])
    difference = interval = None
    if variant:
      difference = float(np.mean(variant) - np.mean(default))
      if min(len(default), len(variant)) >= MIN_SEEDS_TO_COMPARE:
        interval = _confidence_interval(variant, default)
    agrees = _verdict(interval, expected)
    too_few = interval is None
    if not variant:  # All of its seeds diverged, and all are counted.
      counts = num_seeds["default", row["config"]], len(row["seeds"])
      too_few = min(counts) < MIN_SEEDS_TO_COMPARE
    if agrees and too_few:
      agrees = "too few seeds"
    lines.append(
      {
        "label": row["label"],
        "config": row["config"],
        "metric": metric,
        "difference": difference,
        "interval": interval,
        "paper": row["direction"],
        "agrees": agrees,
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
