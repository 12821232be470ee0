"""Tests of N-EM and R-NEM against a transcription in NumPy, and their loss."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from slot_attention import models, tasks
from tests.models import reference
from tests.models.test_slot_models import conv, dense, norm

B, K, D, T, H, W = 2, 3, 5, 2, 8, 12
FLIPS = 0.3

RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def small_model(use_relations=True, **fields):
  return models.NeuralEM(
    input_network=models.InputNetwork(
      features=(4, 3), kernel_size=4, hidden_size=7, flip_probability=FLIPS
    ),
    cell=models.RecurrentCell(
      num_slots=K,
      num_iterations=T,
      slot_size=D,
      use_relations=use_relations,
      attention_size=6,
    ),
    bernoulli_decoder=models.BernoulliDecoder(
      **{
        "image_size": (H, W),
        "features": (6, 4),
        "kernel_size": 4,
        "hidden_size": 9,
        **fields,
      }
    ),
  )


@pytest.fixture(name="images", scope="module")
def _images():
  white = jax.random.bernoulli(jax.random.key(2), 0.4, (B, H, W, 1))
  return 2.0 * white - 1


@pytest.fixture(name="noise", scope="module")
def _noise():
  return jax.random.normal(jax.random.key(3), (B, K + T, H, W, 1))


def moved_params(model, images):
  """Initial parameters, all moved, also those that are 0 or 1."""
  params = jax.jit(model.init)(RNGS, images)["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(4), len(leaves))
  moved = [
    x + 0.2 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)
  ]
  return jax.tree.unflatten(tree, moved)


@pytest.fixture(name="params", scope="module")
def _params(images):
  return moved_params(small_model(), images)


def layer_norm(x, params, axes=(-1,)):
  return reference.norm(x, params, axes, epsilon=1e-3)


def encode(x, params):
  """The input network: [K, H, W, 1] to [K, 7]."""
  for i in (0, 1):
    x = reference.conv(x, params[f"conv_{i}"], stride=2)
    x = reference.elu(layer_norm(x, params[f"norm_{i}"], (1, 2, 3)))
  x = reference.dense(x.reshape(K, -1), params["dense"])
  return reference.elu(layer_norm(x, params["norm"]))


def cell(inputs, state, params, use_relations):
  """The cell, slot by slot: returns slots and state, [K, D] each."""

  def layer(x, name, activate):
    x = reference.dense(x, params[f"{name}_dense"])
    return activate(layer_norm(x, params[f"{name}_norm"]))

  sees = [state[k] for k in range(K)]
  if use_relations:
    encoded = [layer(x, "encoder", reference.relu) for x in sees]
    sees = []
    for k in range(K):
      effect = np.zeros(D)
      for j in range(K):
        if j != k:
          pair = np.concatenate([encoded[k], encoded[j]])
          core = layer(pair, "core", reference.relu)
          attention = layer(core, "attention", np.tanh)
          attention = reference.dense(attention, params["attention_out"])
          effect += reference.sigmoid(attention) * layer(
            core, "context", reference.relu
          )
      sees.append(np.concatenate([encoded[k], effect]))
  new = np.stack(
    [
      reference.dense(np.concatenate([sees[k], inputs[k]]), params["recurrent"])
      for k in range(K)
    ]
  )
  slots = reference.sigmoid(layer_norm(new, params["norm"]))
  return slots, reference.sigmoid(new)


def decode(slots, params):
  """The decoder: [K, D] to probabilities [K, H, W]."""
  x = slots
  for i in (0, 1):
    x = reference.dense(x, params[f"dense_{i}"])
    x = reference.relu(layer_norm(x, params[f"dense_norm_{i}"]))
  x = x.reshape(K, H // 4, W // 4, -1)
  x = reference.conv(np.kron(x, np.ones((1, 2, 2, 1))), params["conv_0"])
  x = reference.relu(layer_norm(x, params["norm_0"], (1, 2, 3)))
  x = reference.conv(np.kron(x, np.ones((1, 2, 2, 1))), params["conv_1"])
  return reference.sigmoid(x[..., 0])


def transcription(params, image, noise, use_relations):
  """N-EM for one image [H, W, 1] in {-1, 1}."""
  image = (np.asarray(image, np.float64)[..., 0] + 1) / 2
  params = reference.float64(params)
  gamma = np.abs(noise[:K, ..., 0])
  gamma /= gamma.sum(0)
  predictions, state = np.zeros((K, H, W)), np.zeros((K, D))
  nll, kl = np.zeros(T), np.zeros(T)
  for t in range(T):
    flips = np.vectorize(math.erfc)(-noise[K + t, ..., 0] / 2**0.5) / 2 < FLIPS
    corrupted = np.where(flips, 1 - image, image)
    inputs = gamma * (corrupted - predictions)
    features = encode(inputs[..., None], params["input_network"])
    slots, state = cell(features, state, params["cell"], use_relations)
    predictions = decode(slots, params["bernoulli_decoder"])
    gamma = np.zeros((K, H, W))
    for i, j in np.ndindex(H, W):
      for k in range(K):
        p = predictions[k, i, j]
        gamma[k, i, j] = (p if image[i, j] else 1 - p) + 1e-6
      gamma[:, i, j] /= gamma[:, i, j].sum()
      for k in range(K):
        p = predictions[k, i, j]
        nll[t] -= gamma[k, i, j] * np.log(p if image[i, j] else 1 - p)
        kl[t] -= (1 - gamma[k, i, j]) * np.log(1 - p)
  recons = 2 * predictions - 1
  return {
    "slots": slots,
    "masks": gamma[..., None],
    "recons": recons[..., None],
    "recon_combined": (gamma * recons).sum(0)[..., None],
    "nll": nll,
    "kl": kl,
  }


@pytest.mark.parametrize("use_relations", [True, False])
def test_the_model_equals_a_transcription_in_numpy(
  images, noise, use_relations
):
  params = moved_params(small_model(use_relations), images)
  outputs = apply(params, images, use_relations, noise=noise)
  for b in range(B):
    expected = transcription(
      params, images[b], np.asarray(noise[b], np.float64), use_relations
    )
    assert outputs.keys() == expected.keys()
    for name, x in expected.items():
      np.testing.assert_allclose(
        outputs[name][b], x, rtol=1e-4, atol=1e-5, err_msg=name
      )
  # The flips change the first step.
  unflipped = noise.at[:, K:].set(10.0)
  other = apply(params, images, use_relations, noise=unflipped)
  assert np.abs(other["nll"] - outputs["nll"]).min() > 1e-3


def test_gradients_are_those_of_responsibilities_held_fixed(
  params, images, noise
):
  """Those of the next step's inputs are; a step follows another here."""
  model = small_model()
  unit_images = images[:, None] / 2 + 0.5
  masks = jnp.abs(noise[:, :K])
  masks /= masks.sum(axis=1, keepdims=True)
  first = (jnp.zeros((B, K, D)), jnp.zeros_like(masks), masks)

  @jax.jit
  def loss(params, held):
    def step(carry, noise):
      return model.apply(
        {"params": params}, unit_images, *carry, noise, method="step"
      )

    (state, probabilities, masks), _ = step(first, noise[:, K])
    masks = masks if held is None else held
    _, (_, nll, _) = step((state, probabilities, masks), noise[:, K + 1])
    return nll.sum(), masks

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  free, masks_between = gradient(params, None)
  held, _ = gradient(params, masks_between)
  for x, y in zip(*map(jax.tree.leaves, (free, held))):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_the_loss_has_the_gradients_of_responsibilities_held_fixed(
  params, images, noise
):
  """Of the last bias, the gradient is known; one step is done."""

  def loss(params):
    outputs = small_model().apply(
      {"params": params}, images, noise=noise[:, : K + 1], num_iterations=1
    )
    return (outputs["nll"] + outputs["kl"]).sum(), outputs

  gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
  gamma, p = outputs["masks"], (outputs["recons"] + 1) / 2
  x = (images[:, None] + 1) / 2
  by_hand = np.sum(gamma * (p - x) + (1 - gamma) * p)
  bias = gradients["bernoulli_decoder"]["conv_1"]["bias"]
  np.testing.assert_allclose(bias[0], by_hand, rtol=1e-4)


