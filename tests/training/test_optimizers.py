"""Tests of the optimiser and its learning rate."""

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


def test_a_max_grad_norm_of_zero_turns_clipping_off():
  params = {"w": jnp.zeros(3)}
  grads = {"w": jnp.array([3.0, 4.0, 0.0])}

  def first_moment(max_grad_norm):
    optimizer = optimizers.make_optimizer(lambda step: 1.0, max_grad_norm)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return optax.tree.get(state, "mu")["w"]

  np.testing.assert_allclose(first_moment(0.0), 0.1 * grads["w"], rtol=1e-6)
  np.testing.assert_allclose(first_moment(1.0), 0.1 * grads["w"] / 5, rtol=1e-6)
