"""Tests of Invariant Slot Attention and its decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention.models import invariant, slot_models
from slot_attention.models.attention import SlotAttention
from slot_attention.models.layers import linear_coordinates
from tests.models import reference
from tests.models.test_attention import perturb

# All sizes differ, so that a confusion of axes fails.
B, H, W, K, D, D_INPUTS, T = 2, 4, 5, 3, 8, 6, 2
N = H * W
GRID = linear_coordinates(H, W).reshape(N, 2)
RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def make(**fields):
  return invariant.InvariantSlotAttention(
    **{
      "num_slots": K,
      "num_iterations": T,
      "slot_size": D,
      "mlp_hidden_size": 10,
      "grid_mlp_size": 9,
      **fields,
    }
  )


@pytest.fixture(name="inputs")
def _inputs():
  return jax.random.normal(jax.random.key(2), (B, N, D_INPUTS))


@functools.lru_cache
def init(module):
  inputs = jnp.zeros((B, N, D_INPUTS))
  return jax.jit(lambda: perturb(module.init(RNGS, inputs, GRID)["params"]))()


def apply(module, params, inputs, grid=GRID, *, num_slots=None,
          num_iterations=None, **kwargs):  # fmt: skip
  @jax.jit
  def compiled(params, inputs, grid, kwargs):
    return module.apply(
      {"params": params},
      inputs,
      grid,
      rngs=RNGS,
      num_slots=num_slots,
      num_iterations=num_iterations,
      **kwargs,
    )

  return compiled(params, inputs, grid, kwargs)


def init_and_apply(module, inputs, **kwargs):
  params = init(module)
  return params, apply(module, params, inputs, **kwargs)


def gru(state, inputs, params):
  of_inputs = np.split(reference.dense(inputs, params["input"]), 3, -1)
  of_state = np.split(reference.dense(state, params["recurrent"]), 3, -1)
  z, r = (reference.sigmoid(of_inputs[i] + of_state[i]) for i in (0, 1))
  candidate = np.tanh(of_inputs[2] + r * of_state[2])
  return z * state + (1 - z) * candidate


def mlp(x, params):
  x = reference.relu(reference.dense(x, params["dense_0"]))
  return reference.dense(x, params["dense_1"])


@pytest.mark.parametrize("frame, size", invariant.FRAMES.items())
def test_equals_the_equations_written_out_in_numpy(inputs, frame, size):
  """The transcription loops over images, rounds and slots."""
  module = make(frame=frame)
  params, outputs = init_and_apply(module, inputs)
  assert outputs["slots"].shape == (B, K, D + size)
  assert outputs["attn"].shape == (B, T, N, K)
  assert outputs["slots_per_iteration"].shape == (B, T + 1, K, D + size)
  p = reference.float64(params)
  grid = np.asarray(GRID, np.float64)

  def norm(x, name):
    return reference.norm(x, p[name], -1, 1e-3)

  for b in range(B):
    x = norm(np.asarray(inputs[b], np.float64), "norm_inputs")
    k = x @ p["project_k"]["kernel"]
    v = x @ p["project_v"]["kernel"]
    initial = np.asarray(outputs["slots_per_iteration"][b, 0], np.float64)
    slots, position, scale = initial[:, :D], initial[:, D : D + 2], np.ones(
      (K, 2)
    ) / 5  # fmt: skip
    if size == 4:
      scale = initial[:, D + 2 :]
    np.testing.assert_allclose(slots, p["slots_init"][0])
    for t in range(T + 1):
      logits, values = np.zeros((N, K)), np.zeros((N, K, D))
      for s in range(K):
        relative = (grid - position[s]) / (5 * scale[s])
        place = reference.dense(relative, p["position_embedding"])
        keys = mlp(norm(k + place, "norm_grid"), p["grid_mlp"])
        values[:, s] = mlp(norm(v + place, "norm_grid"), p["grid_mlp"])
        q = norm(slots[s], "norm_slots") @ p["project_q"]["kernel"]
        logits[:, s] = keys @ q / D**0.5
      attn = reference.softmax(logits, 1)
      weights = attn / (attn.sum(0) + 1e-8)
      position = weights.T @ grid
      if size == 4:
        for s in range(K):
          spread = (weights[:, s] + 1e-8) @ (grid - position[s]) ** 2
          scale[s] = np.clip(np.sqrt(spread), 0.001, 2)
      frames = np.concatenate([position, scale], -1)[:, :size]
      expected = np.concatenate([slots, frames], -1)
      if t:
        actual = outputs["slots_per_iteration"][b, t]
        np.testing.assert_allclose(actual, expected, atol=1e-4)
      if t < T:
        np.testing.assert_allclose(outputs["attn"][b, t], attn, atol=1e-5)
        updates = np.einsum("nk,nkd->kd", weights, values)
        slots = gru(slots, updates, p["gru"])
        slots = slots + mlp(norm(slots, "norm_mlp"), p["mlp"])
    np.testing.assert_allclose(outputs["slots"][b], expected, atol=1e-4)


@pytest.mark.parametrize(
  "frame, growth", [("translation", 1.0), ("translation_and_scale", 1.5)]
)
def test_moving_what_is_seen_moves_the_frames_and_leaves_the_slots(
  inputs, frame, growth
):
  """The image moves by a vector and, with scales, grows as well."""
  shift = jnp.array([[0.3, -0.2]])
  module = make(frame=frame)
  params, before = init_and_apply(module, inputs)

  def move(slots):
    slots, position, scale = jnp.split(slots, (D, D + 2), axis=-1)
    parts = [slots, growth * position + shift[None], growth * scale]
    return jnp.concatenate(parts, axis=-1)

  after = apply(
    module,
    params,
    inputs,
    growth * GRID + shift,
    slots=move(before["slots_per_iteration"][:, 0]),
  )
  np.testing.assert_allclose(after["attn"], before["attn"], atol=1e-5)
  np.testing.assert_allclose(after["slots"], move(before["slots"]), atol=1e-4)
  # The test is not vacuous: slots see where inputs are, relative to them.
  other = apply(
    module,
    params,
    inputs,
    growth * GRID + shift,
    slots=before["slots_per_iteration"][:, 0],
  )
  assert np.abs(other["slots"] - before["slots"])[..., :D].max() > 1e-2


def test_initial_frames_are_uniform_positions_and_normal_scales():
  noise = jax.random.normal(jax.random.key(0), (1, 20_000, 4))
  frames = np.asarray(invariant._initial_frames(noise))[0]
  positions, scales = frames[:, :2], frames[:, 2:]
  # Mean and variance of a uniform number in [-1, 1], and its tenths.
  np.testing.assert_allclose(positions.mean(0), 0, atol=0.02)
  np.testing.assert_allclose(positions.var(0), 1 / 3, atol=0.01)
  tenths = np.histogram(positions[:, 0], 10, (-1, 1))[0] / 20_000
  np.testing.assert_allclose(tenths, 0.1, atol=0.01)
  assert scales.min() == pytest.approx(0.001)
  np.testing.assert_allclose(np.median(scales, 0), 0.1, atol=0.005)
  np.testing.assert_allclose(np.quantile(scales, 0.841, 0), 0.2, atol=0.01)


def test_k_and_t_of_a_call_and_given_noise(inputs):
  module = make()
  params, outputs = init_and_apply(module, inputs)
  _, longer = init_and_apply(module, inputs, num_iterations=T + 2)
  np.testing.assert_allclose(
    longer["slots_per_iteration"][:, : T + 1],
    outputs["slots_per_iteration"],
    atol=1e-5,
  )
  _, fewer = init_and_apply(module, inputs, num_slots=K - 1)
  assert fewer["slots"].shape == (B, K - 1, D + 4)
  noise = jax.random.normal(jax.random.key(3), (B, K, 4))
  given = apply(module, params, inputs, noise=noise)
  assert np.abs(given["slots"] - outputs["slots"]).max() > 1e-2
  again = apply(
    module,
    params,
    inputs,
    GRID,
    slots=given["slots_per_iteration"][:, 0],
  )
  np.testing.assert_allclose(again["slots"], given["slots"], atol=1e-5)


def test_frames_of_an_example_depend_on_its_id_not_on_its_place(inputs):
  module = make()
  _, outputs = init_and_apply(
    module, inputs[jnp.array([0, 0])], example_ids=jnp.array([4, 7])
  )
  _, swapped = init_and_apply(
    module, inputs[jnp.array([0, 0])], example_ids=jnp.array([7, 4])
  )
  np.testing.assert_allclose(
    outputs["slots"], swapped["slots"][::-1], atol=1e-5
  )
  assert np.abs(outputs["slots"] - swapped["slots"]).max() > 1e-2


def test_bad_fields_and_calls_say_what_is_wrong(inputs):
  with pytest.raises(ValueError, match="frame='rotation' is not one of trans"):
    make(frame="rotation")
  with pytest.raises(ValueError, match="grid_mlp_size=0 must be at least 1"):
    make(grid_mlp_size=0)
  for words, kwargs in (
    ("num_slots=4, but Invariant .* learned 3", {"num_slots": K + 1}),
    (r"noise of shape \(2, 3, 2\)", {"noise": jnp.zeros((B, K, 2))}),
    (r"slots of shape \(2, 3, 8\)", {"slots": jnp.zeros((B, K, D))}),
    ("num_iterations=0", {"num_iterations": 0}),
  ):
    with pytest.raises(ValueError, match=words):
      jax.eval_shape(lambda kw=kwargs: make().init(RNGS, inputs, GRID, **kw))
  with pytest.raises(ValueError, match=r"grid of shape \(19, 2\)"):
    make().init(RNGS, inputs, GRID[1:])


def make_decoder(**fields):
  return invariant.InvariantDecoder(
    **{
      "broadcast_size": (15, 19),
      "features": (5, 6),
      "strides": (1, 1),
      "kernel_size": 3,
      **fields,
    }
  )


def test_the_decoder_paints_in_the_frame_of_the_slot():
  """A picture moves with the frame of its slot, but for the image's border."""
  decoder = make_decoder()
  slots = jax.random.normal(jax.random.key(3), (B, K, D))
  position = jnp.array([[[-0.2, 0.1], [0.0, 0.0], [0.3, 0.3]]])
  scale = jnp.array([[[0.1, 0.2], [0.3, 0.2], [0.2, 0.2]]])

  def with_frames(position):
    frames = jnp.concatenate([position, scale], axis=-1)
    return jnp.concatenate([slots, jnp.repeat(frames, B, axis=0)], axis=-1)

  params = perturb(jax.jit(decoder.init)(RNGS, with_frames(position))["params"])
  # Two rows down and three columns to the left, in coordinates.
  shift = jnp.array([[[2 * 2 / 14, -3 * 2 / 18]]])
  before, after = (
    jax.jit(decoder.apply)({"params": params}, with_frames(x))["recons"]
    for x in (position, position + shift)
  )
  border = 3  # Three convolutions of kernel size 3.
  np.testing.assert_allclose(
    after[:, :, 2 + border : -border, border : -3 - border],
    before[:, :, border : -2 - border, 3 + border : -border],
    atol=1e-4,
  )
  assert np.abs(after - before).max() > 1e-2


