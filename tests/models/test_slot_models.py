"""Tests of the encoders, decoders, baselines and both models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import models
from slot_attention.models import layers, slot_models
from slot_attention.models.attention import SlotAttention

B, H, W, C, K, D = 2, 12, 16, 3, 5, 8

RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def small_discovery(**decoder) -> slot_models.ObjectDiscovery:
  return slot_models.ObjectDiscovery(
    encoder=slot_models.Encoder(features=(6, 7), strides=(1, 1), mlp_size=9),
    slot_attention=SlotAttention(num_slots=K, slot_size=D, mlp_hidden_size=10),
    decoder=slot_models.SpatialBroadcastDecoder(
      **{
        "broadcast_size": (H, W),
        "features": (6, 7),
        "strides": (1, 1),
        **decoder,
      }
    ),
  )


def count(module, shape):
  shapes = jax.eval_shape(module.init, RNGS, jnp.zeros((1, *shape)))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def dense(inputs, outputs, bias=True):
  return inputs * outputs + bias * outputs


def conv(size, inputs, outputs):
  return size * size * inputs * outputs + outputs


def norm(size):
  return 2 * size


def attention_parameters(inputs):
  """Counts those of the paper's Slot Attention, D = 64."""
  gaussian = 2 * 64
  q_k_v = 64 * 64 + 2 * inputs * 64
  gru = 64 * 192 + 64 * 192 + 2 * 192
  mlp = dense(64, 128) + dense(128, 64)
  norms = norm(inputs) + norm(64) + norm(64)
  return gaussian + q_k_v + gru + mlp + norms


def encoder_parameters(size):
  convs = conv(5, 3, size) + 3 * conv(5, size, size)
  return convs + dense(4, size) + norm(size) + 2 * dense(size, size)


def test_parameters_of_clevr_object_discovery_counted_by_hand():
  module = slot_models.ObjectDiscovery(
    encoder=slot_models.Encoder(),
    slot_attention=SlotAttention(num_slots=7),
    decoder=slot_models.SpatialBroadcastDecoder(),
  )
  decoder = dense(4, 64) + 5 * conv(5, 64, 64) + conv(3, 64, 4)
  by_hand = encoder_parameters(64) + attention_parameters(64) + decoder
  assert by_hand == 890_308
  assert count(module, (128, 128, 3)) == by_hand


def test_parameters_of_small_object_discovery_counted_by_hand():
  module = slot_models.ObjectDiscovery(
    encoder=slot_models.Encoder(features=(32,) * 4, mlp_size=32),
    slot_attention=SlotAttention(num_slots=4),
    decoder=slot_models.SpatialBroadcastDecoder(
      broadcast_size=(35, 35), features=(32,) * 3, strides=(1,) * 3
    ),
  )
  decoder = (
    dense(4, 64) + conv(5, 64, 32) + 2 * conv(5, 32, 32) + conv(3, 32, 4)
  )
  by_hand = encoder_parameters(32) + attention_parameters(32) + decoder
  assert by_hand == 235_812
  assert count(module, (35, 35, 3)) == by_hand


def test_parameters_of_set_prediction_counted_by_hand():
  module = slot_models.SetPrediction(
    encoder=slot_models.Encoder(strides=(1, 2, 2, 1)),
    slot_attention=SlotAttention(num_slots=10),
    classifier=slot_models.SetPredictor(),
  )
  classifier = dense(64, 64) + dense(64, 19)
  by_hand = encoder_parameters(64) + attention_parameters(64) + classifier
  assert by_hand == 380_755
  assert count(module, (128, 128, 3)) == by_hand


def test_parameters_of_the_slot_mlp_baselines_counted_by_hand():
  inputs = 16 * 16 * 64
  prediction = models.SlotMLP(num_slots=10)
  by_hand = dense(inputs, 512) + dense(512, 512) + dense(512, 640)
  assert count(prediction, (32, 32, 64)) == by_hand
  discovery = models.SlotMLP(
    num_slots=7, hidden_sizes=(512, 1024, 1024), slot_mlp_sizes=(64, 64)
  )
  by_hand = dense(inputs, 512) + dense(512, 1024) + dense(1024, 1024)
  by_hand += dense(1024, 7 * 64) + 2 * dense(64, 64)
  assert count(discovery, (128, 128, 64)) == by_hand


