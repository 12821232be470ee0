"""Learns to tell three clouds of points apart, without labels.

  python examples/point_clouds.py

A set has 60 points in the plane, 20 in each of three clouds whose centres lie
on a circle, in an unknown direction. Slot Attention groups the points, and
every slot predicts a centre. The loss is the squared distance of each point to
the predicted centres, weighted by the attention that the point gives to their
slots. After training, the program compares the largest attention of every point
with the true clouds and prints the adjusted Rand index: 1 is a perfect grouping
and 0 a random one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from slot_attention import SlotAttention
from slot_attention.metrics import adjusted_rand_index

BATCH_SIZE = 32
NUM_CLOUDS = 3
POINTS_PER_CLOUD = 20
NUM_STEPS = 300


class CloudModel(nn.Module):
  """Groups points and predicts a centre for each group."""

  @nn.compact
  def __call__(self, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps points [B, N, 2] to centres [B, K, 2] and attention [B, N, K]."""
    inputs = nn.Dense(64)(nn.relu(nn.Dense(64)(points)))
    outputs = SlotAttention(num_slots=NUM_CLOUDS)(inputs)
    return nn.Dense(2)(outputs["slots"]), outputs["attn"][:, -1]


def draw_points(key: jax.Array) -> jax.Array:
  """Draws sets of points [B, N, 2].

  The points of a cloud stand next to each other.
  """
  angle_key, points_key = jax.random.split(key)
  first = jax.random.uniform(angle_key, (BATCH_SIZE, 1))
  angles = 2 * jnp.pi * (first + jnp.arange(NUM_CLOUDS)[None] / NUM_CLOUDS)
  centers = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
  shape = (BATCH_SIZE, NUM_CLOUDS, POINTS_PER_CLOUD, 2)
  points = centers[:, :, None] + 0.1 * jax.random.normal(points_key, shape)
  return points.reshape(BATCH_SIZE, -1, 2)


def main() -> None:
  """Trains the model and prints the adjusted Rand index on new sets."""
  model, optimizer = CloudModel(), optax.adam(2e-3)

  def loss(params, key):
    points = draw_points(key)
    centers, attn = model.apply(params, points, rngs={"slots": key})
    distances = jnp.sum((points[:, :, None] - centers[:, None]) ** 2, axis=-1)
    return jnp.mean(jnp.sum(attn * distances, axis=-1))

  @jax.jit
  def train_step(params, state, key):
    updates, state = optimizer.update(jax.grad(loss)(params, key), state)
    return optax.apply_updates(params, updates), state

  test_key, *keys = jax.random.split(jax.random.key(0), NUM_STEPS + 1)
  points = draw_points(test_key)
  params = model.init({"params": test_key, "slots": test_key}, points)
  state = optimizer.init(params)
  for key in keys:
    params, state = train_step(params, state, key)

  _, attn = model.apply(params, points, rngs={"slots": test_key})
  clouds = 1 + jnp.repeat(jnp.arange(NUM_CLOUDS), POINTS_PER_CLOUD)
  ari = adjusted_rand_index(
    jnp.tile(clouds, (BATCH_SIZE, 1)),
    attn.argmax(axis=-1),
    num_true=NUM_CLOUDS + 1,  # The id 0, of the background, does not occur.
    num_pred=NUM_CLOUDS,
  )
  print(f"adjusted Rand index {ari.mean():.2f}")


if __name__ == "__main__":
  main()
