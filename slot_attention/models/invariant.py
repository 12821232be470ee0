"""Invariant Slot Attention: every slot has its own frame of reference.

"Paper" is Biza et al., Invariant Slot Attention: Object Discovery with
Slot-Centric Reference Frames, ICML 2023, https://arxiv.org/abs/2302.04973. Its
code is google-research/google-research, folder `invariant_slot_attention`.

A frame is a position (y, x) and, if it has one, a scale along y and along x. It
is the last F channels of a slot, so that code for slots also handles frames.

Letters in shapes: B batch, N inputs, K slots, D slot size, F = 2 or 4 numbers
of a frame, T iterations, h and w grid.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, check_choice
from slot_attention.models.layers import (
  GRU,
  MLP,
  Dense,
  LayerNorm,
  Projection,
  example_noise,
  linear_coordinates,
  number_of_slots,
)
from slot_attention.models.slot_models import SpatialBroadcastDecoder

# Of each kind of frame, how many numbers it has.
FRAMES = {"translation": 2, "translation_and_scale": 4}

# Scales are small, so relative positions are divided by a further factor
# (`scales_factor` in the configs of the paper's code).
_SCALE_FACTOR = 5.0
_LEAST_SCALE, _LARGEST_SCALE = 0.001, 2.0
# Mean and standard deviation of the initial scales.
_INITIAL_SCALE = 0.1


def relative_grid(grid: jax.Array, frames: jax.Array) -> jax.Array:
  """Computes coordinates in the frame of every slot.

  They are grid - position or, if the frames have a scale, (grid - position) /
  (5 scale).

  Args:
    grid: [N, 2], y and x.
    frames: [B, K, F].

  Returns:
    [B, K, N, 2].
  """
  relative = grid[None, None] - frames[..., None, :2]
  if frames.shape[-1] == 2:
    return relative
  return relative / (_SCALE_FACTOR * frames[..., None, 2:])


class InvariantSlotAttention(nn.Module):
  """Slot Attention with keys and values in the frame of each slot (ISA).

  Slots do not change when the inputs and the initial frames move together, or,
  with scales, grow together. The initial slots are learned vectors with frames
  drawn at random, which tell them apart.

  Attributes:
    num_slots: number of slots K; a call may have fewer.
    num_iterations: number of iterations T; a call can override it.
    slot_size: size D of slots, queries, keys and values, without the frame.
    mlp_hidden_size: number of hidden units of the residual MLP.
    grid_mlp_size: number of hidden units of the MLP of keys and values with
      their relative positions.
    epsilon: offset that keeps the weighted mean finite.
    frame: "translation" or "translation_and_scale".

  Raises:
    ValueError: if a choice does not exist or a number is too small.
  """

  num_slots: int
  num_iterations: int = 3
  slot_size: int = 64
  mlp_hidden_size: int = 128
  grid_mlp_size: int = 128
  epsilon: float = 1e-8
  frame: str = "translation_and_scale"

  # Each initial slot has parameters, so that K cannot grow.
  learns_each_slot = True

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("mlp_hidden_size", self.mlp_hidden_size, 1)
    check_at_least("grid_mlp_size", self.grid_mlp_size, 1)
    check_at_least("epsilon", self.epsilon, 0)
    check_choice("frame", self.frame, FRAMES)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    grid: jax.Array,
    *,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    slots: jax.Array | None = None,
    noise: jax.Array | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Groups the inputs into slots with frames.

    There are T + 1 rounds of attention. The last one moves the frames only.

    Args:
      inputs: [B, N, D_inputs]. They should not know their positions.
      grid: [N, 2], y and x of every input; from -1 to 1 over an image.
      num_slots: number of slots K in this call; None takes the module's.
      num_iterations: number of iterations T in this call; None takes the
        module's.
      slots: initial slots with their frames [B, K, D + F], which also set K.
      noise: standard normal noise [B, K, F] of the initial frames, which also
        sets K. If None, it is drawn from the random stream "slots". The
        positions are uniform in [-1, 1], the scales normal with mean and
        standard deviation 0.1, at least 0.001.
      example_ids: int [B], default 0 .. B-1, see `SlotAttention`.

    Returns:
      A dict of
        slots: [B, K, D + F], the slots after the last iteration with the frames
          of the last round;
        attn: [B, T, N, K], the attention of every iteration. It sums to 1 over
          the slots;
        slots_per_iteration: [B, T + 1, K, D + F], the initial slots first. The
          slots of an iteration have the frames of the round after it.

    Raises:
      ValueError: if K or T is below 1, if no slots are given and K exceeds the
        number of learned slots, if both slots and noise are given, or if a
        shape does not fit.
    """
    frame_size = FRAMES[self.frame]
    batch_size, num_inputs, inputs_size = inputs.shape
    if grid.shape != (num_inputs, 2):
      raise ValueError(
        f"grid of shape {grid.shape} must have shape [N, 2] = [{num_inputs}, 2]"
      )
    if num_slots is None:
      num_slots = self.num_slots
    if num_iterations is None:
      num_iterations = self.num_iterations
    size = self.slot_size + frame_size
    num_slots = number_of_slots(
      num_slots, slots, noise, batch_size, size, frame_size
    )
    check_at_least("num_iterations", num_iterations, 1)
    learned_slots = self.param(
      "slots_init",
      nn.initializers.normal(1.0),
      (1, self.num_slots, self.slot_size),
    )
    if slots is None:
      if num_slots > self.num_slots:
        raise ValueError(
          f"num_slots={num_slots}, but Invariant Slot Attention has learned"
          f" {self.num_slots} initial slots only"
        )
      if noise is None:
        shape = (batch_size, num_slots, frame_size)
        noise = example_noise(self.make_rng("slots"), example_ids, shape)
      shape = (batch_size, num_slots, self.slot_size)
      slots = jnp.broadcast_to(learned_slots[:, :num_slots], shape)
      slots = jnp.concatenate([slots, _initial_frames(noise)], axis=-1)
    slots_per_iteration = [slots]
    slots, frames = jnp.split(slots, (self.slot_size,), axis=-1)

    norm_slots = LayerNorm(name="norm_slots")
    project_q = Projection(self.slot_size, self.slot_size, name="project_q")
    embed = Dense(self.slot_size, name="position_embedding")
    norm_grid = LayerNorm(name="norm_grid")
    grid_mlp = MLP((self.grid_mlp_size, self.slot_size), name="grid_mlp")
    gru = GRU(name="gru")
    norm_mlp = LayerNorm(name="norm_mlp")
    mlp = MLP((self.mlp_hidden_size, self.slot_size), name="mlp")

    def relate(x, position):
      # With two dimensions, XLA copies fewer arrays in the gradient.
      x = norm_grid(x + position)
      return grid_mlp(x.reshape(-1, self.slot_size)).reshape(x.shape)

    inputs = LayerNorm(name="norm_inputs")(inputs)
    k, v = (
      Projection(inputs_size, self.slot_size, name=name)(inputs)[:, None]
      for name in ("project_k", "project_v")
    )

    attn_per_iteration = []
    for t in range(num_iterations + 1):
      position = embed(relative_grid(grid, frames))
      keys = relate(k, position)
      q = project_q(norm_slots(slots)) * self.slot_size**-0.5
      attn = nn.softmax(jnp.einsum("bknd,bkd->bnk", keys, q), axis=-1)
      total = jnp.sum(attn, axis=1, keepdims=True) + self.epsilon
      weights = attn / total
      frames = self._frames(weights, grid)
      if t:  # The slots are those of the iteration before.
        slots_per_iteration.append(jnp.concatenate([slots, frames], axis=-1))
      if t < num_iterations:
        values = relate(v, position)
        slots = gru(slots, jnp.einsum("bnk,bknd->bkd", weights, values))
        slots = slots + mlp(norm_mlp(slots))
        attn_per_iteration.append(attn)

    return {
      "slots": slots_per_iteration[-1],
      "attn": jnp.stack(attn_per_iteration, axis=1),
      "slots_per_iteration": jnp.stack(slots_per_iteration, axis=1),
    }

  def _frames(self, weights, grid):
    """Returns the frames [B, K, F] of weights [B, N, K] that sum to 1 over N.

    The scale is the standard deviation of the positions.
    """
    position = jnp.einsum("bnk,nc->bkc", weights, grid)
    if self.frame == "translation":
      return position
    squares = jnp.square(grid[None, None] - position[:, :, None])
    spread = jnp.einsum("bnk,bknc->bkc", weights + self.epsilon, squares)
    scale = jnp.clip(jnp.sqrt(spread), _LEAST_SCALE, _LARGEST_SCALE)
    return jnp.concatenate([position, scale], axis=-1)