def test_object_discovery_returns_what_it_documents():
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  outputs, _ = jax.jit(small_discovery().init_with_output)(RNGS, images)
  assert outputs["slots"].shape == (B, K, D)
  assert outputs["attn"].shape == (B, 3, H * W, K)
  assert outputs["recons"].shape == (B, K, H, W, C)
  assert outputs["masks"].shape == (B, K, H, W, 1)
  assert outputs["recon_combined"].shape == (B, H, W, C)
  np.testing.assert_allclose(outputs["masks"].sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(
    outputs["recon_combined"],
    (outputs["masks"] * outputs["recons"]).sum(1),
    atol=1e-5,
  )


def test_decoding_slots_of_the_last_iteration_gives_the_reconstruction():
  """Figure 3c decodes the slots of every iteration in this way."""
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  module = small_discovery()
  outputs, variables = jax.jit(module.init_with_output)(RNGS, images)
  slots = outputs["slots_per_iteration"]
  last, first = (
    module.apply(variables, slots[:, t], method="decode")["recon_combined"]
    for t in (-1, 1)
  )
  np.testing.assert_allclose(last, outputs["recon_combined"], atol=1e-5)
  assert np.abs(first - last).max() > 1e-4


def test_slots_that_are_no_slots_are_as_if_they_were_not_there():
  module = small_discovery()
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  variables = jax.jit(module.init)(RNGS, images)
  slots = jax.random.normal(jax.random.key(3), (B, K, D))
  is_slot = jnp.arange(K)[None] != jnp.arange(B)[:, None]  # Slot b of image b.
  decoded = module.apply(variables, slots, is_slot, method="decode")
  for b in range(B):
    alone = module.apply(
      variables, jnp.delete(slots[b : b + 1], b, axis=1), method="decode"
    )
    np.testing.assert_array_equal(decoded["masks"][b, b], 0)
    for name in ("masks", "recons"):
      kept = jnp.delete(decoded[name][b], b, axis=0)
      np.testing.assert_allclose(kept, alone[name][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      decoded["recon_combined"][b], alone["recon_combined"][0], atol=1e-5
    )


def test_set_prediction_returns_what_it_documents():
  module = slot_models.SetPrediction(
    encoder=slot_models.Encoder(features=(6, 7), strides=(1, 2), mlp_size=9),
    slot_attention=SlotAttention(num_slots=K, slot_size=D),
    classifier=slot_models.SetPredictor(num_outputs=19, hidden_size=11),
  )
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  outputs, _ = jax.jit(module.init_with_output)(RNGS, images)
  assert outputs["predictions"].shape == (B, K, 19)
  assert 0 < outputs["predictions"].min() < outputs["predictions"].max() < 1
  # The strides of the encoder reduce the number of inputs.
  assert outputs["attn"].shape == (B, 3, H * W // 4, K)


def test_more_slots_at_test_time_pass_through_the_whole_model():
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  module = small_discovery()
  variables = jax.jit(module.init)(RNGS, images)
  outputs = module.apply(
    variables, images, num_slots=K + 3, num_iterations=5, rngs=RNGS
  )
  assert outputs["masks"].shape == (B, K + 3, H, W, 1)
  assert outputs["attn"].shape == (B, 5, H * W, K + 3)


def test_noise_passes_through_the_whole_model_without_a_random_stream():
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  module = small_discovery()
  variables = jax.jit(module.init)(RNGS, images)
  noise = jax.random.normal(jax.random.key(3), (B, K + 1, D))
  outputs = module.apply(variables, images, noise=noise)
  gaussian = variables["params"]["slot_attention"]
  np.testing.assert_allclose(
    outputs["slots_per_iteration"][:, 0],
    gaussian["slots_mu"] + jnp.exp(gaussian["slots_log_sigma"]) * noise,
    rtol=1e-5,
  )
  assert outputs["masks"].shape == (B, K + 1, H, W, 1)


def test_slot_mlp_replaces_slot_attention_with_fixed_k():
  module = small_discovery().clone(
    slot_attention=models.SlotMLP(
      num_slots=K, slot_size=D, hidden_sizes=(20,), slot_mlp_sizes=(9, D)
    )
  )
  images = jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)
  outputs, variables = jax.jit(module.init_with_output)(RNGS, images)
  assert outputs["slots"].shape == (B, K, D)
  assert "attn" not in outputs
  noise = jnp.zeros((B, K, D))
  for name, value in (("num_slots", K + 1), ("slots", noise), ("noise", noise)):
    with pytest.raises(ValueError, match=f"the Slot MLP has no {name}"):
      module.apply(variables, images, **{name: value})


def test_position_grid_measures_the_distance_to_each_border():
  grid = layers.position_grid(3, 5)
  assert grid.shape == (1, 3, 5, 4)
  np.testing.assert_allclose(grid[0, 0, 0], [0, 0, 1, 1])
  np.testing.assert_allclose(grid[0, 2, 1], [1, 0.25, 0, 0.75])


def test_without_position_embedding_features_do_not_depend_on_position():
  images = jnp.full((1, H, W, C), 0.3)
  for use, spread in ((True, True), (False, False)):
    encoder = slot_models.Encoder(
      features=(6,), strides=(1,), use_position_embedding=use
    )
    features, _ = encoder.init_with_output(RNGS, images)
    inside = features[0, 3:-3, 3:-3]  # Away from the padding.
    assert (np.ptp(np.asarray(inside), axis=(0, 1)).max() > 1e-4) == spread


def test_the_encoder_scales_its_images():
  images = jax.random.uniform(RNGS["params"], (1, H, W, C), minval=-1)
  plain = slot_models.Encoder(features=(6,), strides=(1,))
  scaled = plain.clone(input_scale=4.0)
  variables = plain.init(RNGS, images)
  np.testing.assert_array_equal(
    scaled.apply(variables, images), plain.apply(variables, 4 * images)
  )
  with pytest.raises(ValueError, match="input_scale"):
    plain.clone(input_scale=0.0)


def test_transposed_convolutions_grow_the_grid_to_the_image():
  decoder = slot_models.SpatialBroadcastDecoder(
    broadcast_size=(3, 4), features=(5, 6), strides=(2, 2)
  )
  assert decoder.image_shape == (12, 16, 3)
  outputs, _ = decoder.init_with_output(RNGS, jnp.zeros((B, K, D)))
  assert outputs["recon_combined"].shape == (B, 12, 16, 3)


def test_the_decoder_takes_the_shortcut_only_where_it_fits(monkeypatch):
  calls = []
  shortcut = slot_models.convolve_broadcast
  monkeypatch.setattr(
    slot_models,
    "convolve_broadcast",
    lambda *args: calls.append(1) or shortcut(*args),
  )
  slots = jnp.zeros((B, K, D))
  for fields, expected in (
    ({"broadcast_size": (7, 8), "features": (6,), "strides": (1,)}, 1),
    ({"broadcast_size": (7, 8), "features": (6,), "strides": (2,)}, 0),
    ({"broadcast_size": (5, 8), "features": (6,), "strides": (1,)}, 0),
  ):
    calls.clear()
    slot_models.SpatialBroadcastDecoder(**fields).init(RNGS, slots)
    assert len(calls) == expected


def loss_and_gradients(module, variables, images):
  def loss(variables):
    outputs = module.apply(variables, images, rngs=RNGS)
    return jnp.mean((outputs["recon_combined"] - images) ** 2)

  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_rematerialisation_changes_nothing(strides):
  fields = {"strides": strides, "broadcast_size": (H // strides[0], 16)}
  images = jax.random.uniform(
    jax.random.key(2), (B, H, 16 * strides[0], C), minval=-1
  )
  plain = small_discovery(**fields)
  variables = jax.jit(plain.init)(RNGS, images)
  expected = loss_and_gradients(plain, variables, images)(variables)
  # One slot, some slots, all slots, and more slots than there are.
  for chunk_size in (1, 4, B * K, 99):
    chunked = small_discovery(**fields, remat_chunk_size=chunk_size)
    computed = loss_and_gradients(chunked, variables, images)(variables)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      computed,
      expected,
    )


def memory_of_gradient(**fields):
  images = jnp.zeros((16, 32, 32, C))
  module = small_discovery(
    broadcast_size=(32, 32), features=(32, 32), strides=(1, 1), **fields
  )
  variables = jax.jit(module.init)(RNGS, images)
  step = loss_and_gradients(module, variables, images)
  memory = step.lower(variables).compile().memory_analysis()
  return memory.temp_size_in_bytes


def test_rematerialised_chunks_need_less_memory():
  rematerialised = memory_of_gradient(remat_chunk_size=2)
  assert rematerialised < memory_of_gradient() / 2


@pytest.mark.skipif(
  jax.__version_info__ < (0, 12), reason="older XLA ignores the barrier"
)
def test_gradients_do_not_keep_the_inputs_of_relu(monkeypatch):
  needed = memory_of_gradient()
  monkeypatch.setattr(slot_models, "relu", nn.relu)
  assert needed < 0.8 * memory_of_gradient()


def test_images_that_do_not_fit_the_decoder_are_refused():
  with pytest.raises(ValueError, match="images of 12x18x3 .* draws 12x16x3"):
    small_discovery().init(RNGS, jnp.zeros((B, H, W + 2, C)))
  with pytest.raises(ValueError, match="one entry for each convolution"):
    slot_models.Encoder(features=(3, 4), strides=(1,))
