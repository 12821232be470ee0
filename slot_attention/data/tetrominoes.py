"""Procedural Tetrominoes, rendered like the originals, pixel for pixel.

Three tetrominoes, each in one of six colours, lie on black and do not overlap
(multi-object datasets, Kabra et al., 2019). The distribution of the original
scenes is not published. Here shapes, colours and positions are uniform, and a
scene with an overlap is sampled again as a whole.

Letters in shapes: N scenes, P pieces in a scene.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slot_attention.checks import check_at_least

# All 19 fixed tetrominoes in the order of the original's codes 1 to 19, with
# rows from top to bottom.
SHAPES = (
  "####", "#/#/#/#", "###/#..", "#../###", "..#/###", "###/..#", "##/.#/.#",
  ".#/.#/##", "##/#./#.", "#./#./##", "##./.##", ".##/##.", ".#/##/#.",
  "#./##/.#", ".#./###", "###/.#.", ".#/##/.#", "#./##/#.", "##/##",
)  # fmt: skip

COLORS = np.array(
  [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.uint8
)

# Intensities of a block of 5x5 pixels, which is lit from above.
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


# Row and column of the 4 blocks of each shape, in blocks, [19, 4, 2].
_OFFSETS = np.array([_block_offsets(shape) for shape in SHAPES])
# Height and width of each shape, in blocks, [19, 2].
_EXTENTS = _OFFSETS.max(axis=1) + 1


class Scenes(NamedTuple):
  """Scenes to draw.

  Attributes:
    shapes: int64 [N, P], codes 1 to 19.
    rows: int64 [N, P], top row of each bounding box, in pixels.
    columns: int64 [N, P], left column of each bounding box, in pixels.
    colors: uint8 [N, P, 3], RGB of 0 or 1.
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
  """Samples scenes at random.

  Args:
    rng: the only source of randomness.
    num_scenes: number of scenes N.
    num_objects: number of pieces P in a scene.
    shapes: codes of the shapes to sample from, 1 to 19.
    image_size: side of the square image, in pixels.
    block_size: side of a block, in pixels.
    min_gap: smallest gap between two pieces, in pixels, also diagonally.
    distinct_colors: whether all pieces of a scene have different colours.

  Raises:
    ValueError: if a shape does not exist, there are too few colours, or the
      pieces fit so rarely into the image that sampling would not end.
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
      f"num_objects={num_objects} must be at most {len(COLORS)} with"
      " distinct_colors=True"
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
        f"image_size={image_size} has too little room for {num_objects} pieces"
        f" of block_size={block_size} with min_gap={min_gap}"
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
    scenes: the scenes.
    image_size: side of the square image, in pixels.
    block_size: side of a block, in pixels. If it is not 5, the shading of the
      original block of 5x5 pixels is resampled.
    background: grey level of the background, 0 to 255.

  Returns:
    A dict of
      images: uint8 [N, image_size, image_size, 3];
      segments: uint8 [N, image_size, image_size], 0 for background, p for piece
        p, counted from 1.
  """
  num_scenes, num_objects = scenes.shapes.shape
  num_pixels = image_size * image_size
  images = np.full((num_scenes, num_pixels, 3), background, np.uint8)
  segments = np.zeros((num_scenes, num_pixels), np.uint8)
  # Row, column and intensity of every pixel of a block.
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
  """Makes the `CHUNK_SIZE` examples of one chunk of a data set.

  They depend only on the chunk, the seed and the options, see `sample` and
  `render`.
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

  It samples one scene to check that the pieces fit into the image.
  """
  if not 0 <= background <= 255:
    raise ValueError(f"background={background} must be from 0 to 255")
  sample(np.random.default_rng(0), 1, **options)


def _overlap(shapes, positions, block_size, min_gap):
  """Returns whether any two pieces are nearer than min_gap, bool [N]."""
  blocks = positions[:, :, None] + block_size * _OFFSETS[shapes - 1]
  overlap = np.zeros(len(shapes), bool)
  for p in range(1, shapes.shape[1]):
    # Distances of each block of piece p to each block of the earlier pieces.
    distance = np.abs(blocks[:, p, None, :, None] - blocks[:, :p, None])
    # Two blocks are too near if they are so in both rows and columns.
    near = (distance < block_size + min_gap).all(-1)
    overlap |= near.any(axis=(1, 2, 3))
  return overlap
