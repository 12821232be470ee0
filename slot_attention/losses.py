"""Losses, one number per example.

Letters in shapes: B batch, K predictions, M targets, P numbers per object.
"""

import jax
import jax.numpy as jnp
import optax

from slot_attention.metrics import COORDINATES


def reconstruction_loss(
  recon_combined: jax.Array, images: jax.Array
) -> jax.Array:
  """Squared error between images [B, H, W, C] in [-1, 1]: mean over H, W, C.

  Returns [B].
  """
  return jnp.mean(jnp.square(recon_combined - images), axis=(1, 2, 3))


def match(costs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pairs rows and columns at the least total cost, on the device.

  Args:
    costs: [B, K, M].

  Returns:
    Rows and columns of the min(K, M) pairs, int [B, min(K, M)] each, found by
    the Hungarian algorithm.
  """
  return jax.vmap(optax.assignment.hungarian_algorithm)(costs)


def matching_costs(
  predictions: jax.Array, targets: jax.Array, *, coordinate_scale: float = 1.0
) -> jax.Array:
  """Cost of every pair, [B, K, M]; see `hungarian_huber_loss`."""
  scale = jnp.ones(predictions.shape[-1]).at[COORDINATES].set(coordinate_scale)
  difference = predictions[:, :, None] - targets[:, None, :]
  scaled = difference * scale[None, None, None]
  return jnp.mean(optax.losses.huber_loss(scaled, delta=1.0), axis=-1)


def hungarian_huber_loss(
  predictions: jax.Array, targets: jax.Array, *, coordinate_scale: float = 1.0
) -> jax.Array:
  """Huber loss (delta 1) under the best matching (E.4).

  The cost of a pair is the mean over P of the Huber loss; the loss is the sum
  of the costs of the matched pairs. Targets that are padding (all zero) are
  matched like the others. The matching is not differentiated.

  Args:
    predictions: [B, K, P].
    targets: [B, M, P].
    coordinate_scale: the three coordinates, in [0, 1], are stretched to
      [0, coordinate_scale] first, which gives them more weight (Figure 23).

  Returns:
    [B].
  """
  costs = matching_costs(
    predictions, targets, coordinate_scale=coordinate_scale
  )
  rows, columns = match(jax.lax.stop_gradient(costs))
  pairs = jax.vmap(lambda cost, row, column: cost[row, column])(
    costs, rows, columns
  )
  return jnp.sum(pairs, axis=-1)
