"""Tests of procedural Multi-dSprites."""

import cmath
import colorsys
import math
import time

import numpy as np
import pytest

from slot_attention.data import multi_dsprites, tetrominoes
from slot_attention.data.sprite_outlines import (
  ELLIPSE,
  HEART,
  HEART_RADII,
  SQUARE,
)

CHANNELS = {
  "binarized": 1,
  "colored_on_grayscale": 3,
  "colored_on_colored": 3,
}
# Areas of the outlines at scale 1, in pixels: the squared side, pi times the
# half axes, and the polar integral of the heart's outline.
AREAS = {
  SQUARE: 19.2**2,
  ELLIPSE: math.pi * 12.75 * 7.25,
  HEART: np.sum(HEART_RADII**2) * math.pi / 180,
}


def sample(variant, num_scenes=4_000):
  rng = np.random.default_rng(0)
  return multi_dsprites.sample(rng, num_scenes, variant=variant)


def scenes_of(sprites, colors=None):
  """Makes scenes of [N, P, 5]: shape, column, row, orientation, scale."""
  sprites = np.array(sprites)
  if colors is None:
    colors = np.full((*sprites.shape[:2], 1), 255, np.uint8)
  backgrounds = np.zeros((len(sprites), colors.shape[-1]), np.uint8)
  return multi_dsprites.Scenes(
    *np.moveaxis(sprites, -1, 0), colors, backgrounds
  )


def draw(*sprites):
  """Draws the segments of one scene."""
  return multi_dsprites.render(scenes_of([sprites]))["segments"][0]


def contains(shape, x, y):
  """Returns an upright outline at scale 1; x points right and y up."""
  if shape == SQUARE:
    return abs(x) < 9.6 and abs(y) < 9.6
  if shape == ELLIPSE:
    return math.hypot(x / 12.75, y / 7.25) < 1
  degrees = math.degrees(math.atan2(-y, x)) % 360
  centres = np.arange(180) * 2 - 179
  radius = np.interp(degrees, centres, HEART_RADII, period=360)
  return math.hypot(x, y) < radius


def transcribed(shape, column, row, orientation, scale):
  """Draws the segments pixel by pixel, with complex numbers."""
  centre = complex(16 + 32 * column / 31, -(16 + 32 * row / 31))
  turn = cmath.rect(0.5 + 0.1 * scale, orientation * 2 * math.pi / 39)
  picture = np.zeros((64, 64), bool)
  for y in range(64):
    for x in range(64):
      place = (complex(x + 0.5, -(y + 0.5)) - centre) / turn
      picture[y, x] = contains(shape, place.real, place.imag)
  return picture


@pytest.mark.parametrize("variant", multi_dsprites.VARIANTS)
def test_a_chunk_has_images_and_segments_that_agree(variant):
  drawn = multi_dsprites.generate(2, seed=5, variant=variant)
  images, segments = drawn["images"], drawn["segments"]
  n = multi_dsprites.CHUNK_SIZE
  assert images.shape == (n, 64, 64, CHANNELS[variant])
  assert segments.shape == (n, 64, 64)
  assert images.dtype == segments.dtype == np.uint8
  fewest, most = multi_dsprites.NUM_SPRITES[variant]
  for image, segment in zip(images[:200], segments[:200]):
    ids = np.unique(segment)
    # The ids have no gap, so no sprite is hidden.
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert fewest <= len(ids) - 1 <= most
    for i in ids:
      assert len(np.unique(image[segment == i], axis=0)) == 1


def test_no_sprite_is_entirely_hidden():
  # With so many scenes, some are sampled more than twice.
  scenes = sample("colored_on_grayscale", 10_000)
  segments = multi_dsprites.render(scenes)["segments"]
  for p in range(5):
    visible = (segments == p + 1).any(axis=(1, 2))
    np.testing.assert_array_equal(visible, scenes.shapes[:, p] > 0)