def test_the_decoder_equals_its_equations_in_numpy():
  decoder = make_decoder(frame="translation", features=(5,), strides=(1,))
  slots = jax.random.normal(jax.random.key(3), (1, K, D + 2))
  params = perturb(jax.jit(decoder.init)(RNGS, slots)["params"])
  outputs = jax.jit(decoder.apply)({"params": params}, slots)
  p = reference.float64(params)
  x = np.asarray(slots[0], np.float64)
  grid = np.asarray(linear_coordinates(15, 19), np.float64)
  place = reference.dense(
    grid - x[:, None, None, D:], p["position_embedding"]["dense"]
  )
  x = x[:, None, None, :D] + place
  for name in ("conv_0", "conv_out"):
    # A transposed convolution of stride 1 is one with the kernel turned round.
    kernel = p[name]["kernel"][::-1, ::-1].swapaxes(2, 3)
    x = reference.conv(x, {"kernel": kernel, "bias": p[name]["bias"]})
    x = reference.relu(x) if name == "conv_0" else x
  np.testing.assert_allclose(outputs["recons"][0], x[..., :3], atol=1e-4)
  masks = reference.softmax(x[..., 3:], 0)
  np.testing.assert_allclose(outputs["masks"][0], masks, atol=1e-5)


def test_chunks_of_the_decoder_change_nothing():
  slots = jax.random.normal(jax.random.key(3), (B, K, D + 4))
  params = jax.jit(make_decoder().init)(RNGS, slots)["params"]
  whole, chunks = (
    jax.jit(make_decoder(remat_chunk_size=size).apply)(
      {"params": params}, slots
    )
    for size in (0, 4)
  )
  np.testing.assert_allclose(whole["masks"], chunks["masks"], atol=1e-5)


def test_slots_and_decoder_need_the_same_frame():
  encoder = slot_models.Encoder(features=(4,), strides=(1,), mlp_size=5)
  for attention, decoder in (
    (make(frame="translation"), make_decoder()),
    (make(), slot_models.SpatialBroadcastDecoder()),
    (SlotAttention(num_slots=K), make_decoder()),
  ):
    with pytest.raises(ValueError, match="frames of slots .* and decoder"):
      slot_models.ObjectDiscovery(encoder, attention, decoder)


def test_gradients_reach_every_parameter(inputs):
  module = make()
  params, _ = init_and_apply(module, inputs)

  def loss(params):
    outputs = module.apply({"params": params}, inputs, GRID, rngs=RNGS)
    return jnp.sum(jnp.sin(outputs["slots"]))

  for path, grad in jax.tree_util.tree_leaves_with_path(
    jax.jit(jax.grad(loss))(params)
  ):
    assert np.abs(grad).max() > 0, path
