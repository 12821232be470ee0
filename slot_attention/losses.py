"""Losses of single examples, without the mean over the batch.

Letters in shapes: B batch, K predictions, M targets, P numbers per object.
"""

import jax
import jax.numpy as jnp
import optax

from slot_attention.metrics import COORDINATES


def reconstruction_loss(
  recon_combined: jax.Array, images: jax.Array
) -> jax.Array:
  """Computes the squared error between images, averaged over H, W and C.

  Args:
    recon_combined: [B, H, W, C], the reconstructions.
    images: [B, H, W, C] in [-1, 1].

  Returns:
    [B].
  """
  return jnp.mean(jnp.square(recon_combined - images), axis=(1, 2, 3))


def match(costs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pairs rows and columns at minimal total cost (Hungarian algorithm).

  It runs on the device.

  Args:
    costs: [B, K, M].

  Returns:
    The rows and the columns of the pairs, int [B, min(K, M)] each.
  """
  return jax.vmap(optax.assignment.hungarian_algorithm)(costs)


def matching_costs(
  predictions: jax.Array, targets: jax.Array, *, coordinate_scale: float = 1.0
) -> jax.Array:
  """Computes the cost [B, K, M] of each pair, see `hungarian_huber_loss`."""
  scale = jnp.ones(predictions.shape[-1]).at[COORDINATES].set(coordinate_scale)
  difference = predictions[:, :, None] - targets[:, None, :]
  scaled = difference * scale[None, None, None]
  return jnp.mean(optax.losses.huber_loss(scaled, delta=1.0), axis=-1)


def match_sets(
  predictions: jax.Array, targets: jax.Array, *, coordinate_scale: float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Matches predictions [B, K, P] with targets [B, M, P].

  Zero targets are appended until there are at least K. Gradients do not flow
  through the matching.

  Returns:
    The costs [B, K, max(K, M)]; and the prediction and the target of each pair,
    int [B, K] each.
  """
  missing = max(predictions.shape[1] - targets.shape[1], 0)
  targets = jnp.pad(targets, ((0, 0), (0, missing), (0, 0)))
  costs = matching_costs(
    predictions, targets, coordinate_scale=coordinate_scale
  )
  return costs, *match(jax.lax.stop_gradient(costs))


def hungarian_huber_loss(
  predictions: jax.Array, targets: jax.Array, *, coordinate_scale: float = 1.0
) -> jax.Array:
  """Computes the Huber loss (delta 1) under the best matching (E.4).

  The cost of a pair is the Huber loss, averaged over P. The loss is the sum of
  the costs of the matched pairs. Padding targets (all zero) are matched
  like the others. Zero targets are appended until there are at least K, so a
  surplus prediction learns that it is no object. With K < M, only K targets are
  matched, and padding may be matched while an object is not. Gradients do not
  flow through the matching.

  Args:
    predictions: [B, K, P].
    targets: [B, M, P].
    coordinate_scale: factor of the three coordinates, which are in [0, 1],
      before the loss. More than 1 gives them more weight (Figure 23).

  Returns:
    [B].
  """
  costs, rows, columns = match_sets(
    predictions, targets, coordinate_scale=coordinate_scale
  )
  pairs = jax.vmap(lambda cost, row, column: cost[row, column])(
    costs, rows, columns
  )
  return jnp.sum(pairs, axis=-1)
