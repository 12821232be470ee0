"""Procedural Multi-dSprites: squares, ellipses and hearts that overlap.

One to five sprites lie on a background of one colour. There are three variants,
as in the multi-object datasets (Kabra et al., 2019):

  binarized             2 to 3 white sprites on black, one channel
  colored_on_grayscale  2 to 5 sprites on a grey background
  colored_on_colored    1 to 4 sprites on a coloured background

Shapes, positions, orientations and scales are those of dSprites (Matthey et
al., 2017): 32 x 32 positions, 40 orientations, 6 scales, and hard edges. A
pixel belongs to a sprite if its centre is inside the sprite. Every sprite is
entirely inside the image. `sprite_outlines` has the shapes.

The distribution of the original scenes is not published beyond this list. Here
it is as follows:
  - The number of sprites, the shape, position, orientation and scale of each
    are uniform and independent.
  - Where two sprites overlap, the later one is on top.
  - If a sprite is entirely hidden, the scene is sampled again with the same
    number of sprites, so that every sprite has a visible pixel. This happens in
    5 % of the scenes with five sprites.
  - In colored_on_grayscale, hue is uniform, saturation and value are uniform
    from 0.5 to 1 (HSV), and the grey is uniform from 0 to 255. In
    colored_on_colored, sprites and background are uniform in RGB. Two colours
    can be similar.

Options make easier scenes: sprites that do not overlap, six distinct colours,
one orientation, and no small sprites.

Letters in shapes: N scenes, P rows for sprites (the variant's largest number),
C channels.
"""

import math
from typing import NamedTuple

import numpy as np

from slot_attention.checks import check_choice
from slot_attention.data import tetrominoes
from slot_attention.data.sprite_outlines import RADIUS, REACH, SHAPES, contains

VARIANTS = ("binarized", "colored_on_grayscale", "colored_on_colored")
# Smallest and largest number of sprites in a scene.
NUM_SPRITES = {
  "binarized": (2, 3),
  "colored_on_grayscale": (2, 5),
  "colored_on_colored": (1, 4),
}
# The largest number of sprites that are often enough apart by chance.
MOST_APART = 3
CHUNK_SIZE = 1_000

IMAGE_SIZE = 64
# Positions of a centre along each axis, in pixels from the edge of the image.
POSITIONS = 16 + 32 * np.linspace(0, 1, 32)
# In radians, counter-clockwise on the screen. As in dSprites, the last one is
# the same as the first one.
ORIENTATIONS = np.linspace(0, 2 * np.pi, 40)
SCALES = np.linspace(0.5, 1, 6)


class Scenes(NamedTuple):
  """Scenes to draw. The rows without a sprite are the last ones of a scene.

  Attributes:
    shapes: int64 [N, P], a code of `SHAPES`, or 0 for no sprite.
    columns: int64 [N, P], index in `POSITIONS` of the centre's x.
    rows: int64 [N, P], index in `POSITIONS` of the centre's y, downwards.
    orientations: int64 [N, P], index in `ORIENTATIONS`.
    scales: int64 [N, P], index in `SCALES`.
    colors: uint8 [N, P, C].
    backgrounds: uint8 [N, C].
  """

  shapes: np.ndarray
  columns: np.ndarray
  rows: np.ndarray
  orientations: np.ndarray
  scales: np.ndarray
  colors: np.ndarray
  backgrounds: np.ndarray


def sample(
  rng: np.random.Generator,
  num_scenes: int,
  *,
  variant: str,
  image_size: int = IMAGE_SIZE,
  num_sprites: int = 0,
  may_overlap: bool = True,
  distinct_colors: bool = False,
  upright: bool = False,
  min_scale: float = 0.5,
) -> Scenes:
  """Samples scenes in which every sprite is visible.

  Args:
    rng: the only source of randomness.
    num_scenes: number of scenes N.
    variant: one of `VARIANTS`.
    image_size: side S of the images in which the sprites are visible, in
      pixels.
    num_sprites: number of sprites in every scene; 0 draws it from
      `NUM_SPRITES`.
    may_overlap: whether sprites may overlap. If not, the circles that contain
      them at all orientations do not.
    distinct_colors: whether the sprites of a scene have different colours, from
      the six of Tetrominoes. Only for colored_on_grayscale.
    upright: whether all sprites have the first of the `ORIENTATIONS`.
    min_scale: smallest of the `SCALES` from which a sprite's scale is drawn.

  Raises:
    ValueError: if `check_options` refuses the options.
  """
  check_options(
    variant=variant,
    image_size=image_size,
    num_sprites=num_sprites,
    may_overlap=may_overlap,
    distinct_colors=distinct_colors,
    upright=upright,
    min_scale=min_scale,
  )
  if num_sprites:
    counts = np.full(num_scenes, num_sprites)
  else:
    counts = rng.integers(*NUM_SPRITES[variant], num_scenes, endpoint=True)

  def sample_any(counts):
    scenes = _sample_any(
      rng, counts, variant, distinct_colors, upright, min_scale
    )
    rejected = np.zeros(len(counts), bool)
    if not may_overlap:
      rejected = _have_close_sprites(scenes)
    kept = Scenes(*(part[~rejected] for part in scenes))
    rejected[~rejected] = _has_hidden_sprite(kept, image_size)
    return scenes, rejected

  scenes, rejected = sample_any(counts)
  while rejected.any():
    again, rejected_again = sample_any(counts[rejected])
    for part, part_again in zip(scenes, again):
      part[rejected] = part_again
    rejected[rejected] = rejected_again
  return scenes


