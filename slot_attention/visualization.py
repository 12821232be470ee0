"""Pictures of what slots hold and attend to.

Functions named draw_* write PNG files with matplotlib, which is imported only
there; the others turn arrays into picture arrays. Letters in shapes: B images,
H and W, C colour channels, T iterations, N = h w inputs, K slots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from slot_attention import losses
from slot_attention.metrics import (
  CATEGORIES,
  COORDINATE_RANGE,
  COORDINATES,
  REAL_OBJECT,
  map_size,
)


def to_picture(images: np.ndarray) -> np.ndarray:
  """Images [..., C] in [-1, 1] to RGB [..., 3] in [0, 1], clipped."""
  pictures = np.clip(np.asarray(images) / 2 + 0.5, 0, 1)
  if pictures.shape[-1] == 1:
    pictures = np.repeat(pictures, 3, axis=-1)
  return pictures


def slot_colors(num_slots: int) -> np.ndarray:
  """Colours that are easy to tell apart, [K, 3] in [0, 1].

  Hues are spread by the golden ratio, so that further slots do not change the
  colours of the first.
  """
  hues = (np.arange(num_slots) * 0.618034) % 1
  channels = (hues[:, None] * 6 + np.array([0, 4, 2])) % 6
  rgb = np.clip(np.abs(channels - 3) - 1, 0, 1)
  return 0.15 + 0.8 * rgb


def color_by_mask(masks: np.ndarray) -> np.ndarray:
  """Masks [B, K, H, W, 1] to one picture, [B, H, W, 3], by largest mask."""
  winner = np.asarray(masks)[..., 0].argmax(axis=1)
  return slot_colors(masks.shape[1])[winner]


def cut_out(recons: np.ndarray, masks: np.ndarray) -> np.ndarray:
  """What each slot paints, on white: [B, K, H, W, 3] in [0, 1]."""
  masks = np.asarray(masks)
  return to_picture(recons) * masks + (1 - masks)


def attention_maps(attn: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
  """Attention [B, T, N, K] as maps [B, T, K, h, w].

  Args:
    attn: as `SlotAttention` returns it.
    image_size: H and W of the image, whose proportions h and w have.

  Raises:
    ValueError: if N inputs do not make a map of those proportions.
  """
  batch_size, num_iterations, num_inputs, num_slots = attn.shape
  size = map_size(num_inputs, *image_size)
  maps = np.asarray(attn).reshape(batch_size, num_iterations, *size, num_slots)
  return np.moveaxis(maps, -1, 2)


def draw_examples(
  path: Path, images: np.ndarray, segments: np.ndarray | None
) -> None:
  """A contact sheet: images in a row, their segments in colours below.

  Args:
    path: PNG file to write.
    images: uint8 [B, H, W, C].
    segments: uint8 [B, H, W], 0 (black) is background; None if not known.
  """
  import matplotlib.image

  rows = [to_picture(images.astype(np.float32) / 127.5 - 1)]
  if segments is not None:
    colors = np.concatenate([np.zeros((1, 3)), slot_colors(segments.max())])
    rows.append(colors[segments])
  # White lines of two pixels between the pictures.
  sheet = np.concatenate(
    [
      np.concatenate(
        np.pad(row, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=1),
        axis=1,
      )
      for row in rows
    ]
  )
  matplotlib.image.imsave(path, sheet[:-2, :-2])


def draw_slots(
  path: Path,
  images: jax.Array,
  outputs: dict[str, jax.Array],
  *,
  use_masks: bool = True,
) -> None:
  """Figure 3a: image, reconstruction, masks in colours, then every slot.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1], one row each.
    outputs: of `ObjectDiscovery` for them.
    use_masks: whether slots are cut out by their masks; if not, they are shown
      as they are painted (Figure 4).
  """
  rows = _slot_rows(images, outputs, use_masks)
  _draw_grid(path, rows, labels=[""] * len(rows))


def draw_iterations(
  path: Path, images: jax.Array, iterations: Sequence[dict[str, jax.Array]]
) -> None:
  """Figure 3c: the rows of Figure 3a after each iteration.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    iterations: of each, what `ObjectDiscovery.decode` makes of its slots.
  """
  per_iteration = [_slot_rows(images, outputs, True) for outputs in iterations]
  _draw_grid(
    path,
    [row for rows in zip(*per_iteration) for row in rows],
    [f"t = {t + 1}" for t in range(len(iterations))] * len(images),
  )


def _slot_rows(images, outputs, use_masks):
  """A row of titled pictures for each image."""
  slots = to_picture(outputs["recons"])
  if use_masks:
    slots = cut_out(outputs["recons"], outputs["masks"])
  columns = {
    "Image": to_picture(images),
    "Recon.": to_picture(outputs["recon_combined"]),
    "Mask": color_by_mask(outputs["masks"]),
    **_titled(np.moveaxis(slots, 1, 0)),
  }
  return [
    {title: pictures[b] for title, pictures in columns.items()}
    for b in range(len(images))
  ]


def _titled(slots):
  """Title to picture of every slot."""
  return {f"Slot {k + 1}": slot for k, slot in enumerate(slots)}


def draw_attention(path: Path, images: jax.Array, attn: jax.Array) -> None:
  """Attention of every slot, one row for each image and iteration.

  White is attention 1, black is 0.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    attn: [B, T, N, K] of them.
  """
  pictures = to_picture(images)
  maps = attention_maps(attn, pictures.shape[1:3])
  rows, labels = [], []
  for b, t in np.ndindex(*maps.shape[:2]):
    blank = np.ones_like(pictures[b])
    rows.append(
      {
        "Image": pictures[b] if t == 0 else blank,
        **_titled(maps[b, t]),
      }
    )
    labels.append(f"t = {t + 1}")
  _draw_grid(path, rows, labels)


def draw_trajectory(path: Path, slots_per_iteration: jax.Array) -> None:
  """The way of the slots of one image, from noise to what they hold.

  Their two principal components, over all slots and iterations; dots are the
  initial slots, arrows the iterations.

  Args:
    path: PNG file to write.
    slots_per_iteration: [T + 1, K, D], the initial slots first.
  """
  slots = np.asarray(slots_per_iteration)
  _, num_slots, size = slots.shape
  centered = slots - slots.mean((0, 1))
  _, spread, axes_of_slots = np.linalg.svd(
    centered.reshape(-1, size), full_matrices=False
  )
  shares = spread**2 / (spread**2).sum()
  places = centered @ axes_of_slots[:2].T  # [T + 1, K, 2]
  figure = _new_figure(4, 3.2)
  axes = figure.subplots()
  for k, color in enumerate(slot_colors(num_slots)):
    x, y = places[:, k].T
    axes.plot(x[0], y[0], "o", color=color, label=f"Slot {k + 1}")
    axes.quiver(
      x[:-1], y[:-1], np.diff(x), np.diff(y),
      color=color, angles="xy", scale_units="xy", scale=1, width=0.007,
    )  # fmt: skip
  axes.update_datalim(places.reshape(-1, 2))
  axes.autoscale_view()
  axes.set_xlabel(f"first component ({shares[0]:.0%})", fontsize=8)
  axes.set_ylabel(f"second component ({shares[1]:.0%})", fontsize=8)
  axes.legend(fontsize=6)
  axes.grid(alpha=0.3)
  figure.savefig(path, dpi=130)


def draw_predictions(
  path: Path,
  images: jax.Array,
  targets: jax.Array,
  predictions: jax.Array,
  properties: Mapping[str, Sequence[str]],
) -> None:
  """Table 2: true objects, and what is predicted of them after each iteration.

  Every true object stands in a row with the prediction that the matching of
  the loss gives it: how surely it is an object, how far it is (scene units),
  and its properties. Wrong properties, distances above 0.5 and objects that are
  taken for none are red.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    targets: [B, M, 19].
    predictions: [B, T, K, 19], after each of T iterations.
    properties: the names of the classes of each of `metrics.CATEGORIES`.
  """
  targets, predictions = np.asarray(targets), np.asarray(predictions)
  tables = []
  for true, predicted, matches in zip(
    targets, predictions, _match(predictions, targets)
  ):
    real = np.flatnonzero(true[:, REAL_OBJECT])
    columns = {"True": [_describe(true[i], properties) for i in real]}
    for t, (objects, matched) in enumerate(zip(predicted, matches), 1):
      columns[f"t = {t}"] = [
        _describe(objects[matched[i]], properties, true[i])
        if i in matched
        else [("no slot is left", True)]
        for i in real
      ]
    tables.append(columns)
  _draw_tables(path, to_picture(images), tables)


@jax.jit
def _match_sets(predictions, targets):
  return losses.match(losses.matching_costs(predictions, targets))


def _match(predictions, targets):
  """Target to prediction by the matching of the loss, of each [B][T]."""
  num_iterations = predictions.shape[1]
  rows, columns = _match_sets(
    predictions.reshape(-1, *predictions.shape[2:]),
    np.repeat(targets, num_iterations, axis=0),
  )
  matches = [
    dict(zip(column.tolist(), row.tolist()))
    for column, row in zip(np.asarray(columns), np.asarray(rows))
  ]
  return [
    matches[i : i + num_iterations]
    for i in range(0, len(matches), num_iterations)
  ]


def _describe(thing, properties, true=None):
  """An object as words, each with whether it is wrong."""
  scale = COORDINATE_RANGE
  coords = scale * thing[COORDINATES] - scale / 2
  words = [(f"({', '.join(f'{x:5.2f}' for x in coords)})", False)]
  if true is not None:
    distance = scale * np.linalg.norm((thing - true)[COORDINATES])
    sure = thing[REAL_OBJECT]
    words = [
      (f"{sure:4.2f}", sure < 0.5),
      (f"d = {distance:4.2f}", distance > 0.5),
    ]
  for name, place in CATEGORIES.items():
    index = thing[place].argmax()
    wrong = true is not None and index != true[place].argmax()
    words.append((properties[name][index], wrong))
  return words


def _draw_tables(path, pictures, tables):
  """One picture and the columns of words of its table below another."""
  side, column, line = 1.5, 2.85, 0.15  # Inches.
  heights = [
    max(side, 0.25 + line * len(table["True"])) + 0.1 for table in tables
  ]
  figure, axes = _new_page(side + column * len(tables[0]), sum(heights))
  top = 0.05
  for picture, table, height in zip(pictures, tables, heights):
    _show(axes, picture, 0.05 + side / 2, top + side / 2, side - 0.1)
    for c, (title, rows) in enumerate(table.items()):
      x = side + 0.1 + column * c
      axes.text(x, top + 0.1, title, fontsize=7, va="center")
      for r, words in enumerate(rows):
        y = top + 0.3 + line * r
        # Two texts of equal widths, each with blanks where the other has words.
        for color, red in (("black", False), ("red", True)):
          shown = " ".join(
            word if wrong == red else " " * len(word) for word, wrong in words
          )
          if shown.strip():
            axes.text(
              x, y, shown, color=color, fontsize=6, family="monospace",
              va="center",
            )  # fmt: skip
    top += height
  figure.savefig(path, dpi=130)


def draw_curves(
  path: Path,
  panels: Mapping[str, Mapping[str, Sequence[tuple[float, ...]]]],
  losses: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
  """Curves side by side, as in Figures 5, 21 and 22.

  Args:
    path: PNG file to write.
    panels: label of the horizontal axis to name of a curve to its points, x and
      percent, and a standard deviation if there is one.
    losses: name to points, step and loss, of one more panel at the left.
  """
  num_panels = len(panels) + bool(losses)
  figure = _new_figure(3.8 * num_panels, 2.8)
  grid = figure.subplots(1, num_panels, squeeze=False)[0]
  if losses:
    for name, points in losses.items():
      grid[0].plot(*zip(*points), label=name, linewidth=1)
    grid[0].set_xlabel("step", fontsize=8)
    grid[0].set_ylabel("loss")
    grid[0].set_yscale("log")
  for axes, (label, curves) in zip(grid[bool(losses) :], panels.items()):
    for name, points in curves.items():
      axes.errorbar(*zip(*points), marker="o", markersize=3, label=name)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("%")
    axes.set_ylim(-2, 102)
    axes.xaxis.get_major_locator().set_params(integer=True)
  for axes in grid:
    # Beside the curves, not over them.
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
  figure.savefig(path, dpi=130)


def draw_bars(
  path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
  """Bars of means with standard deviations, and a dot for each seed.

  Args:
    path: PNG file to write.
    panels: metric to label of a bar, from above, to the percent of its seeds;
      no seeds are shown as diverged.
  """
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  num_bars = max(map(len, panels.values()))
  figure = _new_figure(2 + 3 * columns, rows * (0.7 + 0.26 * num_bars))
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


def _draw_grid(path, rows, labels):
  """Pictures [H, W, 3] or maps [h, w] under the titles of the first row.

  Those of slots have a border in the colour of the slot.
  """
  pitch = 1.1  # Inches from picture to picture, whose larger side is one.
  left, top = 0.05 + 0.25 * any(labels), 0.25
  figure, axes = _new_page(
    left + pitch * len(rows[0]) - 0.05, top + pitch * len(rows) - 0.05
  )
  slots = [title for title in rows[0] if title.startswith("Slot ")]
  colors = dict(zip(slots, slot_colors(len(slots))))
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
      _show(axes, picture, x, y, 1, border=colors.get(title))
  figure.savefig(path, dpi=110)


def _new_page(width, height):
  """A figure, and axes all over it in inches from its upper left corner.

  Axes for each of many pictures would take seconds to lay out.
  """
  figure = _new_figure(width, height, layout=None)
  axes = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
  axes.set(xlim=(0, width), ylim=(height, 0))
  axes.axis("off")
  return figure, axes


def _show(axes, picture, x, y, side, border=None):
  """Draws a picture around a point of a page; its larger side is given."""
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
    axes.add_patch(
      Rectangle(
        (left, top), width, height, fill=False, color=border, linewidth=2
      )
    )


def _new_figure(width, height, layout="constrained"):
  """A figure of a size in inches."""
  # The object interface: pyplot would open a display and keep the figures.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout=layout)
  FigureCanvasAgg(figure)
  return figure
