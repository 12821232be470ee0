"""What every source of CLEVR shares: properties, targets, framing.

Letters in shapes: N images, M places for objects, P = 19 numbers per object.
"""

from collections.abc import Mapping

import numpy as np
import scipy.ndimage

# Classes in the order of the targets. The sources order theirs differently, so
# classes always pass from one to another by name.
PROPERTIES = {
  "size": ("small", "large"),
  "material": ("rubber", "metal"),
  "shape": ("cube", "sphere", "cylinder"),
  "color": (
    "gray", "blue", "brown", "yellow", "red", "green", "purple", "cyan",
  ),
}  # fmt: skip
MAX_OBJECTS = 10
TARGET_SIZE = 3 + sum(len(classes) for classes in PROPERTIES.values()) + 1

# Rows and columns that object discovery keeps (the paper's E.1 swaps them).
CROP_ROWS = slice(29, 221)
CROP_COLUMNS = slice(64, 256)


def encode_targets(
  coords: np.ndarray, classes: Mapping[str, np.ndarray], is_object: np.ndarray
) -> np.ndarray:
  """Objects as the targets of set prediction (E.4).

  Args:
    coords: float [N, M, 3], x, y and z in CLEVR's units, -3 to 3.
    classes: for each of `PROPERTIES` int [N, M], the index of the class.
    is_object: bool [N, M]; the other places are padding, whatever they hold.

  Returns:
    float32 [N, M, 19]: (coords + 3) / 6; size, material, shape and colour one
    hot; 1 for a real object. Padding is all zero.
  """
  parts = [(np.asarray(coords, np.float32) + 3) / 6]
  for name, names in PROPERTIES.items():
    parts.append(np.eye(len(names), dtype=np.float32)[classes[name]])
  parts.append(np.ones((*is_object.shape, 1), np.float32))
  return np.concatenate(parts, -1) * is_object[..., None].astype(np.float32)


def frame(images: np.ndarray, *, crop: bool, image_size: int) -> np.ndarray:
  """Brings images to the square that the models see (E.1, E.2).

  Bilinear with half-pixel centres and without antialiasing, as the official
  code resizes. The result is rounded to uint8.

  Args:
    images: uint8 [N, H, W, C].
    crop: whether to cut out the centre (`CROP_ROWS`, `CROP_COLUMNS`) first, as
      for object discovery. Set prediction squashes the whole image.
    image_size: side of the result.

  Returns:
    uint8 [N, image_size, image_size, C].
  """
  images = _cut_out(images, crop).astype(np.float32)
  _, height, width, _ = images.shape
  # Every pixel by itself, and so the same in any batch.
  resized = scipy.ndimage.zoom(
    images,
    (1, image_size / height, image_size / width, 1),
    order=1,
    mode="nearest",
    grid_mode=True,
  )
  return np.rint(resized).astype(np.uint8)


def frame_segments(
  segments: np.ndarray, *, crop: bool, image_size: int
) -> np.ndarray:
  """Brings uint8 [N, H, W] to the frame of `frame`, by the nearest pixel."""
  segments = _cut_out(segments, crop)
  rows, columns = (
    ((np.arange(image_size) + 0.5) * size / image_size).astype(int)
    for size in segments.shape[1:]
  )
  return segments[:, rows[:, None], columns]


def _cut_out(images, crop):
  return images[:, CROP_ROWS, CROP_COLUMNS] if crop else images