@pytest.mark.parametrize("variant", multi_dsprites.VARIANTS)
def test_the_number_of_sprites_is_uniform_over_its_range(variant):
  scenes = sample(variant)
  fewest, most = multi_dsprites.NUM_SPRITES[variant]
  assert scenes.shapes.shape == (4_000, most)
  present = scenes.shapes > 0
  counts = np.bincount(present.sum(axis=1), minlength=most + 1)
  np.testing.assert_array_equal(counts[:fewest], 0)
  share = 1 / (most - fewest + 1)
  np.testing.assert_allclose(counts[fewest:] / 4_000, share, atol=0.03)
  # Rows without a sprite come last.
  assert (present[:, :-1] >= present[:, 1:]).all()


def test_the_number_of_sprites_can_be_chosen():
  for count in (2, 5):
    scenes = multi_dsprites.sample(
      np.random.default_rng(0),
      50,
      variant="colored_on_grayscale",
      num_sprites=count,
    )
    np.testing.assert_array_equal((scenes.shapes > 0).sum(axis=1), count)


def test_sprites_that_may_not_overlap_are_entirely_visible():
  options = {"variant": "colored_on_grayscale", "num_sprites": 3}
  for may_overlap in (False, True):
    scenes = multi_dsprites.sample(
      np.random.default_rng(0), 300, may_overlap=may_overlap, **options
    )
    # The order of painting changes nothing if no sprite hides another.
    backwards = scenes._replace(
      **{
        name: getattr(scenes, name)[:, 2::-1]
        for name in ("shapes", "columns", "rows", "orientations", "scales")
      }
    )
    segments = multi_dsprites.render(scenes)["segments"]
    others = multi_dsprites.render(backwards)["segments"]
    hides = ((segments > 0) & (segments + others != 4)).any(axis=(1, 2))
    assert hides.mean() > 0.5 if may_overlap else not hides.any()


def test_distinct_colors_are_those_of_tetrominoes_and_differ_within_a_scene():
  scenes = multi_dsprites.sample(
    np.random.default_rng(0),
    300,
    variant="colored_on_grayscale",
    num_sprites=5,
    distinct_colors=True,
  )
  names = {tuple(255 * color): i for i, color in enumerate(tetrominoes.COLORS)}
  drawn = np.array(
    [[names[tuple(color)] for color in colors] for colors in scenes.colors]
  )
  assert all(len(set(scene)) == 5 for scene in drawn)
  for place in drawn.T:
    assert np.bincount(place, minlength=6).min() > 25


def test_upright_sprites_have_the_first_orientation():
  for upright, orientations in ((False, 40), (True, 1)):
    scenes = multi_dsprites.sample(
      np.random.default_rng(0), 200, variant="binarized", upright=upright
    )
    assert len(np.unique(scenes.orientations)) == orientations
  assert multi_dsprites.ORIENTATIONS[scenes.orientations].max() == 0


def test_no_sprite_is_smaller_than_the_smallest_scale():
  for min_scale, scales in ((0.5, 6), (0.8, 3), (1.0, 1)):
    scenes = multi_dsprites.sample(
      np.random.default_rng(0), 200, variant="binarized", min_scale=min_scale
    )
    drawn = multi_dsprites.SCALES[scenes.scales[scenes.shapes > 0]]
    assert len(np.unique(drawn)) == scales
    np.testing.assert_allclose(drawn.min(), min_scale)


