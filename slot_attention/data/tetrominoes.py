"""Procedural Tetrominoes: the rule that draws the original pixel for pixel.

Three tetrominoes, in one of six colours each, lie on black without overlapping
(multi-object datasets, Kabra et al., 2019). How the original drew its scenes at
random is not published; here shapes, colours and positions are uniform, and a
scene with an overlap is drawn again as a whole.

Letters in shapes: N scenes, P pieces of a scene.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slot_attention.checks import check_at_least

# All 19 fixed tetrominoes in the order of the original's codes 1 to 19; rows
# from top to bottom.
SHAPES = (
  "####", "#/#/#/#", "###/#..", "#../###", "..#/###", "###/..#", "##/.#/.#",
  ".#/.#/##", "##/#./#.", "#./#./##", "##./.##", ".##/##.", ".#/##/#.",
  "#./##/.#", ".#./###", "###/.#.", ".#/##/.#", "#./##/#.", "##/##",
)  # fmt: skip

COLORS = np.array(
  [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.uint8
)

# Intensities of a 5x5 block: light from above, shade below.
BLOCK = np.array(
  [
    [191, 255, 255, 255, 223],
    [127, 159, 159, 159, 191],
    [127, 159, 159, 159, 191],
    [127, 159, 159, 159, 191],
    [95, 63, 63, 63, 127],
  ],
  np.uint8,
)

ALL_SHAPES = tuple(range(1, len(SHAPES) + 1))

CHUNK_SIZE = 1_000


def _block_offsets(shape: str) -> list[tuple[int, int]]:
  return [
    (row, column)
    for row, line in enumerate(shape.split("/"))
    for column, symbol in enumerate(line)
    if symbol == "#"
  ]


# [19, 4, 2]: row and column of each block of each shape, in blocks.
_OFFSETS = np.array([_block_offsets(shape) for shape in SHAPES])
# [19, 2]: height and width of each shape, in blocks.
_EXTENTS = _OFFSETS.max(axis=1) + 1


class Scenes(NamedTuple):
  """What is to be drawn; every array int64 or uint8, first axes N, P.

  Attributes:
    shapes: [N, P], code 1 to 19.
    rows: [N, P], top row of the bounding box, in pixels.
    columns: [N, P], its left column.
    colors: uint8 [N, P, 3], 0 or 1.
  """

  shapes: np.ndarray
  rows: np.ndarray
  columns: np.ndarray
  colors: np.ndarray


def sample(
  rng: np.random.Generator,
  num_scenes: int,
  *,
  num_objects: int = 3,
  shapes: Sequence[int] = ALL_SHAPES,
  image_size: int = 35,
  block_size: int = 5,
  min_gap: int = 0,
  distinct_colors: bool = False,
) -> Scenes:
  """Draws scenes at random.

  Args:
    rng: the only source of randomness.
    num_scenes: N.
    num_objects: P.
    shapes: the codes to draw from, 1 to 19.
    image_size: side of the square image, pixels.
    block_size: side of a block, pixels.
    min_gap: pixels that stay free between two pieces, diagonals included.
    distinct_colors: whether no two pieces of a scene share a colour.

  Raises:
    ValueError: for a shape that does not exist, too few colours, or if so few
      scenes have room for the pieces that sampling would not end.
  """
  check_at_least("num_objects", num_objects, 1)
  check_at_least("block_size", block_size, 1)
  check_at_least("min_gap", min_gap, 0)
  if not shapes or not set(shapes) <= set(ALL_SHAPES):
    raise ValueError(f"shapes={tuple(shapes)} must be codes from 1 to 19")
  longest = _EXTENTS[np.array(shapes) - 1].max()
  if longest * block_size > image_size:
    raise ValueError(
      f"image_size={image_size} has no room for a tetromino of {longest} blocks"
      f" of block_size={block_size}"
    )
  if distinct_colors and num_objects > len(COLORS):
    raise ValueError(
      f"distinct_colors=True allows at most {len(COLORS)} pieces, not"
      f" {num_objects}"
    )
  accepted, num_accepted, num_drawn = [], 0, 0
  while num_accepted < num_scenes:
    draw = max(256, 2 * (num_scenes - num_accepted))
    codes = rng.choice(shapes, (draw, num_objects))
    room = image_size - block_size * _EXTENTS[codes - 1] + 1
    positions = rng.integers(0, room)
    free = ~_overlap(codes, positions, block_size, min_gap)
    accepted.append((codes[free], positions[free]))
    num_accepted += np.count_nonzero(free)
    num_drawn += draw
    if num_drawn > 10_000 and num_accepted < num_drawn / 10_000:
      raise ValueError(
        f"image_size={image_size} has hardly room for {num_objects} pieces of"
        f" block_size={block_size} with min_gap={min_gap}"
      )
  codes, positions = (
    np.concatenate(parts)[:num_scenes] for parts in zip(*accepted)
  )
  if distinct_colors:
    colors = rng.random((num_scenes, len(COLORS))).argsort(axis=1)
    colors = colors[:, :num_objects]
  else:
    colors = rng.integers(0, len(COLORS), (num_scenes, num_objects))
  return Scenes(codes, positions[..., 0], positions[..., 1], COLORS[colors])


def render(
  scenes: Scenes,
  *,
  image_size: int = 35,
  block_size: int = 5,
  background: int = 0,
) -> dict[str, np.ndarray]:
  """Draws scenes.

  Args:
    scenes: as `sample` draws them.
    image_size: side of the square image, pixels.
    block_size: side of a block, pixels; the shading is that of the original's
      5 pixels, thinned out or repeated.
    background: grey level, 0 to 255.

  Returns:
    images: uint8 [N, image_size, image_size, 3];
    segments: uint8 [N, image_size, image_size], 0 background, p for piece p.
  """
  num_scenes, num_objects = scenes.shapes.shape
  num_pixels = image_size * image_size
  images = np.full((num_scenes, num_pixels, 3), background, np.uint8)
  segments = np.zeros((num_scenes, num_pixels), np.uint8)
  # Row and column of every pixel of a block, and its intensity.
  pixel = np.stack(np.mgrid[:block_size, :block_size], -1).reshape(-1, 2)
  thinned = np.linspace(0, len(BLOCK) - 1, block_size).round().astype(int)
  intensity = BLOCK[np.ix_(thinned, thinned)].reshape(-1, 1)
  scene = np.arange(num_scenes)[:, None]
  for p in range(num_objects):
    corner = np.stack([scenes.rows[:, p], scenes.columns[:, p]], -1)
    blocks = corner[:, None] + block_size * _OFFSETS[scenes.shapes[:, p] - 1]
    color = scenes.colors[:, p, None] * intensity
    for block in range(blocks.shape[1]):
      place = blocks[:, block, None] + pixel
      place = place[..., 0] * image_size + place[..., 1]
      images[scene, place] = color
      segments[scene, place] = p + 1
  shape = (num_scenes, image_size, image_size)
  return {
    "images": images.reshape(*shape, 3),
    "segments": segments.reshape(shape),
  }


def generate(
  chunk: int,
  *,
  seed: int,
  num_objects: int = 3,
  shapes: Sequence[int] = ALL_SHAPES,
  image_size: int = 35,
  block_size: int = 5,
  min_gap: int = 0,
  distinct_colors: bool = False,
  background: int = 0,
) -> dict[str, np.ndarray]:
  """Draws the `CHUNK_SIZE` examples of a chunk of a data set.

  They depend on (seed, chunk) and the options alone, which are those of
  `sample` and `render`.
  """
  scenes = sample(
    np.random.default_rng([seed, chunk]),
    CHUNK_SIZE,
    num_objects=num_objects,
    shapes=shapes,
    image_size=image_size,
    block_size=block_size,
    min_gap=min_gap,
    distinct_colors=distinct_colors,
  )
  return render(
    scenes,
    image_size=image_size,
    block_size=block_size,
    background=background,
  )


def check_options(*, background: int = 0, **options) -> None:
  """Raises a ValueError for options that `generate` cannot use.

  Draws one scene, to see whether the pieces find room.
  """
  if not 0 <= background <= 255:
    raise ValueError(f"background={background} must be from 0 to 255")
  sample(np.random.default_rng(0), 1, **options)


def _overlap(shapes, positions, block_size, min_gap):
  """Whether any two pieces come nearer than min_gap, bool [N]."""
  blocks = positions[:, :, None] + block_size * _OFFSETS[shapes - 1]
  overlap = np.zeros(len(shapes), bool)
  for p in range(1, shapes.shape[1]):
    # Of each block of piece p to each block of each earlier piece.
    distance = np.abs(blocks[:, p, None, :, None] - blocks[:, :p, None])
    # Two blocks overlap if they are near in rows and in columns.
    near = (distance < block_size + min_gap).all(-1)
    overlap |= near.any(axis=(1, 2, 3))
  return overlap
