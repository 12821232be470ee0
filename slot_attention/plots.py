"""Plots of numbers, curves and bars, and empty figures for pictures.

Matplotlib takes a second to import, so only functions that draw import it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
import typing
from typing import BinaryIO

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
  names = dict.fromkeys(name for curves in panels.values() for name in curves)
  # A curve has the same colour in all panels.
  colors = {name: f"C{i}" for i, name in enumerate(names)}
  for axes, (label, curves) in zip(grid[bool(losses) :], panels.items()):
    for name, points in curves.items():
      style = {"marker": "o", "markersize": 3, "color": colors[name]}
      axes.errorbar(*zip(*points), label=name, **style)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("%")
    lowest = min(y for points in curves.values() for _, y, *_ in points)
    axes.set_ylim(min(-2, 1.1 * lowest), 102)
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


def draw_grid(
  path: Path | BinaryIO,
  rows: Sequence[Mapping[str, np.ndarray]],
  labels: Sequence[str],
  colors: Mapping[str, Sequence[float]],
) -> None:
  """Draws rows of pictures, with the titles of the first row above.

  Args:
    path: PNG file to write.
    rows: for each row, a dict from title to picture, RGB [H, W, 3] or grey [h,
      w] in [0, 1]. All rows have the same titles.
    labels: of the rows; "" for none.
    colors: RGB of the border of every picture below a title; a title that is
      not in it has none.
  """
  pitch = 1.1  # Inches from picture to picture. Their larger side is 1 inch.
  left, top = 0.05 + 0.25 * any(labels), 0.25
  figure, axes = new_page(
    left + pitch * len(rows[0]) - 0.05, top + pitch * len(rows) - 0.05
  )
  for c, title in enumerate(rows[0]):
    x = left + pitch * c + 0.5
    axes.text(x, top - 0.07, title, fontsize=9, ha="center")
  for r, (row, label) in enumerate(zip(rows, labels)):
    y = top + pitch * r + 0.5
    axes.text(
      left / 2, y, label, fontsize=8, rotation=90, ha="center", va="center"
    )
    for c, (title, picture) in enumerate(row.items()):
      x = left + pitch * c + 0.5
      show(axes, picture, x, y, 1, border=colors.get(title))
  figure.savefig(path, dpi=110)


def show(
  axes: "Axes",
  picture: np.ndarray,
  x: float,
  y: float,
  side: float,
  border: Sequence[float] | None = None,
) -> None:
  """Draws a picture around the point (x, y); its larger side is `side`.

  Args:
    axes: see `new_page`.
    picture: RGB [H, W, 3] or grey [H, W], in [0, 1].
    x: of the centre, in inches from the left.
    y: of the centre, in inches from the top.
    side: in inches.
    border: RGB of a border, or None.
  """
  from matplotlib.patches import Rectangle

  height, width = side * np.array(picture.shape[:2]) / max(picture.shape[:2])
  left, top = x - width / 2, y - height / 2
  axes.imshow(
    picture,
    extent=(left, left + width, top + height, top),
    cmap="gray",
    vmin=0,
    vmax=1,
    interpolation="none",
    aspect="auto",
  )
  if border is not None:
    style = {"fill": False, "color": border, "linewidth": 2}
    axes.add_patch(Rectangle((left, top), width, height, **style))
