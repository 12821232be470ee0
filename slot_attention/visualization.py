"""Pictures of what slots hold and attend to.

Functions named draw_* write PNG files with matplotlib, which is imported only
there; the others turn arrays into picture arrays. Letters in shapes: B images,
H and W, C colour channels, T iterations, N = h w inputs, K slots.
"""

from pathlib import Path

import jax
import numpy as np


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
  height, width = image_size
  batch_size, num_iterations, num_inputs, num_slots = attn.shape
  h = round((num_inputs * height / width) ** 0.5)
  if h * round(h * width / height) != num_inputs:
    raise ValueError(
      f"{num_inputs} inputs are no map of a {height}x{width} image"
    )
  maps = np.asarray(attn).reshape(
    batch_size, num_iterations, h, num_inputs // h, num_slots
  )
  return np.moveaxis(maps, -1, 2)


def draw_slots(
  path: Path, images: jax.Array, outputs: dict[str, jax.Array]
) -> None:
  """Figure 3a: image, reconstruction, masks in colours, then every slot.

  Args:
    path: PNG file to write.
    images: [B, H, W, C] in [-1, 1], one row each.
    outputs: of `ObjectDiscovery` for them.
  """
  slots = cut_out(outputs["recons"], outputs["masks"])
  columns = {
    "Image": to_picture(images),
    "Recon.": to_picture(outputs["recon_combined"]),
    "Mask": color_by_mask(outputs["masks"]),
    **{f"Slot {k + 1}": slots[:, k] for k in range(slots.shape[1])},
  }
  rows = [
    {title: pictures[b] for title, pictures in columns.items()}
    for b in range(len(images))
  ]
  _draw_grid(path, rows, labels=[""] * len(rows))


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
        **{f"Slot {k + 1}": m for k, m in enumerate(maps[b, t])},
      }
    )
    labels.append(f"t = {t + 1}")
  _draw_grid(path, rows, labels)


def _draw_grid(path, rows, labels):
  """Pictures [H, W, 3] or maps [h, w] under the titles of the first row."""
  # The object interface: pyplot would open a display and keep the figures.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  num_rows, num_columns = len(rows), len(rows[0])
  figure = Figure(
    figsize=(1.1 * num_columns + 0.4, 1.1 * num_rows + 0.3),
    layout="constrained",
  )
  FigureCanvasAgg(figure)
  grid = figure.subplots(num_rows, num_columns, squeeze=False)
  for axes, title in zip(grid[0], rows[0]):
    axes.set_title(title, fontsize=9)
  for axes_of_row, row, label in zip(grid, rows, labels):
    axes_of_row[0].set_ylabel(label, fontsize=8)
    for axes, picture in zip(axes_of_row, row.values()):
      axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="none")
      axes.set_xticks([])
      axes.set_yticks([])
      for spine in axes.spines.values():
        spine.set_visible(False)
  figure.savefig(path, dpi=110)