def test_a_step_from_the_first_state_has_finite_gradients(images):
  """All of its layer norms see zeros, where the code's epsilon is 1e-12."""
  model = small_model()
  params = jax.jit(model.init)(RNGS, images)["params"]

  def loss(params):
    outputs = model.apply(
      {"params": params}, images, num_iterations=1, rngs=RNGS
    )
    return outputs["nll"].sum()

  gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
  assert all(np.abs(x).max() < 1e3 for x in gradients)


@functools.partial(
  jax.jit, static_argnames=("use_relations", "num_slots", "num_iterations")
)
def apply(params, images, use_relations=True, **kwargs):
  return small_model(use_relations).apply(
    {"params": params}, images, rngs=RNGS, **kwargs
  )


def test_slots_and_steps_are_free_at_call_time(params, images):
  num_slots, num_iterations = 5, 1
  counts = {"num_slots": num_slots, "num_iterations": num_iterations}
  outputs = apply(params, images, **counts)
  assert outputs["slots"].shape == (B, num_slots, D)
  assert outputs["recons"].shape == (B, num_slots, H, W, 1)
  assert outputs["nll"].shape == outputs["kl"].shape == (B, num_iterations)
  np.testing.assert_allclose(outputs["masks"].sum(1), 1, atol=1e-5)
  # The first steps do not depend on how many follow.
  counts["num_iterations"] += 1
  more = apply(params, images, **counts)
  np.testing.assert_allclose(
    more["nll"][:, :num_iterations], outputs["nll"], rtol=1e-4
  )


