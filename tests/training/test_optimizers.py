"""Tests of the optimisers and their learning rates."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slot_attention.training import (
  optimizers,
)


def test_the_schedule_is_the_official_formula():
  schedule = optimizers.learning_rate_schedule(
    learning_rate=4e-4, warmup_steps=1000, decay_rate=0.5, decay_steps=50_000
  )
  assert schedule(0) == 0
  for step in (1, 500, 1000, 20_000, 50_000):
    expected = 4e-4 * min(1, step / 1000) * 0.5 ** (step / 50_000)
    assert schedule(jnp.int32(step)) == pytest.approx(expected, rel=1e-5)
  # In the schedule of optax, the decay starts after the warm-up.
  optax_schedule = optax.warmup_exponential_decay_schedule(
    0, 4e-4, 1000, 50_000, 0.5
  )
  assert abs(schedule(50_000) / optax_schedule(50_000) - 1) > 1e-3
  no_warmup = optimizers.learning_rate_schedule(
    learning_rate=1.0, warmup_steps=0, decay_rate=0.5, decay_steps=10
  )
  assert no_warmup(0) == 1


def test_the_cosine_ends_at_its_factor_and_stays_there():
  schedule = optimizers.learning_rate_schedule(
    learning_rate=2.0,
    warmup_steps=10,
    decay="cosine",
    decay_rate=0.1,
    decay_steps=100,
  )
  assert schedule(0) == 0
  for step in (5, 10, 30, 99):
    decay = 0.1 + 0.9 * (1 + np.cos(np.pi * step / 100)) / 2
    assert schedule(jnp.int32(step)) == pytest.approx(
      2 * min(1, step / 10) * decay, rel=1e-5
    )
  for step in (100, 101, 1000):
    assert schedule(step) == pytest.approx(0.2, rel=1e-6)


def muon_updates(gradients, learning_rate):
  """Transcribes Muon for one matrix; returns the update of every step."""
  momentum = np.zeros_like(gradients[0])
  updates = []
  for step, gradient in enumerate(gradients, start=1):
    momentum = 0.95 * momentum + 0.05 * gradient
    # Nesterov's momentum, with the bias corrections of optax.
    x = 0.95 * momentum / (1 - 0.95 ** (step + 1)) + 0.05 * gradient / (
      1 - 0.95**step
    )
    x = x / np.linalg.norm(x)
    for _ in range(5):  # Newton-Schulz iterations of degree five.
      gram = x @ x.T
      x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    updates.append(-learning_rate * 0.2 * np.sqrt(max(x.shape)) * x)
  return updates


def test_muon_updates_kernels_and_adam_everything_else():
  rng = np.random.default_rng(0)
  # Of each kernel, the shape of its matrix.
  matrices = {
    ("convolution", "kernel"): ((3, 3, 4, 32), (36, 32)),
    ("dense", "kernel"): ((20, 16), (20, 16)),
    ("attention", "query", "kernel"): ((20, 4, 6), (20, 24)),
    ("attention", "out", "kernel"): ((4, 6, 20), (24, 20)),
  }
  others = {
    ("narrow", "kernel"): (100, 15),
    ("attention", "key", "kernel"): (20, 3, 5),
    ("attention", "query", "bias"): (20, 24),
    ("slot_attention", "slots_mu"): (1, 20, 64),
    ("dense", "bias"): (32,),
  }
  shapes = {name: shape for name, (shape, _) in matrices.items()} | others

  def tree(flat):
    return traverse_util.unflatten_dict(flat)

  params = tree({name: jnp.zeros(shape) for name, shape in shapes.items()})
  optimizer = optimizers.make_optimizer(lambda _: 0.1, 0.0, lambda _: 0.3)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  grads, updates = [], []
  for i in range(3):
    assert optimizers.num_updates(state) == i
    grads.append({k: rng.normal(size=shape) for k, shape in shapes.items()})
    one, state = update(tree(grads[-1]), state, params)
    updates.append(traverse_util.flatten_dict(one))

  for name, (_, shape) in matrices.items():
    expected = muon_updates([g[name].reshape(shape) for g in grads], 0.3)
    for ours, theirs in zip(updates, expected):
      np.testing.assert_allclose(ours[name].reshape(shape), theirs, atol=2e-5)
  adam = optax.adam(0.1, nesterov=True)
  adam_state = adam.init(traverse_util.flatten_dict(params))
  for i, grad in enumerate(grads):
    expected, adam_state = adam.update(grad, adam_state)
    for name in others:
      np.testing.assert_allclose(
        updates[i][name], expected[name], rtol=1e-4, atol=1e-7
      )


def test_muon_updates_only_the_kernels_that_a_config_names():
  params = {
    "convolution": {"kernel": jnp.ones((3, 3, 16, 16))},
    "dense": {"kernel": jnp.ones((16, 16))},
    "query": {"kernel": jnp.ones((16, 4, 4))},
  }
  grads = jax.tree.map(
    lambda x: np.random.default_rng(0).normal(size=x.shape), params
  )

  def update(muon_kernels):
    optimizer = optimizers.make_optimizer(
      lambda _: 0.1, 0.0, lambda _: 0.3, muon_kernels
    )
    return optimizer.update(grads, optimizer.init(params), params)[0]

  muon = update("all")
  optimizer = optax.adam(0.1, nesterov=True)
  adam, _ = optimizer.update(grads, optimizer.init(params))
  for kernels, names in (
    ("convolutions", ["convolution"]),
    ("dense", ["dense", "query"]),
  ):
    for name, update_of_layer in update(kernels).items():
      expected = (muon if name in names else adam)[name]
      np.testing.assert_allclose(
        update_of_layer["kernel"], expected["kernel"], atol=1e-5
      )
  assert not np.allclose(muon["dense"]["kernel"], adam["dense"]["kernel"])


@pytest.mark.parametrize("muon_schedule", [None, lambda step: 0.5])
def test_a_loss_of_another_scale_has_the_same_updates(muon_schedule):
  """If the norm and epsilon have this scale as well."""
  size = optimizers.MIN_MUON_SIZE
  keys = jax.random.split(jax.random.key(0), 2)
  grads = {
    "dense": {
      "kernel": jax.random.normal(keys[0], (size, size)),
      "bias": jax.random.normal(keys[1], (size,)),
    }
  }
  params = jax.tree.map(jnp.zeros_like, grads)

  def update(scale, epsilon):
    optimizer = optimizers.make_optimizer(
      lambda step: 1.0, 0.05 * scale, muon_schedule, epsilon=epsilon
    )
    scaled = jax.tree.map(lambda x: scale * x, grads)
    return optimizer.update(scaled, optimizer.init(params), params)[0]

  expected = update(1.0, 1e-8)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    update(1e-6, 1e-14),
    expected,
  )
  unscaled = update(1e-6, 1e-8)["dense"]["bias"]
  assert (np.abs(unscaled) < 0.5 * np.abs(expected["dense"]["bias"])).all()


def test_a_max_grad_norm_of_zero_turns_clipping_off():
  params = {"w": jnp.zeros(3)}
  grads = {"w": jnp.array([3.0, 4.0, 0.0])}

  def first_moment(max_grad_norm):
    optimizer = optimizers.make_optimizer(lambda step: 1.0, max_grad_norm)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return optax.tree.get(state, "mu")["w"]

  np.testing.assert_allclose(first_moment(0.0), 0.1 * grads["w"], rtol=1e-6)
  np.testing.assert_allclose(first_moment(1.0), 0.1 * grads["w"] / 5, rtol=1e-6)
