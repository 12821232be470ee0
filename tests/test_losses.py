"""Tests of the losses against SciPy and against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from slot_attention import losses

B, K, P = 7, 6, 19


def huber(error):
  error = abs(error)
  return 0.5 * error**2 if error < 1 else error - 0.5


@pytest.mark.parametrize("shape", [(B, K, K), (B, 4, K), (B, K, 4)])
def test_matching_is_as_cheap_as_scipys(shape):
  costs = np.random.default_rng(0).random(shape).astype(np.float32)
  rows, columns = jax.jit(losses.match)(costs)
  for b in range(B):
    expected = costs[b][scipy.optimize.linear_sum_assignment(costs[b])].sum()
    assert len(set(rows[b].tolist())) == min(shape[1:])
    assert len(set(columns[b].tolist())) == min(shape[1:])
    assert costs[b][rows[b], columns[b]].sum() == pytest.approx(expected)


def test_matching_is_as_cheap_as_scipys_if_costs_are_tied():
  """Ties are common, since all targets that are padding are equal."""
  costs = np.random.default_rng(1).integers(0, 3, (40, 10, 10))
  costs = costs.astype(np.float32)
  rows, columns = jax.jit(losses.match)(costs)
  for b, cost in enumerate(costs):
    expected = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    assert cost[rows[b], columns[b]].sum() == expected
    assert sorted(columns[b].tolist()) == list(range(10))


def test_hungarian_huber_loss_equals_loops():
  rng = np.random.default_rng(2)
  # Some errors are below and some above 1, where the loss becomes linear.
  predictions = rng.uniform(-2, 2, (B, K, P)).astype(np.float32)
  targets = rng.random((B, K, P)).astype(np.float32)
  targets[:, -2:] = 0
  actual = jax.jit(losses.hungarian_huber_loss)(predictions, targets)
  for b in range(B):
    cost = np.array(
      [
        [np.mean([huber(x - y) for x, y in zip(p, t)]) for t in targets[b]]
        for p in predictions[b]
      ]
    )
    expected = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    assert actual[b] == pytest.approx(expected, rel=1e-5)


def test_a_prediction_that_is_left_over_learns_that_it_is_no_object():
  rng = np.random.default_rng(3)
  targets = rng.random((B, 4, P)).astype(np.float32)
  targets[..., -1] = 1
  spare = rng.random((B, 2, P)).astype(np.float32)
  predictions = np.concatenate([targets, spare], axis=1)
  loss = losses.hungarian_huber_loss(predictions, targets)
  np.testing.assert_allclose(loss, (spare**2 / 2).mean(-1).sum(-1), rtol=1e-5)
  grads = jax.grad(lambda x: losses.hungarian_huber_loss(x, targets).sum())(
    predictions
  )
  assert (grads[:, 4:] > 0).all()


def test_the_coordinate_scale_affects_only_the_coordinates():
  rng = np.random.default_rng(5)
  predictions, targets = rng.random((2, B, K, P)).astype(np.float32)
  scale = np.array([3.0] * 3 + [1.0] * (P - 3), np.float32)
  scaled = losses.hungarian_huber_loss(
    predictions, targets, coordinate_scale=3.0
  )
  by_hand = losses.hungarian_huber_loss(predictions * scale, targets * scale)
  np.testing.assert_allclose(scaled, by_hand, rtol=1e-6)
  assert np.all(scaled > losses.hungarian_huber_loss(predictions, targets))


def test_hungarian_huber_loss_ignores_the_order_of_both_sets():
  rng = np.random.default_rng(3)
  predictions, targets = rng.random((2, B, K, P)).astype(np.float32)
  loss = losses.hungarian_huber_loss(predictions, targets)
  permuted = losses.hungarian_huber_loss(
    predictions[:, rng.permutation(K)], targets[:, rng.permutation(K)]
  )
  np.testing.assert_allclose(loss, permuted, rtol=1e-5)
  assert np.all(loss > 0.1)


def test_hungarian_huber_gradient_is_that_of_the_matched_pairs():
  rng = np.random.default_rng(4)
  predictions, targets = rng.random((2, 1, K, P)).astype(np.float32)
  grad = jax.grad(lambda p: losses.hungarian_huber_loss(p, targets).sum())(
    jnp.array(predictions)
  )
  cost = 0.5 * ((predictions[0][:, None] - targets[0][None]) ** 2).mean(-1)
  rows, columns = scipy.optimize.linear_sum_assignment(cost)
  expected = np.zeros((K, P))
  expected[rows] = (predictions[0][rows] - targets[0][columns]) / P
  np.testing.assert_allclose(grad[0], expected, atol=1e-6)


def test_reconstruction_loss_is_the_mean_over_pixels_and_channels():
  rng = np.random.default_rng(5)
  images, recons = rng.uniform(-1, 1, (2, B, 4, 5, 3)).astype(np.float32)
  actual = losses.reconstruction_loss(recons, images)
  assert actual.shape == (B,)
  for b in range(B):
    expected = sum((recons[b] - images[b]).ravel() ** 2) / (4 * 5 * 3)
    assert actual[b] == pytest.approx(expected, rel=1e-5)
