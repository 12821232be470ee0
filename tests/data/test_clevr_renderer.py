"""Tests of the CLEVR renderer against independent computations."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.clevr_renderer import compare, read_reference
from slot_attention.data import clevr, clevr_renderer, clevr_scenes

# Scenes rendered by Blender; without them the tests are skipped.
REFERENCE = (
  Path(__file__).parents[3] / "shared/data/clevr_rerendered/with_masks"
)
needs_reference = pytest.mark.skipif(
  not REFERENCE.exists(), reason="scenes drawn by Blender are not here"
)

SIZE = 32
OPTIONS = {"framing": clevr_renderer.CENTRE, "image_size": SIZE, "samples": 2}


@dataclasses.dataclass(frozen=True)
class Thing:
  shape: str = "sphere"
  size: str = "large"
  material: str = "rubber"
  color: str = "red"
  place: tuple[float, float] = (0.0, 0.0)
  rotation: float = 0.0


def scenes_of(*scenes):
  """Makes scenes with the same number of objects each."""
  count = len(scenes)
  shape = (count, clevr.MAX_OBJECTS)
  result = clevr_renderer.Scenes(
    coords=np.zeros((*shape, 3), np.float32),
    rotations=np.zeros(shape, np.float32),
    classes={name: np.zeros(shape, np.int32) for name in clevr.PROPERTIES},
    num_objects=np.array([len(things) for things in scenes], np.int32),
    camera=np.full((count, 3), clevr_scenes.CAMERA, np.float32),
    lamps=np.full((count, 3, 3), clevr_scenes.LAMPS, np.float32),
    noise_seed=np.arange(count, dtype=np.uint32),
  )
  for n, things in enumerate(scenes):
    for m, thing in enumerate(things):
      for name, names in clevr.PROPERTIES.items():
        result.classes[name][n, m] = names.index(getattr(thing, name))
      radius = clevr_renderer.RADII[result.classes["size"][n, m]]
      result.coords[n, m] = (*thing.place, radius)
      result.rotations[n, m] = thing.rotation
  return result


def render(*scenes):
  return clevr_renderer.render(scenes_of(*scenes), **OPTIONS)


@pytest.fixture(name="many", scope="module")
def _many():
  scenes = [
    clevr_scenes._sample_scene([1, number], 0, (6, 9), False, False)
    for number in range(6)
  ]
  return jax.tree.map(lambda *arrays: np.stack(arrays), *scenes)


def pixel_rays(camera, framing=clevr_renderer.CENTRE, shape=(SIZE, SIZE)):
  """Returns directions [*shape, 3] through the centres of the pixels."""
  forward = -camera / np.linalg.norm(camera)
  right = np.cross(forward, [0, 0, 1])
  right /= np.linalg.norm(right)
  up = np.cross(right, forward)
  rows, columns = np.meshgrid(
    *(
      first + (np.arange(count) + 0.5) * (last - first) / count
      for (first, last), count in zip((framing.rows, framing.columns), shape)
    ),
    indexing="ij",
  )
  scale = 2 * np.tan(clevr_renderer.FIELD_OF_VIEW / 2) / framing.width
  rays = (
    forward
    + scale * (columns[..., None] - framing.width / 2) * right
    + scale * (framing.height / 2 - rows[..., None]) * up
  )
  return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def is_in_sphere(rays, camera, center, radius):
  """Returns whether rays are in the cone around the sphere."""
  distance = np.linalg.norm(center - camera)
  return rays @ ((center - camera) / distance) > np.sqrt(
    1 - (radius / distance) ** 2
  )


def test_the_silhouette_of_a_sphere_is_the_cone_around_it():
  scenes = scenes_of(
    *[[Thing(place=place)] for place in ((0.0, 0.0), (-2.0, 1.0), (1.5, 1.5))]
  )
  _, segments = clevr_renderer.render(scenes, **OPTIONS)
  for n, camera in enumerate(scenes.camera):
    expected = is_in_sphere(
      pixel_rays(camera), camera, scenes.coords[n, 0], 0.7
    )
    assert expected.sum() > 30
    # Float32 rounding can change pixels exactly on the edge.
    assert np.count_nonzero(segments[n] != expected) <= 2


def test_pixels_are_counted_in_the_whole_photograph():
  scenes = scenes_of([Thing(place=(-3.0, -3.0)), Thing(size="small")])
  camera, framing = scenes.camera[0], clevr_renderer.COUNTED
  rays = pixel_rays(camera, framing, (framing.height, framing.width))
  counted = clevr_renderer.count_pixels(scenes)[0]
  for m, radius in enumerate((0.7, 0.35)):
    expected = is_in_sphere(rays, camera, scenes.coords[0, m], radius)
    # Float32 rounding can change pixels exactly on the edge.
    np.testing.assert_allclose(counted[m], expected.sum(), atol=2)
  assert not counted[2:].any()


def distance_to_thing(points, coords, shape, radius, rotation):
  """Computes distances of points [..., 3] to a thing, negative inside."""
  cos, sin = np.cos(rotation), np.sin(rotation)
  x, y, z = np.moveaxis(points - coords, -1, 0) / radius
  x, y = cos * x + sin * y, cos * y - sin * x
  if shape == "sphere":
    return np.sqrt(x * x + y * y + z * z) - 1
  if shape == "cube":
    bevel, parts = clevr_renderer.CUBE_BEVEL, (x, y, z)
  else:
    bevel, parts = clevr_renderer.CYLINDER_BEVEL, (np.hypot(x, y), z)
  beyond = [np.maximum(np.abs(part) - (1 - bevel), 0) for part in parts]
  return np.sqrt(sum(part * part for part in beyond)) - bevel


def test_segments_equal_those_of_marching_along_each_ray(many):
  """Marching tests thousands of points on each ray."""
  _, segments = clevr_renderer.render(many, **OPTIONS)
  wrong = 0
  for n in range(3):
    scene = jax.tree.map(lambda x: x[n], many)  # noqa: B023
    rays = pixel_rays(scene.camera).reshape(-1, 3)
    nearest = np.full(len(rays), np.inf)
    expected = np.zeros(len(rays), int)
    for m in range(scene.num_objects):
      size = scene.coords[m, 2]
      middle = np.linalg.norm(scene.coords[m] - scene.camera)
      steps = np.linspace(middle - 2 * size, middle + 2 * size, 400)
      points = scene.camera + steps[:, None, None] * rays
      inside = (
        distance_to_thing(
          points,
          scene.coords[m],
          clevr.PROPERTIES["shape"][scene.classes["shape"][m]],
          size,
          scene.rotations[m],
        )
        < 0
      )
      entry = np.where(inside.any(0), steps[inside.argmax(0)], np.inf)
      expected = np.where(entry < nearest, m + 1, expected)
      nearest = np.minimum(entry, nearest)
    wrong += (segments[n].reshape(-1) != expected).sum()
    assert len(np.unique(expected)) > 5
  # A centre of a pixel may be so near an edge that the march misses it.
  assert wrong <= 6


def test_near_objects_hide_far_ones_in_any_order():
  near = Thing(place=(1.5, -1.0), shape="cube")
  far = Thing(place=(-0.8, 0.9), color="blue")
  _, segments = render([near, far], [far, near], [far])
  swapped = np.array([0, 2, 1], np.uint8)[segments[1]]
  np.testing.assert_array_equal(segments[0], swapped)
  hidden = (segments[2] == 1) & (segments[0] != 2)
  assert hidden.sum() > 5
  assert (segments[0][hidden] == 1).all()


def test_rotations_turn_cubes_about_the_vertical_in_radians():
  turned = [
    [Thing("cube", rotation=angle)]
    for angle in (0.0, np.pi / 2, np.pi / 4, np.pi / 2 + 90 * 2 * np.pi)
  ]
  _, segments = render(*turned)
  np.testing.assert_array_equal(segments[0], segments[1])
  assert (segments[0] != segments[2]).sum() > 10
  np.testing.assert_array_equal(segments[0], segments[3])


def test_an_image_depends_only_on_its_scene(many):
  together = clevr_renderer.render(many, **OPTIONS)
  alone = clevr_renderer.render(jax.tree.map(lambda x: x[4:5], many), **OPTIONS)
  for a, b in zip(together, alone):
    np.testing.assert_array_equal(a[4:5], b)
  other_noise = many._replace(noise_seed=many.noise_seed + 1)
  images, segments = clevr_renderer.render(other_noise, **OPTIONS)
  np.testing.assert_array_equal(segments, together[1])
  assert (images != together[0]).any()


def test_rows_after_the_objects_are_ignored():
  scenes = scenes_of([Thing(), Thing(place=(2.0, 2.0))])
  hidden = scenes._replace(num_objects=np.array([1], np.int32))
  for a, b in zip(clevr_renderer.render(hidden, **OPTIONS), render([Thing()])):
    np.testing.assert_array_equal(a, b)


def test_objects_cast_shadows_and_have_their_colors():
  images, segments = render([], [Thing("cylinder", color="green")])
  (ground, image), is_object = images.astype(int), segments[1] == 1
  # Where no object is, the ground is grey.
  assert np.ptp(ground, axis=-1).max() < 20
  assert (image - ground)[~is_object].min() < -20
  red, green, blue = image[is_object].mean(0)
  assert green > 1.5 * max(red, blue)


def test_metal_reflects_its_neighbour_and_rubber_does_not():
  def changed_pixels(material):
    cube = Thing("cube", material=material, color="gray")
    neighbours = [
      Thing(place=(1.3, 0.6), size="small", color=color)
      for color in ("yellow", "blue")
    ]
    images, segments = render(*([cube, other] for other in neighbours))
    np.testing.assert_array_equal(segments[0], segments[1])
    difference = np.abs(images[0].astype(int) - images[1]).max(-1)
    return (difference[segments[0] == 1] > 20).sum()

  assert changed_pixels("metal") > 5
  assert changed_pixels("rubber") == 0


def test_batches_of_scenes_give_the_images_of_single_scenes(many, monkeypatch):
  """Accelerators draw the scenes in batches, without branches."""
  one_at_a_time = clevr_renderer.render(many, **OPTIONS)
  compiled = clevr_renderer._compiled.__wrapped__  # Without the cache.
  monkeypatch.setattr(clevr_renderer, "_compiled", compiled)
  monkeypatch.setattr(clevr_renderer, "_is_cpu", lambda: False)
  monkeypatch.setattr(clevr_renderer, "ACCELERATOR_BATCH", 4)
  monkeypatch.setattr(clevr_renderer, "ACCELERATOR_CHUNK", 700)
  images, segments = clevr_renderer.render(many, **OPTIONS)
  np.testing.assert_array_equal(segments, one_at_a_time[1])
  difference = np.abs(images.astype(int) - one_at_a_time[0])
  # Rounding moves a few rays past an edge.
  assert (difference > 1).mean() < 0.001


@needs_reference
def test_images_and_masks_are_close_to_those_of_blender():
  measures, _ = compare(REFERENCE, 4, image_size=64, samples=4)
  # A grey image would be off by about 20 levels.
  assert measures["mean_error"] < 4
  assert measures["mask_iou"] > 0.95


@needs_reference
def test_numbers_of_visible_pixels_are_close_to_those_of_blender():
  scenes, _, _, described = read_reference(REFERENCE, 10)
  counted = clevr_renderer.count_pixels(scenes)
  for ours, scene in zip(counted, described):
    true = scene["pixel_counts"][1:]
    np.testing.assert_allclose(ours[: len(true)], true, rtol=0.05)
