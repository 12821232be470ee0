"""Tests of the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import models, tasks, validation
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
