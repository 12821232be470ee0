"""Tests of the placement of CLEVR scenes, their annotations and targets."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.clevr_renderer import read_reference
from slot_attention.data import clevr, clevr_renderer, clevr_scenes

# Scenes of the public generator; without them the tests are skipped.
RERENDERED = Path(__file__).parents[3] / "shared/data/clevr_rerendered"
needs_rerendered = pytest.mark.skipif(
  not RERENDERED.exists(), reason="scenes of the public generator are not here"
)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(name="all_show")
def _all_show(monkeypatch):
  """Makes sampling fast: no scene is rejected because of a hidden object."""
  monkeypatch.setattr(
    clevr_renderer,
    "count_pixels",
    lambda scenes: np.full(scenes.rotations.shape, 200),
  )


def offsets_of_pairs(scenes):
  """Returns offsets [P, 3] of pairs of objects, and sums of radii [P]."""
  offsets, radii = [], []
  for coords, count in zip(scenes.coords, scenes.num_objects):
    first, second = np.triu_indices(count, 1)
    offsets.append(coords[second] - coords[first])
    radii.append(coords[second, 2] + coords[first, 2])
  return np.concatenate(offsets), np.concatenate(radii)


def test_objects_keep_their_distance_and_margins(all_show):
  del all_show
  scenes = clevr_scenes.sample(range(300), seed=0)
  offsets, radii = offsets_of_pairs(scenes)
  distances = np.linalg.norm(offsets[:, :2], axis=1) - radii
  assert 0.25 <= distances.min() < 0.26
  for direction in ("left", "front"):
    margins = np.abs(offsets @ clevr_scenes.DIRECTIONS[direction])
    assert 0.4 - 1e-6 <= margins.min() < 0.41


def test_numbers_positions_and_classes_are_uniform_over_their_ranges(all_show):
  del all_show
  scenes = clevr_scenes.sample(range(1600), seed=1)
  counts = np.bincount(scenes.num_objects, minlength=11)
  assert counts[:3].sum() == 0
  # The tolerance is five standard deviations of a binomial.
  np.testing.assert_allclose(counts[3:], 200, atol=5 * np.sqrt(200))
  is_object = np.arange(10) < scenes.num_objects[:, None]
  coords = scenes.coords[is_object]
  for axis in (0, 1):
    assert -3 < coords[:, axis].min() < -2.95
    assert 2.95 < coords[:, axis].max() < 3
  rotations = scenes.rotations[is_object]
  assert 0 <= rotations.min() < 1 and 359 < rotations.max() < 360
  for name, names in clevr.PROPERTIES.items():
    share = np.bincount(scenes.classes[name][is_object]) / is_object.sum()
    # Small objects fit more often than large ones.
    tolerance = 0.1 if name == "size" else 0.02
    np.testing.assert_allclose(share, 1 / len(names), atol=tolerance)
  np.testing.assert_array_equal(
    coords[:, 2], clevr_renderer.RADII[scenes.classes["size"][is_object]]
  )
  assert not scenes.coords[~is_object].any()


def test_camera_and_lamps_jitter_around_their_positions(all_show):
  del all_show
  scenes = clevr_scenes.sample(range(500), seed=2)
  for places, center, jitter in (
    (scenes.camera, clevr_scenes.CAMERA, 0.5),
    (scenes.lamps, clevr_scenes.LAMPS, 1.0),
  ):
    offsets = places - np.array(center)
    assert (np.abs(offsets) <= jitter + 1e-5).all()
    assert (offsets.max(0) > 0.95 * jitter).all()
    assert (offsets.min(0) < -0.95 * jitter).all()


def test_every_object_has_at_least_200_visible_pixels():
  options = {"seed": 3, "min_objects": 9}
  scenes = clevr_scenes.sample(range(6), **options)
  pixels = clevr_renderer.count_pixels(scenes)
  is_object = np.arange(10) < scenes.num_objects[:, None]
  assert pixels[is_object].min() >= 200
  assert not pixels[~is_object].any()


def test_a_scene_with_a_hidden_object_is_sampled_again(monkeypatch):
  seen = []

  def hide_twice(scenes):
    seen.append(scenes)
    hidden = len(seen) < 3
    return np.full(scenes.rotations.shape, 199 if hidden else 200)

  monkeypatch.setattr(clevr_renderer, "count_pixels", hide_twice)
  scenes = clevr_scenes.sample([7], seed=0)
  assert len(seen) == 3
  assert_equal(scenes, seen[2])
  assert (seen[0].coords != seen[1].coords).any()
  for name in ("num_objects", "camera", "lamps"):
    assert_equal(getattr(seen[0], name), getattr(seen[2], name))


def test_a_scene_depends_only_on_its_seed_and_number():
  many = clevr_scenes.sample(range(4), seed=4)
  one = clevr_scenes.sample([2], seed=4)
  assert_equal(one, jax.tree.map(lambda x: x[2:3], many))
  other = clevr_scenes.sample([2], seed=5)
  assert (other.camera != one.camera).all()


def test_chunks_are_reproducible_and_consecutive(monkeypatch):
  options = {"seed": 6, "crop": True, "image_size": 40, "samples": 1}
  monkeypatch.setattr(clevr_scenes, "CHUNK_SIZE", 4)
  long = clevr_scenes.generate(1, **options)
  assert long["images"].shape == (4, 40, 40, 3)
  assert long["segments"].shape == (4, 40, 40)
  assert long["targets"].shape == (4, 10, 19)
  assert [array.dtype for array in long.values()] == ["uint8", "uint8", "f4"]
  monkeypatch.setattr(clevr_scenes, "CHUNK_SIZE", 2)
  for chunk in (2, 3):
    short = clevr_scenes.generate(chunk, **options)
    part = slice(2 * chunk - 4, 2 * chunk - 2)
    assert_equal(short, {name: array[part] for name, array in long.items()})
  # Set prediction has the same scenes in another framing.
  whole = clevr_scenes.generate(2, **{**options, "crop": False})
  assert_equal(whole["targets"], long["targets"][:2])
  assert (whole["images"] != long["images"][:2]).any()


def test_targets_describe_the_scenes(monkeypatch):
  monkeypatch.setattr(clevr_scenes, "CHUNK_SIZE", 3)
  options = {"seed": 8, "min_objects": 4, "max_objects": 4}
  chunk = clevr_scenes.generate(
    0, crop=False, image_size=40, samples=1, **options
  )
  scenes = clevr_scenes.sample(range(3), **options)
  targets = chunk["targets"]
  assert (targets[:, :4, 18] == 1).all() and not targets[:, 4:].any()
  np.testing.assert_allclose(
    6 * targets[:, :4, :3] - 3, scenes.coords[:, :4], atol=1e-5
  )
  np.testing.assert_array_equal(
    targets[:, :4, 7:10].argmax(-1), scenes.classes["shape"][:, :4]
  )
  # Objects may be outside the crop, but not outside the whole photograph.
  for segments in chunk["segments"]:
    assert set(np.unique(segments)) == {0, 1, 2, 3, 4}


def test_objects_may_all_be_large_and_of_different_colours(all_show):
  del all_show
  options = {"seed": 2, "min_objects": 8, "max_objects": 8}
  scenes = clevr_scenes.sample(range(20), distinct_colors=True, **options)
  colors = np.sort(scenes.classes["color"][:, :8])
  np.testing.assert_array_equal(colors, np.tile(np.arange(8), (20, 1)))
  assert set(np.unique(scenes.classes["size"][:, :8])) == {0, 1}
  options = {"seed": 2, "min_objects": 4, "max_objects": 4}
  large = clevr_scenes.sample(range(20), only_large=True, **options)
  assert (large.classes["size"][:, :4] == 1).all()
  assert_equal(large.camera, clevr_scenes.sample(range(20), **options).camera)


def test_levels_stretch_the_values_between_them(monkeypatch):
  monkeypatch.setattr(clevr_scenes, "CHUNK_SIZE", 2)
  options = {"seed": 3, "crop": True, "image_size": 40, "samples": 1}
  plain = clevr_scenes.generate(0, **options)
  stretched = clevr_scenes.generate(
    0, black_level=60, white_level=162, **options
  )
  expected = (plain["images"].astype(float) - 60) * 2.5
  assert expected.min() < 0 and expected.max() > 255
  np.testing.assert_allclose(
    stretched["images"], expected.clip(0, 255), atol=0.51
  )
  assert_equal(stretched["segments"], plain["segments"])


@pytest.mark.parametrize(
  "options, words",
  [
    ({"image_size": 0}, "image_size=0 must be at least 1"),
    ({"samples": 0}, "samples=0 must be at least 1"),
    ({"min_objects": 0}, "min_objects=0 must be at least 1"),
    ({"max_objects": 2}, "max_objects=2 must be from min_objects=3 to 10"),
    ({"max_objects": 11}, "max_objects=11 must be from min_objects=3 to 10"),
    ({"distinct_colors": True}, "max_objects=10 must be at most 8 with"),
    ({"black_level": 255}, "black_level=255 and white_level=255 must be in"),
    ({"white_level": 256}, "must be in order, from 0 to 255"),
  ],
)
def test_impossible_options_are_named(options, words):
  with pytest.raises(ValueError, match=words):
    clevr_scenes.check_options(crop=True, **options)


def test_annotations_are_json_and_describe_the_scenes(all_show):
  del all_show
  scenes = clevr_scenes.sample(range(3), seed=9)
  described = json.loads(json.dumps(clevr_scenes.annotations(scenes)))
  for n, description in enumerate(described):
    assert description["image_index"] == n
    assert len(description["objects"]) == scenes.num_objects[n]
    for m, thing in enumerate(description["objects"]):
      for name, names in clevr.PROPERTIES.items():
        assert thing[name] == names[scenes.classes[name][n, m]]
      np.testing.assert_allclose(thing["3d_coords"], scenes.coords[n, m])
      assert thing["rotation"] == scenes.rotations[n, m]


def test_the_origin_is_in_the_middle_of_the_photograph(all_show):
  del all_show
  scenes = clevr_scenes.sample([0], seed=0)
  scenes.coords[0, 0] = 0
  (description,) = clevr_scenes.annotations(scenes)
  column, row, depth = description["objects"][0]["pixel_coords"]
  assert (column, row) == (240, 160)
  np.testing.assert_allclose(depth, np.linalg.norm(scenes.camera), rtol=1e-6)


@needs_rerendered
def test_pixel_coords_equal_those_of_the_public_generator():
  scenes, _, _, described = read_reference(RERENDERED / "with_masks", 30)
  ours = clevr_scenes.annotations(scenes, width=320, height=240)
  for our_scene, scene in zip(ours, described):
    for thing, true in zip(our_scene["objects"], scene["objects"]):
      assert thing["pixel_coords"][:2] == true["pixel_coords"][:2]
      np.testing.assert_allclose(
        thing["pixel_coords"][2], true["pixel_coords"][2], rtol=1e-6
      )


@needs_rerendered
def test_relationships_equal_those_of_the_public_generator(all_show):
  del all_show
  path = RERENDERED / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
  described = json.loads(path.read_text())["scenes"][:40]
  # Arbitrary scenes get the coordinates of the public ones.
  scenes = clevr_scenes.sample(range(len(described)), seed=0)
  for n, scene in enumerate(described):
    scenes.num_objects[n] = len(scene["objects"])
    for m, thing in enumerate(scene["objects"]):
      scenes.coords[n, m] = thing["3d_coords"]
  for ours, scene in zip(clevr_scenes.annotations(scenes), described):
    assert ours["relationships"] == scene["relationships"]
    for name, direction in scene["directions"].items():
      np.testing.assert_allclose(ours["directions"][name], direction, atol=1e-6)


@needs_rerendered
def test_the_public_scenes_obey_the_same_rules():
  scenes, _, _, described = read_reference(RERENDERED / "with_masks", 200)
  offsets, radii = offsets_of_pairs(scenes)
  distances = np.linalg.norm(offsets[:, :2], axis=1) - radii
  assert 0.25 <= distances.min() < 0.26
  for direction in ("left", "front"):
    margins = np.abs(offsets @ clevr_scenes.DIRECTIONS[direction])
    assert 0.4 - 1e-6 <= margins.min() < 0.41
  assert min(min(scene["pixel_counts"][1:]) for scene in described) >= 200
  assert np.abs(scenes.camera - clevr_scenes.CAMERA).max() <= 0.5
  assert np.abs(scenes.lamps - clevr_scenes.LAMPS).max() <= 1.0
