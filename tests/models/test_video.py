"""Tests of slots that follow objects through a video."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import models
from slot_attention.models import video
from tests.models import reference
from tests.models.test_attention import perturb
from tests.models.test_slot_models import B, C, D, H, K, W, small_discovery

F = 3
RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def test_the_predictor_equals_its_equations_in_numpy():
  heads, head_size = 2, 3
  module = video.SlotPredictor(heads, heads * head_size, mlp_hidden_size=7)
  slots = jax.random.normal(jax.random.key(2), (B, K, D))
  params = jax.jit(lambda: perturb(module.init(RNGS, slots)["params"]))()
  actual = jax.jit(module.apply)({"params": params}, slots)
  p = reference.float64(params)
  x = np.asarray(slots, np.float64)
  q, k, v = (
    np.einsum("bkd,dhe->bhke", x, p["attention"][name]["kernel"])
    + p["attention"][name]["bias"][:, None]
    for name in ("query", "key", "value")
  )
  attn = reference.softmax(q @ k.swapaxes(2, 3) / head_size**0.5, -1)
  out = np.einsum("bhke,hed->bkd", attn @ v, p["attention"]["out"]["kernel"])
  x = x + out + p["attention"]["out"]["bias"]
  x = reference.norm(x, p["norm_attention"], -1, 1e-3)
  hidden = reference.relu(reference.dense(x, p["mlp"]["dense_0"]))
  x = x + reference.dense(hidden, p["mlp"]["dense_1"])
  expected = reference.norm(x, p["norm_mlp"], -1, 1e-3)
  np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.fixture(name="run", scope="module", params=["slot attention", "MESH"])
def _run(request):
  """Returns model, parameters, video, and outputs."""
  plain = small_discovery()
  # Each call of MESH draws another small noise, and steps amplify rounding.
  monkeypatch = pytest.MonkeyPatch()
  monkeypatch.setattr("slot_attention.models.mesh._COST_NOISE", 0.0)
  # Every step and every iteration is compiled.
  mesh = models.MeshAttention(
    num_slots=K,
    slot_size=D,
    mlp_hidden_size=7,
    sinkhorn_iterations=2,
    mesh_steps=1,
    mesh_rate=1.0,
  )
  module = video.VideoDiscovery(
    encoder=plain.encoder,
    slot_attention=mesh if request.param == "MESH" else plain.slot_attention,
    slot_predictor=video.SlotPredictor(2, 6, 7),
    decoder=plain.decoder,
  )
  frames = jax.random.uniform(jax.random.key(2), (B, F, H, W, C), minval=-1)
  params = jax.jit(lambda: module.init(RNGS, frames)["params"])()
  yield module, params, frames, apply(module, params, frames)
  monkeypatch.undo()


def apply(module, params, frames, **given):
  return jax.jit(
    lambda params, frames, given: module.apply(
      {"params": params}, frames, rngs=RNGS, num_iterations=1, **given
    )
  )(params, frames, given)


def test_outputs_have_the_documented_shapes(run):
  _, _, _, outputs = run
  shapes = {name: x.shape for name, x in outputs.items()}
  assert shapes == {
    "slots": (B, F, K, D),
    "predicted_slots": (B, F, K, D),
    "attn": (B, F, 1, H * W, K),
    "recons": (B, F, K, H, W, C),
    "masks": (B, F, K, H, W, 1),
    "recon_combined": (B, F, H, W, C),
  }


def test_a_video_equals_slot_attention_and_predictor_frame_by_frame(run):
  module, params, frames, outputs = run
  single = models.ObjectDiscovery(
    module.encoder, module.slot_attention, module.decoder
  )
  slots = None
  for t in range(F):
    one = apply(
      single,
      {name: x for name, x in params.items() if name != "slot_predictor"},
      frames[:, t],
      **({} if slots is None else {"slots": slots}),
    )
    for name in ("slots", "attn", "masks", "recon_combined"):
      np.testing.assert_allclose(outputs[name][:, t], one[name], atol=1e-4)
    slots = module.slot_predictor.apply(
      {"params": params["slot_predictor"]}, one["slots"]
    )
    np.testing.assert_allclose(
      outputs["predicted_slots"][:, t], slots, atol=1e-4
    )


def test_a_video_goes_on_from_predicted_slots_and_sees_no_later_frame(run):
  module, params, frames, outputs = run
  rest = apply(
    module, params, frames[:, 1:], slots=outputs["predicted_slots"][:, 0]
  )
  np.testing.assert_allclose(rest["slots"], outputs["slots"][:, 1:], atol=1e-4)
  other = apply(module, params, frames.at[:, 2].multiply(-1.0))
  difference = np.abs(other["slots"] - outputs["slots"]).max(axis=(0, 2, 3))
  assert (difference[:2] < 1e-5).all() and difference[2] > 1e-3


def test_the_noise_of_a_video_depends_on_its_id_alone(run, monkeypatch):
  module, params, frames, _ = run
  monkeypatch.setattr("slot_attention.models.mesh._COST_NOISE", 1.0)
  ids = jnp.arange(B) + 5
  both = apply(module, params, frames, example_ids=ids)
  last = apply(module, params, frames[-1:], example_ids=ids[-1:])
  np.testing.assert_allclose(last["slots"], both["slots"][-1:], atol=1e-3)


def test_bad_fields_and_videos_say_what_is_wrong(run):
  module, params, frames, _ = run
  with pytest.raises(ValueError, match="attention_size=6 is not a multiple"):
    video.SlotPredictor(num_heads=4, attention_size=6)
  corrector = models.SlotAttention(num_slots=K, gradient="implicit")
  with pytest.raises(ValueError, match="slot_predictor would not be trained"):
    module.clone(slot_attention=corrector)
  for wrong in (frames[:, 0], frames[:, :, 1:]):
    with pytest.raises(ValueError, match=r"\[B, F, 12, 16, 3\]"):
      apply(module, params, wrong)