def test_options_that_do_not_exist_are_refused():
  for options, message in (
    ({"min_scale": 0.75}, "min_scale=0.75 is not one of 0.5, 0.6, 0.7, 0.8"),
    ({"num_sprites": 4}, "num_sprites=4 must be from 2 to 3 for binarized"),
    ({"distinct_colors": True}, "distinct_colors=True does not exist for bin"),
    (
      {"variant": "colored_on_grayscale", "may_overlap": False},
      "num_sprites=0 must be from 2 to 3 with may_overlap=False",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      multi_dsprites.check_options(**{"variant": "binarized", **options})


def test_the_factors_are_uniform_over_the_grid_of_dsprites():
  scenes = sample("colored_on_colored", 20_000)
  present = scenes.shapes > 0
  for values, num_values in (
    (scenes.shapes - 1, 3),
    (scenes.columns, 32),
    (scenes.rows, 32),
    (scenes.orientations, 40),
    (scenes.scales, 6),
  ):
    shares = np.bincount(values[present], minlength=num_values) / present.sum()
    assert len(shares) == num_values
    # Scenes with a hidden sprite are sampled again, which makes small sprites
    # and those in the middle slightly rarer.
    np.testing.assert_allclose(shares * num_values, 1, atol=0.12)


def test_binarized_is_white_on_black():
  drawn = multi_dsprites.generate(0, seed=0, variant="binarized")
  np.testing.assert_array_equal(
    drawn["images"][..., 0], 255 * (drawn["segments"] > 0)
  )


def test_colors_on_grey_are_saturated_and_bright():
  scenes = sample("colored_on_grayscale")
  backgrounds = scenes.backgrounds
  assert (backgrounds == backgrounds[:, :1]).all()
  assert backgrounds.min() < 3 and backgrounds.max() > 252
  hsv = np.array(
    [
      colorsys.rgb_to_hsv(*color)
      for color in scenes.colors.reshape(-1, 3).tolist()
    ]
  )
  hue, saturation, value = hsv.T
  assert 0.49 < saturation.min() < 0.51 and 0.99 < saturation.max() <= 1
  assert 127 <= value.min() < 130 and 253 < value.max() <= 255
  for uniform in (hue, 2 * saturation - 1, value / 127.5 - 1):
    shares, _ = np.histogram(uniform, 6, (0, 1))
    np.testing.assert_allclose(6 * shares / len(hue), 1, atol=0.05)


def test_colors_on_color_are_uniform_in_rgb():
  scenes = sample("colored_on_colored")
  for colors in (scenes.colors, scenes.backgrounds):
    shares, _ = np.histogram(colors, 8, (0, 256))
    np.testing.assert_allclose(8 * shares / colors.size, 1, atol=0.1)
    assert (colors[..., 0] != colors[..., 1]).mean() > 0.9


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_pictures_equal_a_transcription_pixel_by_pixel(shape):
  rng = np.random.default_rng(shape)
  for _ in range(12):
    column, row = rng.choice([0, 1, 14, 30, 31], 2)
    orientation, scale = rng.integers(40), rng.integers(6)
    sprite = (shape, column, row, orientation, scale)
    np.testing.assert_array_equal(draw(sprite) > 0, transcribed(*sprite))


def test_the_corners_of_a_rotated_square_are_drawn():
  # No other outline reaches farther from its central pixel.
  for column, row in ((0, 7), (0, 24), (7, 0), (24, 0), (30, 7), (7, 30)):
    sprite = (SQUARE, column, row, 5, 5)
    np.testing.assert_array_equal(draw(sprite) > 0, transcribed(*sprite))


def test_a_square_covers_the_pixels_whose_centres_are_inside():
  # The square reaches from 16 - 9.6 to 16 + 9.6.
  rows, columns = np.nonzero(draw((SQUARE, 0, 31, 0, 5)))
  assert (columns.min(), columns.max()) == (6, 25)
  assert (rows.min(), rows.max()) == (38, 57)
  assert len(rows) == 400


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_areas_equal_those_of_the_outlines(shape):
  rng = np.random.default_rng(0)
  for scale in range(6):
    sprites = np.stack([
      np.full(400, shape),
      rng.integers(0, 32, 400),
      rng.integers(0, 32, 400),
      np.arange(400) % 40,
      np.full(400, scale),
    ], axis=-1)[:, None]  # fmt: skip
    segments = multi_dsprites.render(scenes_of(sprites))["segments"]
    area = (segments > 0).sum(axis=(1, 2)).mean()
    expected = AREAS[shape] * (0.5 + 0.1 * scale) ** 2
    np.testing.assert_allclose(area, expected, rtol=0.01)


def test_the_heart_has_the_area_and_the_tip_of_dsprites():
  assert 220 < AREAS[HEART] < 230
  rows, columns = np.nonzero(draw((HEART, 0, 0, 0, 5)))
  widths = np.bincount(rows)[rows.min() :]
  assert widths[-1] <= 3 < widths.max()
  assert widths.argmax() < len(widths) / 2
  # The two lobes are above and symmetric about the centre.
  top = columns[rows <= rows.min() + 1]
  assert top.min() < 14 and top.max() > 17 and 15 not in top
  np.testing.assert_allclose(columns.mean() + 0.5, 16, atol=0.1)


def test_orientation_turns_anticlockwise():
  for orientation in (3, 8, 16):
    rows, columns = np.nonzero(draw((ELLIPSE, 15, 15, orientation, 5)))
    spread = np.cov(columns, -rows)
    direction = np.linalg.eigh(spread)[1][:, 1]
    angle = math.atan2(direction[1], direction[0]) % math.pi
    np.testing.assert_allclose(
      angle, orientation * 2 * math.pi / 39 % math.pi, atol=0.03
    )


def test_every_sprite_is_entirely_inside_the_image():
  sprites = [
    [(shape, column, row, orientation, 5)]
    for shape in (SQUARE, ELLIPSE, HEART)
    for column in (0, 31)
    for row in (0, 31)
    for orientation in range(40)
  ]
  segments = multi_dsprites.render(scenes_of(sprites))["segments"]
  assert segments[:, 2:-2, 2:-2].any(axis=(1, 2)).all()
  segments[:, 2:-2, 2:-2] = 0
  assert not segments.any()


def test_later_sprites_lie_on_top():
  large, small = (SQUARE, 15, 15, 0, 5), (SQUARE, 15, 15, 0, 0)
  above = draw(large, small)
  assert set(np.unique(above)) == {0, 1, 2}
  assert (above == 2).sum() == (draw(small) > 0).sum()
  hidden = draw(small, large)
  assert set(np.unique(hidden)) == {0, 2}


def test_a_chunk_depends_only_on_seed_chunk_and_variant():
  def images(chunk, seed, variant="colored_on_colored"):
    return multi_dsprites.generate(chunk, seed=seed, variant=variant)["images"]

  first = images(3, 1)
  images(4, 1)
  np.testing.assert_array_equal(images(3, 1), first)
  for other in (
    images(4, 1),
    images(3, 2),
    images(1, 3),
    images(3, 1, "colored_on_grayscale"),
  ):
    assert (other != first).any(axis=(1, 2, 3)).mean() > 0.99


def test_another_variant_is_refused():
  with pytest.raises(ValueError, match="variant='grey' is not one of binari"):
    multi_dsprites.generate(0, seed=0, variant="grey")


def test_it_draws_400_images_a_second():
  """It drew 2,200 to 2,500 on one core of an AMD EPYC, 2026-11-30."""
  start = time.process_time()
  multi_dsprites.generate(0, seed=0, variant="colored_on_grayscale")
  assert 1_000 / (time.process_time() - start) > 400


@pytest.mark.parametrize("variant", multi_dsprites.VARIANTS)
def test_smaller_images_show_the_same_scenes(variant):
  scenes = sample(variant, 20)
  whole, half = (
    multi_dsprites.render(scenes, image_size=size) for size in (64, 32)
  )
  assert half["images"].shape == (20, 32, 32, whole["images"].shape[-1])
  # The centre of a small pixel is a corner of four large ones. Where these four
  # agree, the small pixel is the same.
  corners = np.stack(
    [whole["segments"][:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  )
  agree = (corners == corners[0]).all(axis=0)
  assert agree.mean() > 0.9
  same = half["segments"] == corners[0]
  assert same[agree].mean() > 0.999
  assert (half["segments"] > 0).any(axis=(1, 2)).all()


def test_every_sprite_is_visible_in_small_images():
  drawn = multi_dsprites.generate(
    0, seed=0, variant="colored_on_grayscale", image_size=16
  )
  counts = [len(np.unique(x)) - 1 for x in drawn["segments"]]
  assert set(counts) == {2, 3, 4, 5}
  highest = drawn["segments"].max(axis=(1, 2))
  np.testing.assert_array_equal(counts, highest)


def test_image_sizes_out_of_range_are_refused():
  for size in (15, 257):
    with pytest.raises(ValueError, match=f"image_size={size} must be from 16"):
      multi_dsprites.check_options(variant="binarized", image_size=size)
