"""Procedural CLEVR: random scenes by the rules of the public generator.

Objects of random size, shape, colour and material lie on the ground. They keep
a minimal distance from each other, also along the directions left-right and
front-behind, and none of them is almost hidden (Johnson et al., 2017).
`clevr_renderer` draws the scenes.

Letters in shapes: N scenes, M = 10 rows for objects, S side of the image.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from slot_attention.checks import check_at_least
from slot_attention.data import clevr, clevr_renderer

CHUNK_SIZE = 100

# Lengths are in CLEVR's units.
MAX_COORDINATE = 3.0
MIN_DISTANCE = 0.25  # Between the circles around two objects.
MIN_MARGIN = 0.4  # Between two centres, along left-right and front-behind.
MAX_TRIES = 50  # Random positions for an object before the scene starts over.
MIN_PIXELS = 200  # Visible pixels of each object in an image of 320x240.

CAMERA = (7.4811, -6.5076, 5.3437)
CAMERA_JITTER = 0.5  # Uniform within plus or minus this, on every axis.
LAMPS = (
  (6.4467, -2.9052, 4.2584),
  (-4.6711, -4.0136, 3.0112),
  (-1.1685, 2.6460, 5.8157),
)
LAMP_JITTER = 1.0

# Unit vectors along the ground, as seen from the camera without its jitter.
DIRECTIONS = {
  "right": (0.6563113, 0.7544903, 0.0),
  "behind": clevr_renderer.BEHIND,
  "above": (0.0, 0.0, 1.0),
  "left": (-0.6563113, -0.7544903, 0.0),
  "front": (0.7544903, -0.6563113, 0.0),
  "below": (0.0, 0.0, -1.0),
}
# An object is, for example, left of another one if its centre is at least this
# far to the left of the other centre.
RELATION_MARGIN = 0.2


def sample(
  numbers: Sequence[int],
  *,
  seed: int,
  min_objects: int = 3,
  max_objects: int = clevr.MAX_OBJECTS,
  only_large: bool = False,
  distinct_colors: bool = False,
) -> clevr_renderer.Scenes:
  """Samples scenes at random.

  If the objects of a scene do not fit or are hidden, they are sampled again,
  but the number of objects, the camera and the lamps stay. Scenes with many
  objects are therefore as frequent as others.

  Args:
    numbers: the N numbers of the scenes in the data set. A scene depends only
      on its own number.
    seed: seed of the data set.
    min_objects: smallest number of objects in a scene.
    max_objects: largest number of objects in a scene. The number is uniform.
    only_large: whether all objects are large.
    distinct_colors: whether all objects of a scene have different colours.

  Returns:
    Scenes. The rows after the first `num_objects` are zero.

  Raises:
    ValueError: if min_objects or max_objects is out of range.
  """
  _check_num_objects(min_objects, max_objects, distinct_colors)
  done, pending, attempt = {}, list(numbers), 0
  while pending:
    scenes = [
      _sample_scene(
        [seed, number],
        attempt,
        (min_objects, max_objects),
        only_large,
        distinct_colors,
      )
      for number in pending
    ]
    pixels = clevr_renderer.count_pixels(_stack(scenes))
    is_good = [
      pixels[i, : scene.num_objects].min() >= MIN_PIXELS
      for i, scene in enumerate(scenes)
    ]
    for number, scene, good in zip(pending, scenes, is_good):
      if good:
        done[number] = scene
    pending = [number for number in pending if number not in done]
    attempt += 1
  return _stack([done[number] for number in numbers])


def generate(
  chunk: int,
  *,
  seed: int,
  crop: bool,
  image_size: int = 128,
  samples: int = 9,
  min_objects: int = 3,
  max_objects: int = clevr.MAX_OBJECTS,
  only_large: bool = False,
  distinct_colors: bool = False,
  black_level: int = 0,
  white_level: int = 255,
) -> dict[str, np.ndarray]:
  """Makes one chunk of the data set, N = CHUNK_SIZE examples.

  An example depends only on its number, the seed and the options.

  Args:
    chunk: number of the chunk, from 0.
    seed: seed of the data set.
    crop: True draws the central crop of a 320x240 image, as for object
      discovery. False draws a whole 480x320 image, squashed (E.8).
    image_size: side S of the images, in pixels.
    samples: number of rays per pixel.
    min_objects: smallest number of objects in a scene.
    max_objects: largest number of objects in a scene. The number is uniform.
    only_large: whether all objects are large.
    distinct_colors: whether all objects of a scene have different colours.
    black_level: the value of a channel, from 0 to 255, that becomes 0.
    white_level: the value that becomes 255. CLEVR's images have little
      contrast, and values closer together than 255 raise it.

  Returns:
    A dict of
      images: uint8 [N, S, S, 3];
      segments: uint8 [N, S, S], 0 for the ground, m + 1 for object m;
      targets: float32 [N, M, 19], see `clevr.encode_targets`. Objects outside
        the crop have targets too.
  """
  scenes = sample(
    range(chunk * CHUNK_SIZE, (chunk + 1) * CHUNK_SIZE),
    seed=seed,
    min_objects=min_objects,
    max_objects=max_objects,
    only_large=only_large,
    distinct_colors=distinct_colors,
  )
  return draw(
    scenes,
    crop=crop,
    image_size=image_size,
    samples=samples,
    black_level=black_level,
    white_level=white_level,
  )


def draw(
  scenes: clevr_renderer.Scenes,
  *,
  crop: bool,
  image_size: int = 128,
  samples: int = 9,
  black_level: int = 0,
  white_level: int = 255,
) -> dict[str, np.ndarray]:
  """Draws N scenes, and encodes their objects; see `generate`."""
  framing = clevr_renderer.CENTRE if crop else clevr_renderer.WHOLE
  images, segments = clevr_renderer.render(
    scenes, framing=framing, image_size=image_size, samples=samples
  )
  images = stretch(images, black_level=black_level, white_level=white_level)
  is_object = np.arange(clevr.MAX_OBJECTS) < scenes.num_objects[:, None]
  targets = clevr.encode_targets(scenes.coords, scenes.classes, is_object)
  return {"images": images, "segments": segments, "targets": targets}


def stretch(
  images: np.ndarray, *, black_level: int = 0, white_level: int = 255
) -> np.ndarray:
  """Raises the contrast of images, uint8 of any shape; see `generate`."""
  stretched = (images - np.float32(black_level)) / (white_level - black_level)
  return np.rint(255 * stretched.clip(0, 1)).astype(np.uint8)


def check_options(
  *,
  crop: bool = False,
  image_size: int = 128,
  samples: int = 9,
  min_objects: int = 3,
  max_objects: int = clevr.MAX_OBJECTS,
  only_large: bool = False,
  distinct_colors: bool = False,
  black_level: int = 0,
  white_level: int = 255,
) -> None:
  """Raises a ValueError for options that `generate` cannot use."""
  del crop, only_large  # All values can be used.
  check_at_least("image_size", image_size, 1)
  check_at_least("samples", samples, 1)
  _check_num_objects(min_objects, max_objects, distinct_colors)
  if not 0 <= black_level < white_level <= 255:
    raise ValueError(
      f"black_level={black_level} and white_level={white_level} must be in"
      " order, from 0 to 255"
    )


def _check_num_objects(min_objects, max_objects, distinct_colors):
  check_at_least("min_objects", min_objects, 1)
  if not min_objects <= max_objects <= clevr.MAX_OBJECTS:
    raise ValueError(
      f"max_objects={max_objects} must be from min_objects={min_objects} to"
      f" {clevr.MAX_OBJECTS}"
    )
  num_colors = len(clevr.PROPERTIES["color"])
  if distinct_colors and max_objects > num_colors:
    raise ValueError(
      f"max_objects={max_objects} must be at most {num_colors} with"
      " distinct_colors=True"
    )


def annotations(
  scenes: clevr_renderer.Scenes, *, width: int = 480, height: int = 320
) -> list[dict[str, Any]]:
  """Describes scenes by the fields of CLEVR's scene files.

  Args:
    scenes: N scenes.
    width: width in pixels of the image to which the field pixel_coords refers:
      column, row, and distance along the camera's axis.
    height: height of that image in pixels.

  Returns:
    For each scene, a dict that can be written as JSON.
  """
  described = []
  for index in range(len(scenes.num_objects)):
    scene = jax.tree.map(lambda x: x[index], scenes)  # noqa: B023
    num_objects = int(scene.num_objects)
    coords = scene.coords[:num_objects]
    pixel_coords = clevr_renderer.project(
      scene.camera, coords, width=width, height=height
    )
    objects = [
      {
        **{
          name: names[scene.classes[name][m]]
          for name, names in clevr.PROPERTIES.items()
        },
        "3d_coords": coords[m].tolist(),
        "rotation": float(scene.rotations[m]),
        "pixel_coords": [
          round(float(pixel_coords[m, 0])),
          round(float(pixel_coords[m, 1])),
          float(pixel_coords[m, 2]),
        ],
      }
      for m in range(num_objects)
    ]
    described.append(
      {
        "image_index": index,
        "objects": objects,
        "directions": {name: list(d) for name, d in DIRECTIONS.items()},
        "relationships": _relationships(coords),
      }
    )
  return described


def _relationships(coords):
  """Lists, for each direction and object, the objects in that direction."""
  offsets = coords - coords[:, None]
  return {
    name: [
      np.flatnonzero(row > RELATION_MARGIN).tolist()
      for row in offsets @ np.array(direction)
    ]
    for name, direction in DIRECTIONS.items()
    if name not in ("above", "below")
  }


def _sample_scene(seeds, attempt, num_range, only_large, distinct_colors):
  """Samples one scene, without the axis N, which may be rejected later.

  The seeds are that of the data set and the number of the scene, and num_range
  is the smallest and the largest number of objects.
  """
  rng = np.random.default_rng(seeds)
  num_objects = rng.integers(*num_range, endpoint=True)
  camera = CAMERA + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
  lamps = LAMPS + rng.uniform(-LAMP_JITTER, LAMP_JITTER, (3, 3))
  noise_seed = rng.integers(2**32, dtype=np.uint32)

  rng = np.random.default_rng([*seeds, 1 + attempt])
  sizes, coords = _place_objects(rng, num_objects, only_large)
  classes = {
    name: rng.integers(len(names), size=num_objects)
    for name, names in clevr.PROPERTIES.items()
  }
  classes["size"] = sizes
  if distinct_colors:
    order = rng.permutation(len(clevr.PROPERTIES["color"]))
    classes["color"] = order[:num_objects]
  rotations = rng.uniform(0, 360, num_objects)

  def pad(array, dtype):
    padded = np.zeros((clevr.MAX_OBJECTS, *array.shape[1:]), dtype)
    padded[:num_objects] = array
    return padded

  return clevr_renderer.Scenes(
    coords=pad(coords, np.float32),
    rotations=pad(rotations, np.float32),
    classes={name: pad(array, np.int32) for name, array in classes.items()},
    num_objects=np.int32(num_objects),
    camera=camera.astype(np.float32),
    lamps=lamps.astype(np.float32),
    noise_seed=noise_seed,
  )


def _place_objects(rng, num_objects, only_large):
  """Samples sizes int [num_objects] and centres float [num_objects, 3]."""
  axes = np.array([DIRECTIONS["left"], DIRECTIONS["front"]]).T[:2]
  sizes, places = [], []
  while len(places) < num_objects:
    size = rng.integers(int(only_large), len(clevr_renderer.RADII))
    tries = rng.uniform(-MAX_COORDINATE, MAX_COORDINATE, (MAX_TRIES, 2))
    is_free = np.ones(MAX_TRIES, bool)
    if places:
      offsets = tries[:, None] - np.array(places)
      radii = clevr_renderer.RADII[sizes] + clevr_renderer.RADII[size]
      gaps = np.sqrt((offsets**2).sum(-1)) - radii
      is_free = (gaps >= MIN_DISTANCE).all(1)
      is_free &= (np.abs(offsets @ axes) >= MIN_MARGIN).all((1, 2))
    if is_free.any():
      sizes.append(size)
      places.append(tries[is_free.argmax()])
    else:
      sizes, places = [], []
  heights = clevr_renderer.RADII[sizes]
  return np.array(sizes), np.column_stack([places, heights])


def _stack(scenes):
  return jax.tree.map(lambda *arrays: np.stack(arrays), *scenes)
