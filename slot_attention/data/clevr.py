"""The properties, targets and image framing that all CLEVR sources share.

Letters in shapes: N images, M rows for objects, P = 19 numbers per object.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Classes in the order of the targets. The sources of CLEVR use other orders, so
# classes are always converted by name.
PROPERTIES = {
  "size": ("small", "large"),
  "material": ("rubber", "metal"),
  "shape": ("cube", "sphere", "cylinder"),
  "color": (
    "gray", "blue", "brown", "yellow", "red", "green", "purple", "cyan",
  ),
}  # fmt: skip
# The number of each class in the targets.
CLASS_NUMBERS = {
  name: {class_: number for number, class_ in enumerate(classes)}
  for name, classes in PROPERTIES.items()
}
MAX_OBJECTS = 10
TARGET_SIZE = 3 + sum(len(classes) for classes in PROPERTIES.values()) + 1

# Rows and columns that object discovery keeps of images of CROPPED_SIZE, height
# and width. (The paper's E.8 swaps rows and columns.)
CROPPED_SIZE = (240, 320)
CROP_ROWS = slice(29, 221)
CROP_COLUMNS = slice(64, 256)


def encode_targets(
  coords: np.ndarray, classes: Mapping[str, np.ndarray], is_object: np.ndarray
) -> np.ndarray:
  """Encodes objects as the targets of set prediction (E.4).

  Args:
    coords: float [N, M, 3], x, y and z in CLEVR's units, from -3 to 3.
    classes: for each key of `PROPERTIES` int [N, M], the index of the class.
    is_object: bool [N, M]. Rows where it is False are padding; their coords and
      classes are ignored.

  Returns:
    float32 [N, M, 19]: (coords + 3) / 6; one-hot size, material, shape and
    colour; 1 for a real object. Padding is all zero.
  """
  parts = [(np.asarray(coords, np.float32) + 3) / 6]
  for name, names in PROPERTIES.items():
    parts.append(np.eye(len(names), dtype=np.float32)[classes[name]])
  parts.append(np.ones((*is_object.shape, 1), np.float32))
  return np.concatenate(parts, -1) * is_object[..., None].astype(np.float32)


def encode_scene(objects: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Encodes the objects of one scene as targets, float32 [10, 19].

  Args:
    objects: dicts with 3d_coords and the name of the class of each property, as
      in CLEVR's files of scenes.

  Raises:
    LookupError, TypeError, ValueError: if an object is not like this, or if
      there are more than `MAX_OBJECTS`.
  """
  coords = np.zeros((1, MAX_OBJECTS, 3), np.float32)
  classes = {name: np.zeros((1, MAX_OBJECTS), int) for name in PROPERTIES}
  for place, item in enumerate(objects):
    coords[0, place] = item["3d_coords"]
    for name, numbers in CLASS_NUMBERS.items():
      classes[name][0, place] = numbers[item[name]]
  is_object = np.arange(MAX_OBJECTS)[None] < len(objects)
  return encode_targets(coords, classes, is_object)[0]


def frame(images: np.ndarray, *, crop: bool, image_size: int) -> np.ndarray:
  """Crops and resizes images to the square input of the models (E.8).

  As in the official code, the resizing is bilinear with half-pixel centres and
  without antialiasing. The result is rounded to uint8.

  Args:
    images: uint8 [N, H, W, C].
    crop: True crops the images to `CROP_ROWS` and `CROP_COLUMNS` first, as for
      object discovery. False squashes the whole image, as for set prediction.
    image_size: side of the result, in pixels.

  Returns:
    uint8 [N, image_size, image_size, C].
  """
  import scipy.ndimage  # Its import takes long and is rarely needed.

  images = _cut_out(images, crop).astype(np.float32)
  _, height, width, _ = images.shape
  # The result for an image does not depend on the other images.
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
  """Crops and resizes segments uint8 [N, H, W] to the nearest pixel.

  See `frame` for the arguments.
  """
  return resize_to_nearest(_cut_out(segments, crop), (image_size, image_size))


def resize_to_nearest(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Resizes maps [..., H, W] to a shape (h, w) by the nearest pixel.

  Returns:
    [..., h, w] of the same type. Row i takes row floor((i + 0.5) H / h), and
    columns do the same.
  """
  rows, columns = (
    ((np.arange(size) + 0.5) * given / size).astype(int)
    for size, given in zip(shape, maps.shape[-2:])
  )
  return maps[..., rows[:, None], columns]


def _cut_out(images, crop):
  if not crop:
    return images
  height, width = images.shape[1:3]
  if height < CROP_ROWS.stop or width < CROP_COLUMNS.stop:
    raise ValueError(
      f"images of {height}x{width} pixels (height x width) do not contain the"
      f" crop, rows {CROP_ROWS.start} to {CROP_ROWS.stop} and columns"
      f" {CROP_COLUMNS.start} to {CROP_COLUMNS.stop}: set"
      " data.preprocessing.crop=False"
    )
  return images[:, CROP_ROWS, CROP_COLUMNS]
