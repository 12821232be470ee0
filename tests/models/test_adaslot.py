"""Tests of AdaSlot's selection of slots and its masked decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import models, tasks
from slot_attention.models import adaslot
from tests.models import reference
from tests.models.test_attention import perturb
from tests.models.test_slot_models import B, C, D, H, K, W, small_discovery

RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}
TRAINING = {**RNGS, "training": jax.random.key(2)}


@pytest.fixture(name="slots")
def _slots():
  return jax.random.normal(jax.random.key(3), (B, K, D))


def select(slots, rngs=None, **fields):
  module = adaslot.SlotSelector(hidden_size=9, **fields)
  params = jax.jit(lambda: perturb(module.init(RNGS, slots)["params"]))()
  return params, module.apply({"params": params}, slots, rngs=rngs)


def test_slots_are_scored_by_layer_norm_and_mlp(slots):
  params, outputs = select(slots)
  p = reference.float64(params)
  x = reference.norm(np.asarray(slots, float), p["layer_norm"], -1, 1e-3)
  x = reference.relu(reference.dense(x, p["mlp"]["dense_0"]))
  logits = reference.dense(x, p["mlp"]["dense_1"])[..., 0]
  np.testing.assert_allclose(outputs["keep_logits"], logits, atol=1e-5)
  np.testing.assert_array_equal(outputs["keep"], logits > 0)
  assert 0 < outputs["keep"].mean() < 1


def test_in_training_slots_are_kept_as_often_as_their_logits_say():
  module = adaslot.SlotSelector(hidden_size=9)
  slots = jnp.broadcast_to(
    jax.random.normal(jax.random.key(3), (1, K, D)), (2000, K, D)
  )
  params = perturb(module.init(RNGS, slots)["params"])
  outputs = module.apply({"params": params}, slots, rngs=TRAINING)
  keep = np.asarray(outputs["keep"])
  np.testing.assert_allclose(np.unique(keep), [0, 1], atol=1e-6)
  share = reference.sigmoid(np.asarray(outputs["keep_logits"][0], float))
  np.testing.assert_allclose(keep.mean(axis=0), share, atol=0.04)


def test_noise_of_an_example_depends_on_its_id_not_on_its_place(slots):
  module = adaslot.SlotSelector(hidden_size=9)
  params = module.init(RNGS, slots)
  slots = jnp.repeat(slots[:1], 20, axis=0)
  ids = jnp.arange(20)
  keep = module.apply(params, slots, ids, rngs=TRAINING)["keep"]
  again = module.apply(params, slots, ids[::-1], rngs=TRAINING)["keep"]
  np.testing.assert_array_equal(keep, again[::-1])
  assert np.abs(keep - again).max() > 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_gradient_of_a_decision_is_that_of_the_sigmoid(slots, temperature):
  """In evaluation, where the noise is zero."""
  module = adaslot.SlotSelector(hidden_size=9, temperature=temperature)
  params = perturb(module.init(RNGS, slots)["params"])

  def gradient(function):
    return jax.jit(
      jax.grad(
        lambda slots: function(module.apply({"params": params}, slots)).sum()
      )
    )(slots)

  expected = gradient(lambda x: jax.nn.sigmoid(x["keep_logits"] / temperature))
  actual = gradient(lambda x: x["keep"])
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  assert np.abs(expected).max() > 1e-3


def test_dropped_slots_get_no_pixels_and_the_others_share_them():
  rng = np.random.default_rng(0)
  masks = reference.softmax(rng.normal(size=(B, K, H, W, 1)), 1)
  recons = rng.normal(size=(B, K, H, W, C))
  keep = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 1, 0]])
  outputs = adaslot.drop_slots(
    {"masks": jnp.array(masks), "recons": jnp.array(recons)}, jnp.array(keep)
  )
  for b in range(B):
    kept = np.flatnonzero(keep[b])
    expected = masks[b, kept] / (masks[b, kept].sum(0) + 1e-5)
    np.testing.assert_allclose(outputs["masks"][b, kept], expected, atol=1e-5)
    combined = (expected * recons[b, kept]).sum(0)
    np.testing.assert_allclose(
      outputs["recon_combined"][b], combined, atol=1e-4
    )
  assert (np.asarray(outputs["masks"])[keep == 0] == 0).all()


def discovery():
  plain = small_discovery()
  return models.AdaptiveObjectDiscovery(
    encoder=plain.encoder,
    slot_attention=plain.slot_attention,
    decoder=plain.decoder,
    slot_selector=adaslot.SlotSelector(hidden_size=9),
  )


@pytest.fixture(name="run", scope="module")
def _run():
  """Returns model, parameters, images, and outputs of an evaluation."""
  module = discovery()
  images = jax.random.uniform(jax.random.key(4), (B, H, W, C), minval=-1)
  # Masks stay soft: where only dropped slots paint, the others cannot.
  params = jax.jit(lambda: perturb(module.init(RNGS, images)["params"], 0.1))()
  apply = jax.jit(lambda x: module.apply({"params": x}, images, rngs=RNGS))
  # With this bias the model keeps half of the slots.
  bias = params["slot_selector"]["mlp"]["dense_1"]["bias"]
  bias = bias - np.median(apply(params)["keep_logits"])
  params["slot_selector"]["mlp"]["dense_1"]["bias"] = bias
  return module, params, images, apply(params)


def test_a_dropped_slot_changes_nothing(run):
  module, params, _, outputs = run
  keep = np.asarray(outputs["keep"])
  (dropped,), (kept,) = (
    [tuple(np.argwhere(keep == value)[0])] for value in (0, 1)
  )
  decode = jax.jit(
    lambda slots: module.apply({"params": params}, slots, method="decode")
  )
  np.testing.assert_allclose(
    decode(outputs["slots"])["masks"], outputs["masks"], atol=1e-5
  )
  for place, changes in ((dropped, False), (kept, True)):
    slots = outputs["slots"].at[place].multiply(1.5)
    after = decode(slots)
    np.testing.assert_array_equal(after["keep"], keep)
    difference = np.abs(after["recon_combined"] - outputs["recon_combined"])
    assert (difference.max() > 1e-3) == changes


def test_only_training_is_random(run):
  module, params, images, outputs = run
  apply = jax.jit(
    lambda key: module.apply(
      {"params": params},
      images,
      rngs={**RNGS, "training": key},
    )
  )
  keeps = [apply(jax.random.key(i))["keep"] for i in range(4)]
  assert max(np.abs(keep - keeps[0]).max() for keep in keeps) > 0.5
  logits = np.asarray(outputs["keep_logits"])
  np.testing.assert_array_equal(outputs["keep"], logits > 0)


def test_gradients_reach_the_selector_by_error_and_by_sparsity(run):
  module, params, images, _ = run

  def gradients(sparsity):
    task = tasks.adaptive_object_discovery(
      module, max_objects=3, sparsity=sparsity
    )
    batch = {"images": images}

    def loss(params):
      outputs = task.apply(params, batch, jax.random.key(1))
      return task.loss(outputs, batch).mean(), outputs["keep"].mean()

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  (plain, _), of_plain = gradients(0.0)
  (sparse, share), of_sparse = gradients(3.0)
  assert 0 < share < 1
  assert float(sparse - plain) == pytest.approx(3 * float(share), abs=1e-3)
  for gradient in (of_plain, of_sparse):
    for leaf in jax.tree.leaves(gradient["slot_selector"]):
      assert np.abs(leaf).max() > 1e-6
  difference = jax.tree.map(lambda a, b: a - b, of_sparse, of_plain)
  bias = difference["slot_selector"]["mlp"]["dense_1"]["bias"]
  assert bias > 0  # A step against it lowers the logits of all slots.


def test_bad_fields_are_named(run):
  for fields, words in (
    ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
    ({"temperature": 0.0}, "temperature=0.0 must be at least 0.001"),
  ):
    with pytest.raises(ValueError, match=words):
      adaslot.SlotSelector(**fields)
  with pytest.raises(ValueError, match="loss.sparsity=-1.0 must be at least 0"):
    tasks.adaptive_object_discovery(run[0], max_objects=3, sparsity=-1.0)
