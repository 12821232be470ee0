"""Tests of the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import losses, models, tasks, validation
from slot_attention.data import loading


def test_only_encoder_and_decoder_compute_in_bfloat16(config):
  images = loading.load(config.data).splits["train"].take(np.arange(4))
  batch = tasks.normalize({**images, "example_ids": jnp.arange(4)})

  def compute(dtype):
    config.compute_dtype = dtype
    task = tasks.make_task(config)
    params = task.init(jax.random.key(0), (12, 12, 3))

    def loss_and_outputs(params):
      outputs = task.apply(params, batch, jax.random.key(1))
      return task.loss(outputs, batch).mean(), outputs

    results = jax.jit(jax.value_and_grad(loss_and_outputs, has_aux=True))(
      params
    )
    assert {x.dtype.name for x in jax.tree.leaves(results)} == {"float32"}
    convolutions = {
      line.split(":")[1].partition("[")[0]
      for line in str(jax.make_jaxpr(loss_and_outputs)(params)).splitlines()
      if "= conv_general_dilated[" in line
    }
    return float(results[0][0]), convolutions

  loss32, convolutions32 = compute("float32")
  loss16, convolutions16 = compute("bfloat16")
  assert (convolutions32, convolutions16) == ({"f32"}, {"bf16"})
  assert loss32 != loss16
  assert loss32 == pytest.approx(loss16, rel=0.01)


def test_a_task_needs_no_example_ids_if_the_slots_are_given(config):
  task = tasks.make_task(config)
  params = task.init(jax.random.key(0), (12, 12, 3))
  images = jnp.zeros((2, 12, 12, 3))
  slots = jax.random.normal(jax.random.key(1), (2, 5, 8))
  outputs = [
    task.apply(params, batch, jax.random.key(2), slots=slots)
    for batch in (
      {"images": images},
      {"images": images, "example_ids": jnp.array([7, 3])},
    )
  ]
  assert outputs[0]["masks"].shape == (2, 5, 12, 12, 1)
  np.testing.assert_array_equal(*(x["masks"] for x in outputs))


def test_a_new_decoder_is_chosen_by_its_section_and_may_have_new_fields(
  config, monkeypatch
):
  class ScaledDecoder(models.SpatialBroadcastDecoder):
    """Paints with another contrast."""

    contrast: float = 1.0

    def __call__(self, slots):
      outputs = super().__call__(slots)
      combined = self.contrast * outputs["recon_combined"]
      return {**outputs, "recon_combined": combined}

  monkeypatch.setitem(tasks.PARTS["decoder"], "scaled_decoder", ScaledDecoder)
  config.model.scaled_decoder = config.model.decoder
  del config.model.decoder
  batch = {"images": jnp.zeros((2, 12, 12, 3))}
  painted = []
  for contrast in (None, 2.0):
    if contrast:
      config.model.scaled_decoder.contrast = contrast
    checked = validation.checked(config, num_devices=4)
    assert checked.model.scaled_decoder.contrast == (contrast or 1.0)
    task = tasks.make_task(checked)
    params = task.init(jax.random.key(0), (12, 12, 3))
    outputs = task.apply(params, batch, jax.random.key(1))
    painted.append(outputs["recon_combined"])
  np.testing.assert_allclose(painted[1], 2 * painted[0], rtol=1e-6)
  assert np.abs(painted[0]).max() > 0.01
  config.model.scaled_decoder = {**config.model.scaled_decoder, "contrast": 2}
  with pytest.raises(ValueError, match="contrast=2 must be of type float"):
    validation.checked(config)


def video_task():
  """Returns the task of a model that is never applied."""
  model = models.VideoDiscovery(
    encoder=models.Encoder(),
    slot_attention=models.SlotAttention(num_slots=3),
    slot_predictor=models.SlotPredictor(),
    decoder=models.SpatialBroadcastDecoder(),
  )
  return tasks.video_object_discovery(model, max_objects=2)


def measure_slots(slots, segments):
  """Measures masks that give each pixel to one slot, [B, F, H, W]."""
  masks = jax.nn.one_hot(slots, 3, axis=2)[..., None]
  images = jnp.zeros((*segments.shape, 3))
  outputs = {"masks": masks, "recon_combined": images}
  batch = {"images": images, "segments": segments}
  return video_task().measure(outputs, batch)


@pytest.mark.parametrize("coordinate_scale", [1.0, 5.0])
@pytest.mark.parametrize("use_all_iterations", [False, True])
def test_the_loss_of_sets_is_of_the_last_or_of_every_iteration(
  set_config, use_all_iterations, coordinate_scale
):
  """Figure 23."""
  set_config.loss.use_all_iterations = use_all_iterations
  set_config.loss.coordinate_scale = coordinate_scale
  rng = np.random.default_rng(0)
  targets = rng.uniform(size=(2, 3, 19)).astype(np.float32)
  predictions = rng.uniform(size=(2, 4, 6, 19)).astype(np.float32)
  loss = tasks.make_task(set_config).loss(
    {
      "predictions": predictions[:, -1],
      "predictions_per_iteration": predictions,
    },
    {"targets": targets},
  )
  expected = [
    losses.hungarian_huber_loss(x, targets, coordinate_scale=coordinate_scale)
    for x in predictions.swapaxes(0, 1)
  ]
  expected = np.mean(expected, axis=0) if use_all_iterations else expected[-1]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_an_object_that_changes_its_slot_within_a_video_is_wrong():
  # Two objects of 2 x 2 pixels on a background, in three frames.
  frame = np.zeros((4, 5), np.int32)
  frame[:2, :2], frame[2:, 3:] = 1, 2
  segments = np.stack([frame, frame[::-1], frame])[None]
  same_slots = measure_slots(segments, segments)
  for name in ("fg_ari", "ari", "mbo"):
    np.testing.assert_array_equal(same_slots[name], [1])
  # Other names of the slots, in all frames alike, change nothing.
  renamed = measure_slots((segments + 1) % 3, segments)
  assert jax.tree.all(jax.tree.map(np.array_equal, renamed, same_slots))
  swap = np.array([0, 2, 1])
  swapped = segments.copy()
  swapped[:, 1] = swap[swapped[:, 1]]
  measured = measure_slots(swapped, segments)
  # Each slot has 8 pixels of one object and 4 of the other: of the 276 pairs of
  # 24 pixels, 68 are together in both partitions, 132 in either of them.
  chance = 132 * 132 / 276
  np.testing.assert_allclose(
    measured["fg_ari"], (68 - chance) / (132 - chance), rtol=1e-5
  )
  np.testing.assert_allclose(measured["mbo"], 8 / 16, rtol=1e-6)
  assert 0 < measured["ari"][0] < 1
  # Frame by frame, nothing would be wrong.
  frames = [x.reshape(3, 1, 4, 5) for x in (swapped, segments)]
  np.testing.assert_array_equal(measure_slots(*frames)["fg_ari"], [1, 1, 1])


def test_the_loss_of_a_video_is_the_squared_error_over_all_frames():
  rng = np.random.default_rng(0)
  images, drawn = rng.uniform(-1, 1, (2, 2, 3, 4, 5, 3)).astype(np.float32)
  outputs = {"masks": np.ones((2, 3, 1, 4, 5, 1)), "recon_combined": drawn}
  task = video_task()
  expected = ((images - drawn) ** 2).mean(axis=(1, 2, 3, 4))
  for loss in (
    task.loss(outputs, {"images": images}),
    task.measure(outputs, {"images": images})["loss"],
  ):
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
