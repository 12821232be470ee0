"""Plots of numbers, curves and bars, and empty figures for pictures.

Matplotlib takes a second to import, so only functions that draw import it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
import typing

import numpy as np

if typing.TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure


def draw_curves(
  path: Path,
  panels: Mapping[str, Mapping[str, Sequence[tuple[float, ...]]]],
  losses: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
  """Draws panels of curves side by side, as in Figures 5, 21 and 22.

  Args:
    path: PNG file to write.
    panels: for each label of a horizontal axis, a dict from the name of a curve
      to its points. A point is (x, percent) or (x, percent, standard
      deviation).
    losses: dict from the name of a curve to its points (step, loss). If given,
      one more panel at the left shows them.
  """
  num_panels = len(panels) + bool(losses)
  figure = new_figure(3.8 * num_panels, 2.8)
  grid = figure.subplots(1, num_panels, squeeze=False)[0]
  if losses:
    for name, points in losses.items():
      grid[0].plot(*zip(*points), label=name, linewidth=1)
    grid[0].set_xlabel("step", fontsize=8)
    grid[0].set_ylabel("loss")
    # The negative log likelihood of a density can be negative.
    if all(loss > 0 for points in losses.values() for _, loss in points):
      grid[0].set_yscale("log")
  for axes, (label, curves) in zip(grid[bool(losses) :], panels.items()):
    for name, points in curves.items():
      axes.errorbar(*zip(*points), marker="o", markersize=3, label=name)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("%")
    axes.set_ylim(-2, 102)
    axes.xaxis.get_major_locator().set_params(integer=True)
  for axes in grid:
    # The legend stands beside the curves to hide none of them.
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
  figure.savefig(path, dpi=130)


def draw_bars(
  path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
  """Draws bars of means with standard deviations and a dot per seed.

  Args:
    path: PNG file to write.
    panels: for each metric, a dict from the label of a bar to the values of its
      seeds in percent. The first bar is at the top. A bar without values is
      labelled "diverged".
  """
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  num_bars = max(map(len, panels.values()))
  figure = new_figure(2 + 3 * columns, rows * (0.7 + 0.26 * num_bars))
  grid = figure.subplots(rows, columns, squeeze=False).flat
  for axes in grid[len(panels) :]:
    axes.axis("off")
  for axes, (metric, bars) in zip(grid, panels.items()):
    for y, values in enumerate(bars.values()):
      if not values:
        axes.text(1, y, "diverged", va="center", fontsize=7)
        continue
      mean, deviation = np.mean(values), np.std(values)
      axes.barh(y, mean, 0.7, xerr=deviation, color="lightblue", capsize=3)
      axes.plot(values, [y] * len(values), "o", color="C3", markersize=3)
    axes.set_yticks(range(len(bars)), list(bars), fontsize=7)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    lowest = min((x for values in bars.values() for x in values), default=0)
    axes.set_xlim(min(0, 1.1 * lowest), 102)
    axes.set_xlabel(f"{metric} (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
  figure.savefig(path, dpi=130)


def new_figure(
  width: float, height: float, layout: str | None = "constrained"
) -> "Figure":
  """Makes an empty figure.

  It does not use pyplot, which would look for a display and keep every figure
  in memory.

  Args:
    width: width in inches.
    height: height in inches.
    layout: how matplotlib places the axes; None leaves them where they are.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout=layout)
  FigureCanvasAgg(figure)
  return figure


def new_page(width: float, height: float) -> "tuple[Figure, Axes]":
  """Makes a figure with axes in inches from its upper left corner.

  The axes cover the whole figure: matplotlib would take seconds to lay out one
  pair of axes for each of many pictures.
  """
  figure = new_figure(width, height, layout=None)
  axes = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
  axes.set(xlim=(0, width), ylim=(height, 0))
  axes.axis("off")
  return figure, axes
