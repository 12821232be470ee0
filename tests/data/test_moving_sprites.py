"""Tests of procedural moving sprites."""

import colorsys

import numpy as np
import pytest

from slot_attention.data import moving_sprites, multi_dsprites, store


def first_scenes(seed, image_size=64):
  """Samples scenes as `generate` does."""
  return multi_dsprites.sample(
    np.random.default_rng([seed, 0]),
    moving_sprites.CHUNK_SIZE,
    variant="binarized",
    image_size=image_size,
  )


def alone(scenes, p):
  """Leaves sprite p of each scene."""
  shapes = np.zeros_like(scenes.shapes)
  shapes[:, p] = scenes.shapes[:, p]
  return scenes._replace(shapes=shapes)


@pytest.fixture(name="drawn", scope="module")
def _drawn():
  return moving_sprites.generate(0, seed=5, num_frames=8)


def test_a_chunk_has_images_and_segments_that_agree(drawn):
  images, segments = drawn["images"], drawn["segments"]
  n = moving_sprites.CHUNK_SIZE
  assert images.shape == (n, 8, 64, 64, 3)
  assert segments.shape == (n, 8, 64, 64)
  assert images.dtype == segments.dtype == np.uint8
  np.testing.assert_array_equal(images.any(axis=-1), segments > 0)
  for image, segment in zip(images[:40], segments[:40]):
    for i in np.unique(segment):  # A sprite keeps its colour and its id.
      assert len(np.unique(image[segment == i], axis=0)) == 1


def test_hues_are_evenly_spaced_at_full_saturation_and_value(drawn):
  offsets = []
  for image, segment in zip(drawn["images"], drawn["segments"]):
    count = segment.max()
    colors = [image[segment == i][0] / 255 for i in range(1, count + 1)]
    hues, saturations, values = zip(*(colorsys.rgb_to_hsv(*x) for x in colors))
    assert set(saturations) == set(values) == {1}
    steps = np.diff(hues) % 1
    np.testing.assert_allclose(steps, 1 / count, atol=0.005)
    offsets.append(hues[0])
  shares = np.histogram(offsets, 4, (0, 1))[0] / len(offsets)
  np.testing.assert_allclose(shares, 0.25, atol=0.1)


def test_every_sprite_is_visible_in_the_first_frame_and_may_hide_later(drawn):
  counts = store.count_objects(drawn)
  assert set(counts) == {2, 3}
  hidden = np.zeros(8)
  for segment, count in zip(drawn["segments"], counts):
    visible = [len(np.unique(frame)) - 1 for frame in segment]
    assert visible[0] == count
    hidden += np.less(visible, count)
  assert hidden[1:].sum() > 0


def test_the_first_frame_is_a_scene_of_multi_dsprites(drawn):
  still = multi_dsprites.render(first_scenes(5))
  np.testing.assert_array_equal(drawn["segments"][:, 0], still["segments"])


def test_sprites_move_at_constant_velocity_and_are_reflected(drawn):
  """Follows the centre of mass of the last sprite, which is never covered."""
  scenes = first_scenes(5)
  margins = 14 * (0.5 + 0.1 * scenes.scales)
  y, x = np.mgrid[:64, :64] + 0.5
  speeds, angles, reflected = [], [], 0
  for n, segment in enumerate(drawn["segments"]):
    p = segment.max() - 1
    mask = segment == p + 1
    path = np.stack([(axis * mask).sum((1, 2)) for axis in (x, y)], axis=1)
    path = path / mask.sum(axis=(1, 2))[:, None]
    moves = np.diff(path, axis=0)
    changes = np.abs(np.diff(moves, axis=0)) > 1
    for t, axis in zip(*np.nonzero(changes)):
      reflected += 1
      # Before or after the turn, the sprite is less than a move from the edge.
      places = path[t : t + 3, axis]
      gap = np.minimum(places, 64 - places).min() - margins[n, p]
      assert gap < np.abs(moves[:, axis]).max() + 1
    if not changes.any():
      speeds.append(np.hypot(*moves.mean(axis=0)))
      angles.append(np.arctan2(*moves.mean(axis=0)))
  assert reflected > 50 and len(speeds) > 50
  assert 1.8 < min(speeds) < 2.6 and max(speeds) < 6.2
  shares = np.histogram(angles, 4, (-np.pi, np.pi))[0] / len(angles)
  np.testing.assert_allclose(shares, 0.25, atol=0.12)


def test_trajectories_equal_a_simulation_frame_by_frame():
  scenes = first_scenes(1)
  rng = np.random.default_rng(0)
  velocities = rng.uniform(-9, 9, (*scenes.shapes.shape, 2))
  centers = moving_sprites.trajectories(scenes, velocities, 40)
  low = 14 * (0.5 + 0.1 * scenes.scales)[..., None]
  high = 64 - low
  place, velocity = multi_dsprites.centers_of(scenes), velocities
  for t in range(40):
    np.testing.assert_allclose(centers[:, t], place, atol=1e-6)
    place = place + velocity
    for edge, is_out in ((low, place < low), (high, place > high)):
      place = np.where(is_out, 2 * edge - place, place)
      velocity = np.where(is_out, -velocity, velocity)
  assert (velocity != velocities).mean() > 0.4  # Many have an odd number.


def test_sprites_stay_entirely_inside():
  scenes = first_scenes(2)
  rng = np.random.default_rng(0)
  velocities = rng.uniform(-9, 9, (*scenes.shapes.shape, 2))
  centers = moving_sprites.trajectories(scenes, velocities, 12)
  for p in (0, 1):
    lone = alone(scenes, p)
    masks = np.stack([
      multi_dsprites.render(
        lone, image_size=192, centers=centers[:, t]
      )["segments"] > 0
      for t in range(12)
    ])  # fmt: skip
    areas = masks.sum(axis=(2, 3))
    np.testing.assert_allclose(areas / areas.mean(0), 1, atol=0.1)
    # What leaves at the top or at the left would come in on the other side.
    widest = 3 * 2 * 14 * (0.5 + 0.1 * scenes.scales[:, p])
    for axis in (2, 3):
      seen = masks.any(axis=axis)
      extents = 192 - seen.argmax(-1) - seen[..., ::-1].argmax(-1)
      assert (extents <= widest).all()


def test_a_chunk_depends_only_on_its_arguments():
  def segments(chunk, seed, **options):
    options = {"image_size": 16, "num_frames": 3, **options}
    return moving_sprites.generate(chunk, seed=seed, **options)["segments"]

  first = segments(3, 1)
  segments(4, 1)
  np.testing.assert_array_equal(segments(3, 1), first)
  for other in (segments(4, 1), segments(3, 2), segments(1, 3)):
    assert (other != first).any(axis=(1, 2, 3)).mean() > 0.99
  longer = segments(3, 1, num_frames=5)
  np.testing.assert_array_equal(longer[:, :3], first)
  assert (longer[:, 3:] != first[:, -1:]).any(axis=(2, 3)).mean() > 0.5


def test_options_out_of_range_are_refused():
  with pytest.raises(ValueError, match="image_size=15 must be from 16 to 256"):
    moving_sprites.check_options(image_size=15)
  with pytest.raises(ValueError, match="num_frames=0 must be at least 1"):
    moving_sprites.check_options(num_frames=0)