def render(
  scenes: Scenes,
  *,
  image_size: int = IMAGE_SIZE,
  centers: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Draws scenes.

  Args:
    scenes: the scenes.
    image_size: side S of the images, in pixels. If it is not 64, positions and
      outlines are scaled.
    centers: float [N, P, 2], x and y of the sprites' centres, in pixels of an
      image of 64x64. None takes those of the scenes, see `centers_of`.

  Returns:
    A dict of
      images: uint8 [N, S, S, C];
      segments: uint8 [N, S, S], 0 for background, p for sprite p, counted from
        1.
  """
  segments = _segments(scenes, image_size, centers)
  palette = np.concatenate([scenes.backgrounds[:, None], scenes.colors], axis=1)
  scene = np.arange(len(segments))[:, None, None]
  return {"images": palette[scene, segments], "segments": segments}


def generate(
  chunk: int,
  *,
  seed: int,
  variant: str,
  image_size: int = IMAGE_SIZE,
  num_sprites: int = 0,
  may_overlap: bool = True,
  distinct_colors: bool = False,
  upright: bool = False,
  min_scale: float = 0.5,
) -> dict[str, np.ndarray]:
  """Makes the `CHUNK_SIZE` examples of one chunk, as returned by `render`.

  They depend only on the arguments. `sample` explains the options.
  """
  scenes = sample(
    np.random.default_rng([seed, chunk]),
    CHUNK_SIZE,
    variant=variant,
    image_size=image_size,
    num_sprites=num_sprites,
    may_overlap=may_overlap,
    distinct_colors=distinct_colors,
    upright=upright,
    min_scale=min_scale,
  )
  return render(scenes, image_size=image_size)


def centers_of(scenes: Scenes) -> np.ndarray:
  """Returns x and y of the centres, float [N, P, 2], in pixels of 64x64."""
  return np.stack([POSITIONS[scenes.columns], POSITIONS[scenes.rows]], axis=-1)


def check_options(
  *,
  variant: str,
  image_size: int = IMAGE_SIZE,
  num_sprites: int = 0,
  may_overlap: bool = True,
  distinct_colors: bool = False,
  upright: bool = False,
  min_scale: float = 0.5,
) -> None:
  """Raises a ValueError for options that `generate` cannot use."""
  check_choice("variant", variant, VARIANTS)
  if not 16 <= image_size <= 256:
    raise ValueError(f"image_size={image_size} must be from 16 to 256 pixels")
  fewest, most = NUM_SPRITES[variant]
  if num_sprites and not fewest <= num_sprites <= most:
    raise ValueError(
      f"num_sprites={num_sprites} must be from {fewest} to {most} for {variant}"
    )
  if not may_overlap and (num_sprites or most) > MOST_APART:
    raise ValueError(
      f"num_sprites={num_sprites} must be from {fewest} to {MOST_APART} with"
      " may_overlap=False"
    )
  if distinct_colors and variant != "colored_on_grayscale":
    raise ValueError(f"distinct_colors=True does not exist for {variant}")
  if not np.isclose(SCALES, min_scale).any():
    scales = ", ".join(f"{scale:.1f}" for scale in SCALES)
    raise ValueError(f"min_scale={min_scale} is not one of {scales}")


def _sample_any(rng, num_sprites, variant, distinct_colors, upright, min_scale):
  """Samples scenes with [N] sprites, some of which may be hidden."""
  _, most = NUM_SPRITES[variant]
  shape = (len(num_sprites), most)
  shapes = rng.choice(SHAPES, shape)
  shapes[np.arange(most) >= num_sprites[:, None]] = 0
  colors, backgrounds = _sample_colors(rng, shape, variant, distinct_colors)
  first_scale = np.argmin(np.abs(SCALES - min_scale))
  return Scenes(
    shapes=shapes,
    columns=rng.integers(0, len(POSITIONS), shape),
    rows=rng.integers(0, len(POSITIONS), shape),
    orientations=rng.integers(0, 1 if upright else len(ORIENTATIONS), shape),
    scales=rng.integers(first_scale, len(SCALES), shape),
    colors=colors,
    backgrounds=backgrounds,
  )


def _sample_colors(rng, shape, variant, distinct_colors):
  """Samples colours [N, P, C] and backgrounds [N, C]."""
  if variant == "binarized":
    colors = np.full((*shape, 1), 255, np.uint8)
    backgrounds = np.zeros((shape[0], 1), np.uint8)
  elif variant == "colored_on_grayscale":
    if distinct_colors:
      order = rng.random((shape[0], len(tetrominoes.COLORS))).argsort(axis=1)
      colors = 255 * tetrominoes.COLORS[order[:, : shape[1]]]
    else:
      hues = rng.random(shape)
      saturation, value = rng.uniform(0.5, 1, (2, *shape))
      colors = to_rgb(hues, saturation, value)
    greys = rng.integers(0, 256, (shape[0], 1), np.uint8)
    backgrounds = greys.repeat(3, axis=1)
  else:
    colors = rng.integers(0, 256, (*shape, 3), np.uint8)
    backgrounds = rng.integers(0, 256, (shape[0], 3), np.uint8)
  return colors, backgrounds


def to_rgb(
  hue: np.ndarray, saturation: np.ndarray, value: np.ndarray
) -> np.ndarray:
  """Converts hue, saturation and value [...] to RGB uint8 [..., 3].

  Saturation and value are from 0 to 1. A hue of 1 is one turn, and equals 0.
  """
  # Each channel is at its maximum over a third of the hues, around its colour.
  turn = (hue[..., None] + np.array([0, 2 / 3, 1 / 3])) % 1
  brightness = np.clip(np.abs(6 * turn - 3) - 1, 0, 1)
  channels = 1 - saturation[..., None] * (1 - brightness)
  return np.rint(255 * value[..., None] * channels).astype(np.uint8)


def _segments(scenes, image_size, centers=None):
  """Returns the sprite that each pixel shows, uint8 [N, S, S]."""
  if centers is None:
    centers = centers_of(scenes)
  num_scenes, num_places = scenes.shapes.shape
  segments = np.zeros((num_scenes, image_size, image_size), np.uint8)
  zoom = image_size / IMAGE_SIZE
  reach = math.ceil(REACH * zoom)
  window = np.arange(-reach, reach + 1)
  for p in range(num_places):
    for shape in SHAPES:
      (drawn,) = np.nonzero(scenes.shapes[:, p] == shape)
      x, y = zoom * centers[drawn, p].T[..., None]
      columns, rows = x.astype(int) + window, y.astype(int) + window
      angle = ORIENTATIONS[scenes.orientations[drawn, p], None]
      scale = zoom * SCALES[scenes.scales[drawn, p], None]
      cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
      # Pixel centres in the coordinates of the sprite at scale 1.
      dx, dy = columns + 0.5 - x, rows + 0.5 - y
      u = (cos * dx)[:, None, :] - (sin * dy)[:, :, None]
      v = (sin * dx)[:, None, :] + (cos * dy)[:, :, None]
      scene, row, column = np.nonzero(contains(shape, u, v))
      row, column = rows[scene, row], columns[scene, column]
      segments[drawn[scene], row, column] = p + 1
  return segments


def _have_close_sprites(scenes):
  """Returns whether the circles of two sprites of a scene overlap, bool [N]."""
  centers, is_there = centers_of(scenes), scenes.shapes > 0
  radii = RADIUS * SCALES[scenes.scales]
  first, second = np.triu_indices(is_there.shape[1], 1)
  distances = np.linalg.norm(centers[:, first] - centers[:, second], axis=-1)
  are_close = distances < radii[:, first] + radii[:, second]
  return (is_there[:, first] & is_there[:, second] & are_close).any(axis=1)


def _has_hidden_sprite(scenes, image_size):
  """Returns whether a scene has a sprite without a visible pixel, bool [N]."""
  num_scenes, num_places = scenes.shapes.shape
  visible = np.zeros((num_scenes, num_places + 1), bool)
  visible[
    np.arange(num_scenes)[:, None, None], _segments(scenes, image_size)
  ] = True
  return ((scenes.shapes > 0) & ~visible[:, 1:]).any(axis=1)