def _initial_frames(noise):
  """Maps standard normal noise [B, K, F] to frames."""
  # The error function maps normal to uniform numbers.
  position = jax.scipy.special.erf(noise[..., :2] / 2**0.5)
  scale = _INITIAL_SCALE + _INITIAL_SCALE * noise[..., 2:]
  scale = jnp.clip(scale, _LEAST_SCALE, _LARGEST_SCALE)
  return jnp.concatenate([position, scale], axis=-1)


class InvariantDecoder(SpatialBroadcastDecoder):
  """Spatial broadcast decoder with positions in the frame of every slot.

  It takes slots with frames, [B, K, D + F].

  Attributes:
    frame: see `InvariantSlotAttention`; both must have the same.

  Raises:
    ValueError: if the frame does not exist.
  """

  frame: str = "translation_and_scale"

  # The shortcut needs positions that all slots share.
  _use_shortcut = False

  def __post_init__(self):
    check_choice("frame", self.frame, FRAMES)
    super().__post_init__()

  def _broadcast(self, slots):
    """Returns slots with positions, [B K, h, w, D], and 0 for positions."""
    batch_size, num_slots, size = slots.shape
    size -= FRAMES[self.frame]
    slots, frames = jnp.split(slots, (size,), axis=-1)
    grid = linear_coordinates(*self.broadcast_size).reshape(-1, 2)
    grid = relative_grid(grid.astype(slots.dtype), frames)
    grid = grid.reshape(batch_size * num_slots, *self.broadcast_size, 2)
    slots = slots.reshape(batch_size * num_slots, 1, 1, size)
    return self.position_embedding(slots, grid), 0.0
