"""Pictures of what slots hold and attend to.

Functions named draw_* write PNG files; the others return arrays. Letters in
shapes: B images, H and W image, C colour channels, T iterations, h and w
feature map, N = h w inputs, K slots, D slot size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from slot_attention import losses, plots
from slot_attention.metrics import (
  CATEGORIES,
  COORDINATE_RANGE,
  COORDINATES,
  REAL_OBJECT,
  map_size,
)


def to_picture(images: np.ndarray) -> np.ndarray:
  """Maps images [..., C] in [-1, 1] to RGB [..., 3], clipped to [0, 1]."""
  pictures = np.clip(np.asarray(images) / 2 + 0.5, 0, 1)
  if pictures.shape[-1] == 1:
    pictures = np.repeat(pictures, 3, axis=-1)
  return pictures


def slot_colors(num_slots: int) -> np.ndarray:
  """Returns colours that are easy to tell apart, RGB [K, 3] in [0, 1].

  The hues advance by the golden ratio, so the colour of a slot does not depend
  on the number of slots.
  """
  hues = (np.arange(num_slots) * 0.618034) % 1
  channels = (hues[:, None] * 6 + np.array([0, 4, 2])) % 6
  rgb = np.clip(np.abs(channels - 3) - 1, 0, 1)
  return 0.15 + 0.8 * rgb


def color_by_mask(
  masks: np.ndarray, colors: np.ndarray | None = None
) -> np.ndarray:
  """Colours every pixel by its largest mask.

  Args:
    masks: [B, K, H, W, 1].
    colors: [K, 3] in [0, 1]; None takes `slot_colors`.

  Returns:
    [B, H, W, 3] in [0, 1].
  """
  winner = np.asarray(masks)[..., 0].argmax(axis=1)
  return (slot_colors(masks.shape[1]) if colors is None else colors)[winner]


def cut_out(recons: np.ndarray, masks: np.ndarray) -> np.ndarray:
  """Cuts the image of each slot out by its mask, on a white background.

  Args:
    recons: [B, K, H, W, C] in [-1, 1].
    masks: [B, K, H, W, 1].

  Returns:
    [B, K, H, W, 3] in [0, 1].
  """
  masks = np.asarray(masks)
  return to_picture(recons) * masks + (1 - masks)


def attention_maps(attn: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
  """Reshapes attention [B, T, N, K] to maps [B, T, K, h, w].

  Args:
    attn: attention as returned by `SlotAttention`.
    image_size: H and W of the image. h and w have the same proportions.

  Raises:
    ValueError: if N inputs cannot form a map of these proportions.
  """
  batch_size, num_iterations, num_inputs, num_slots = attn.shape
  size = map_size(num_inputs, *image_size)
  maps = np.asarray(attn).reshape(batch_size, num_iterations, *size, num_slots)
  return np.moveaxis(maps, -1, 2)


def draw_examples(
  path: Path, images: np.ndarray, segments: np.ndarray | None
) -> None:
  """Draws a row of images and, below it, their segments in colours.

  Each video is a column of its frames, with its segments below each frame.

  Args:
    path: PNG file to write.
    images: uint8 [B, H, W, C], or videos [B, F, H, W, C].
    segments: uint8 [B, H, W] or [B, F, H, W], where 0 is background, drawn
      black. If None, only the images are drawn.
  """
  import matplotlib.image

  pictures = [to_picture(images.astype(np.float32) / 127.5 - 1)]
  if segments is not None:
    colors = np.concatenate([np.zeros((1, 3)), slot_colors(segments.max())])
    pictures.append(colors[segments])
  if images.ndim == 4:
    rows = pictures
  else:
    frames = range(images.shape[1])
    rows = [picture[:, t] for t in frames for picture in pictures]
  # White lines of two pixels separate the pictures.
  lines = ((0, 0), (0, 2), (0, 2), (0, 0))
  padded = [np.pad(row, lines, constant_values=1) for row in rows]
  sheet = np.concatenate([np.concatenate(row, axis=1) for row in padded])
  matplotlib.image.imsave(path, sheet[:-2, :-2])


def draw_slots(
  path: Path,
  images: jax.Array,
  outputs: dict[str, jax.Array],
  *,
  use_masks: bool = True,
) -> None:
  """Draws image, reconstruction, coloured masks, and every slot (Figure 3a).

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1]; each image becomes a row.
    outputs: outputs of `ObjectDiscovery` for these images.
    use_masks: whether the images of the slots are cut out by their masks. If
      False, they are drawn whole (Figure 4).
  """
  rows = _slot_rows(images, outputs, use_masks)
  _draw_grid(path, rows, labels=[""] * len(rows))


def draw_iterations(
  path: Path, images: jax.Array, iterations: Sequence[dict[str, jax.Array]]
) -> None:
  """Draws the rows of `draw_slots` after each iteration (Figure 3c).

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    iterations: for each iteration, the result of `ObjectDiscovery.decode` for
      its slots.
  """
  per_iteration = [_slot_rows(images, outputs, True) for outputs in iterations]
  _draw_grid(
    path,
    [row for rows in zip(*per_iteration) for row in rows],
    [f"t = {t + 1}" for t in range(len(iterations))] * len(images),
  )


def _slot_rows(images, outputs, use_masks):
  """Returns, for each image, a dict from title to picture."""
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
  """Returns a dict from title to picture of every slot."""
  return {f"Slot {k + 1}": slot for k, slot in enumerate(slots)}


def draw_attention(
  path: Path,
  images: jax.Array,
  attn: jax.Array,
  iterations: Sequence[int] | None = None,
) -> None:
  """Draws the attention of every slot, one row per image and iteration.

  White is attention 1, black is 0.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    attn: [B, T, N, K], the attention for these images.
    iterations: the iterations to show, from 1 to T. None shows all.
  """
  pictures = to_picture(images)
  maps = attention_maps(attn, pictures.shape[1:3])
  shown = iterations or range(1, maps.shape[1] + 1)
  blank = np.ones_like(pictures[0])
  rows = [
    {
      "Image": pictures[b] if t == shown[0] else blank,
      **_titled(maps[b, t - 1]),
    }
    for b in range(len(maps))
    for t in shown
  ]
  _draw_grid(path, rows, [f"t = {t}" for t in shown] * len(maps))


def draw_trajectory(path: Path, slots_per_iteration: jax.Array) -> None:
  """Draws how the slots of one image move from iteration to iteration.

  The axes are the first two principal components over all slots and iterations.
  Dots are initial slots, and every arrow is an iteration.

  Args:
    path: PNG file to write.
    slots_per_iteration: [T + 1, K, D], the initial slots first.
  """
  places, shares = principal_components(slots_per_iteration)
  num_slots = places.shape[1]
  figure = plots.new_figure(4, 3.2)
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


def principal_components(
  slots_per_iteration: jax.Array,
) -> tuple[np.ndarray, np.ndarray]:
  """Projects slots to their first two principal components.

  Args:
    slots_per_iteration: [T + 1, K, D], of one image.

  Returns:
    The places of the slots, [T + 1, K, 2], and the share of the variance that
    each of the two components has, [2].
  """
  slots = np.asarray(slots_per_iteration)
  centered = slots - slots.mean((0, 1))
  _, spread, axes_of_slots = np.linalg.svd(
    centered.reshape(-1, slots.shape[-1]), full_matrices=False
  )
  shares = spread**2 / (spread**2).sum()
  return centered @ axes_of_slots[:2].T, shares[:2]


def draw_predictions(
  path: Path,
  images: jax.Array,
  targets: jax.Array,
  predictions: jax.Array,
  properties: Mapping[str, Sequence[str]],
) -> None:
  """Draws the true objects and the predictions of each iteration (Table 2).

  Every true object has a row. The row shows the predictions that are matched to
  it, see `match_predictions`: the confidence that it is a real object, the
  distance from its true position in scene units, and its properties. Wrong
  properties, distances above 0.5 and confidences below 0.5 are red.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1].
    targets: [B, M, 19].
    predictions: [B, T, K, 19], after each of T iterations.
    properties: for each key of `metrics.CATEGORIES`, the names of its classes.
  """
  targets, predictions = np.asarray(targets), np.asarray(predictions)
  tables = []
  for true, predicted, matches in zip(
    targets, predictions, match_predictions(predictions, targets)
  ):
    real = np.flatnonzero(true[:, REAL_OBJECT])
    columns = {"True": [describe_object(true[i], properties) for i in real]}
    for t, (objects, matched) in enumerate(zip(predicted, matches), 1):
      columns[f"t = {t}"] = [
        describe_object(objects[matched[i]], properties, true[i])
        if i in matched
        else [("no slot is left", True)]
        for i in real
      ]
    tables.append(columns)
  _draw_tables(path, to_picture(images), tables)


@jax.jit
def _match_sets(predictions, targets):
  _, rows, columns = losses.match_sets(predictions, targets)
  return rows, columns


def match_predictions(
  predictions: np.ndarray, targets: np.ndarray
) -> list[list[dict[int, int]]]:
  """Matches targets [B, M, P] to predictions [B, T, K, P].

  The costs are those of `losses.hungarian_huber_loss` with coordinate_scale 1.

  Returns:
    For each image and iteration, a dict from target to prediction.
  """
  batch_size, num_iterations, *shape = predictions.shape
  num_targets = targets.shape[1]
  pairs = _match_sets(
    predictions.reshape(-1, *shape), np.repeat(targets, num_iterations, axis=0)
  )
  rows, columns = np.reshape(pairs, (2, batch_size, num_iterations, -1))
  return [
    [
      {m: k for k, m in zip(r.tolist(), c.tolist()) if m < num_targets}
      for r, c in zip(*image)
    ]
    for image in zip(rows, columns)
  ]


def describe_object(
  thing: np.ndarray,
  properties: Mapping[str, Sequence[str]],
  true: np.ndarray | None = None,
) -> list[tuple[str, bool]]:
  """Describes an object [19] by words, each with whether it is wrong.

  Args:
    thing: the object, true or predicted.
    properties: see `draw_predictions`.
    true: the true object of a prediction; None describes a true object, whose
      position stands in the place of confidence and distance.
  """
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
  """Draws pictures below each other, each with a table at its right."""
  side, column, line = 1.5, 2.85, 0.15  # Inches.
  heights = [
    max(side, 0.25 + line * len(table["True"])) + 0.1 for table in tables
  ]
  figure, axes = plots.new_page(side + column * len(tables[0]), sum(heights))
  top = 0.05
  for picture, table, height in zip(pictures, tables, heights):
    plots.show(axes, picture, 0.05 + side / 2, top + side / 2, side - 0.1)
    for c, (title, rows) in enumerate(table.items()):
      x = side + 0.1 + column * c
      axes.text(x, top + 0.1, title, fontsize=7, va="center")
      for r, words in enumerate(rows):
        y = top + 0.3 + line * r
        # The black and the red words are two texts that overlay each other:
        # each has blanks in the places of the other's words.
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


def _draw_grid(path, rows, labels):
  """Draws a grid in which slots have borders of their colours."""
  slots = [title for title in rows[0] if title.startswith("Slot ")]
  colors = dict(zip(slots, slot_colors(len(slots))))
  plots.draw_grid(path, rows, labels, colors)