def test_the_noise_of_an_example_depends_on_its_id_alone(params, images):
  def losses(images, ids):
    return apply(params, images, example_ids=jnp.array(ids))["nll"]

  together = losses(images, [8, 3])
  np.testing.assert_allclose(losses(images[1:], [3])[0], together[1], rtol=1e-4)
  assert np.abs(losses(images, [8, 4])[1] - together[1]).max() > 1e-3


def test_the_loss_is_of_all_steps_or_of_the_last(images):
  config = configs.load("smoke:nem")
  outputs = {
    "nll": jnp.array([[1.0, 2.0, 6.0]]), "kl": jnp.array([[1.0, 0.0, 2.0]])
  }  # fmt: skip
  assert tasks.make_task(config).loss(outputs, {}) == 4
  config.loss.use_all_iterations = False
  assert tasks.make_task(config).loss(outputs, {}) == 8


@pytest.mark.parametrize("use_relations", [True, False])
def test_parameters_counted_by_hand_are_those_of_the_code(use_relations):
  config = configs.load("nem")
  config.model.cell.use_relations = use_relations
  shapes = jax.eval_shape(
    lambda key: tasks.make_task(config).init(key, (64, 64, 1)),
    jax.random.key(0),
  )
  counts = {
    name: sum(x.size for x in jax.tree.leaves(tree))
    for name, tree in shapes.items()
  }

  def layer(inputs, size):
    return dense(inputs, size) + norm(size)

  channels = ((1, 16), (16, 32), (32, 64))
  assert counts["input_network"] == (
    sum(conv(4, a, b) + norm(b) for a, b in channels) + layer(8 * 8 * 64, 512)
  )
  by_hand = dense(250 + 512, 250) + norm(250)
  if use_relations:
    by_hand = layer(250, 250) + layer(500, 250) + layer(250, 250)
    by_hand += layer(250, 100) + dense(100, 1)
    by_hand += dense(250 + 250 + 512, 250) + norm(250)
  assert counts["cell"] == by_hand
  assert counts["bernoulli_decoder"] == (
    layer(250, 512) + layer(512, 8 * 8 * 64)
    + conv(4, 64, 32) + norm(32) + conv(4, 32, 16) + norm(16) + conv(4, 16, 1)
  )  # fmt: skip


def test_images_and_sizes_that_do_not_fit_are_refused(params, images):
  with pytest.raises(ValueError, match="num_slots=0 must be at least 1"):
    apply(params, images, num_slots=0)
  with pytest.raises(ValueError, match="num_iterations=0 must be at least 1"):
    apply(params, images, num_iterations=0)
  with pytest.raises(
    ValueError, match="change bernoulli_decoder.image_size or"
  ):
    apply(params, images[:, 1:])
  with pytest.raises(
    ValueError, match=r"multiples of 4: features=\(6, 4\) dou"
  ):
    small_model(image_size=(8, 10))
  with pytest.raises(ValueError, match="flip_probability=1.5 must be at most"):
    models.InputNetwork(flip_probability=1.5)
