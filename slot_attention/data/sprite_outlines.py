"""The sprites of dSprites (Matthey et al., 2017): squares, ellipses and hearts.

The outlines were fitted to public dSprites images. Compared with these, drawn
sprites differ on average by 0.2 pixels per image (squares), 1.0 (ellipses) and
0.7 (hearts).
"""

import math

import numpy as np

# The codes of dSprites.
SQUARE, ELLIPSE, HEART = SHAPES = (1, 2, 3)

# Outlines at scale 1, in pixels.
SQUARE_HALF_SIDE = 9.6
ELLIPSE_HALF_AXES = (12.75, 7.25)
# Distance of the heart's outline from its centre in 180 directions, given in
# hundredths of a pixel. Direction i is -180 + 2 i + 1 degrees, clockwise on the
# screen, where 0 degrees points to the right.
HEART_RADII = np.array([
  828, 840, 869, 886, 903, 925, 941, 957, 992, 1002, 1032, 1032,
  1056, 1075, 1079, 1089, 1102, 1120, 1120, 1120, 1120, 1120, 1115, 1120,
  1120, 1120, 1120, 1102, 1089, 1079, 1065, 1056, 1032, 1012, 987, 957,
  930, 886, 840, 828, 771, 724, 652, 620, 552, 534, 620, 644,
  724, 771, 809, 840, 880, 925, 957, 987, 1012, 1032, 1056, 1065,
  1075, 1089, 1102, 1120, 1120, 1120, 1120, 1115, 1120, 1120, 1120, 1120,
  1120, 1102, 1089, 1079, 1075, 1056, 1032, 1032, 1002, 992, 962, 951,
  925, 903, 886, 869, 840, 809, 809, 791, 771, 745, 724, 724,
  704, 682, 682, 660, 660, 628, 644, 620, 620, 620, 620, 587,
  587, 587, 587, 587, 587, 587, 587, 587, 587, 587, 587, 620,
  620, 620, 620, 628, 644, 660, 667, 682, 704, 724, 758, 778,
  809, 840, 903, 903, 840, 809, 778, 738, 724, 704, 682, 660,
  660, 644, 628, 620, 620, 620, 620, 587, 587, 587, 587, 587,
  587, 587, 587, 587, 587, 587, 587, 620, 620, 620, 620, 644,
  628, 660, 660, 682, 682, 704, 724, 724, 752, 771, 791, 809,
]) / 100  # fmt: skip

# A corner of the square is the farthest point of all outlines.
RADIUS = math.sqrt(2) * SQUARE_HALF_SIDE  # 13.6 pixels.
# A sprite is within REACH pixels of its central pixel.
REACH = 14


def contains(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Returns which points a sprite at scale 1 contains, bool [...].

  Args:
    shape: one of `SHAPES`.
    u: [...], distances of the points from the centre of an upright sprite to
      the right, in pixels.
    v: [...], their distances from it downwards, in pixels.
  """
  if shape == SQUARE:
    return np.maximum(np.abs(u), np.abs(v)) < SQUARE_HALF_SIDE
  if shape == ELLIPSE:
    half_width, half_height = ELLIPSE_HALF_AXES
    return (u / half_width) ** 2 + (v / half_height) ** 2 < 1
  size = len(HEART_RADII)
  # The radius is interpolated linearly between two directions.
  place = (np.arctan2(v, u) / (2 * np.pi) + 0.5) * size - 0.5
  before = np.floor(place).astype(int)
  part = place - before
  radius = (1 - part) * HEART_RADII[before % size]
  radius += part * HEART_RADII[(before + 1) % size]
  return u**2 + v**2 < radius**2
