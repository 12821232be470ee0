"""Layers that several models share.

Letters in shapes: B batch, D slot size.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, format_shape

# The official code is written in Keras, so the models use Keras' defaults.
Dense = functools.partial(
  nn.Dense, kernel_init=nn.initializers.glorot_uniform()
)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-3)


class MLP(nn.Module):
  """Dense layers of the given sizes with ReLU between them."""

  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [..., D_in] to [..., sizes[-1]]."""
    x = inputs
    for i, size in enumerate(self.sizes):
      x = Dense(size, name=f"dense_{i}")(nn.relu(x) if i else x)
    return x


class GRU(nn.Module):
  """Gated recurrent unit, as Keras' `GRUCell(reset_after=True)`.

  It computes the same function as `flax.linen.GRUCell` but initialises it as
  Keras does: Keras draws the kernels of the three gates as one matrix, [D_in,
  3D] Glorot for the inputs and [D, 3D] orthogonal for the state. Flax draws
  each gate separately.
  """

  @nn.compact
  def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
    """Maps state [..., D] and inputs [..., D_in] to the next state [..., D].

    The columns of both kernels are three blocks of D: update gate z, reset gate
    r, candidate.
    """
    size = state.shape[-1]
    inputs = Dense(3 * size, name="input")(inputs)
    recurrent = nn.Dense(
      3 * size, kernel_init=nn.initializers.orthogonal(), name="recurrent"
    )(state)
    input_z, input_r, input_h = jnp.split(inputs, 3, axis=-1)
    recurrent_z, recurrent_r, recurrent_h = jnp.split(recurrent, 3, axis=-1)
    z = nn.sigmoid(input_z + recurrent_z)
    r = nn.sigmoid(input_r + recurrent_r)
    candidate = jnp.tanh(input_h + r * recurrent_h)
    return z * state + (1 - z) * candidate


class Projection(nn.Module):
  """A linear map without bias from size D_in to D_out, and its transpose.

  Attributes:
    input_size: D_in.
    output_size: D_out.
  """

  input_size: int
  output_size: int

  @nn.compact
  def __call__(self, x: jax.Array, transpose: bool = False) -> jax.Array:
    """Maps [..., D_in] to [..., D_out], or back if `transpose` is True."""
    kernel = self.param(
      "kernel",
      nn.initializers.glorot_uniform(),
      (self.input_size, self.output_size),
    )
    return x @ (kernel.T if transpose else kernel)


def position_grid(height: int, width: int) -> jax.Array:
  """Returns the distances to the four borders, [1, height, width, 4] (E.2).

  The channels are y, x, 1 - y and 1 - x. Each of them is linear, from 0 at one
  border to 1 at the opposite one.
  """
  y, x = jnp.meshgrid(
    jnp.linspace(0, 1, height), jnp.linspace(0, 1, width), indexing="ij"
  )
  return jnp.stack([y, x, 1 - y, 1 - x], axis=-1)[None]


def linear_coordinates(height: int, width: int) -> jax.Array:
  """Returns y and x, each from -1 to 1, [1, height, width, 2]."""
  return 2 * position_grid(height, width)[..., :2] - 1


def example_noise(
  key: jax.Array,
  example_ids: jax.Array | None,
  shape: tuple[int, ...],
  draw: Callable[..., jax.Array] = jax.random.normal,
) -> jax.Array:
  """Draws noise that depends only on the key and on the id of each example.

  Args:
    key: of the noise.
    example_ids: int [B]; None for 0 to B - 1.
    shape: of the noise, [B, ...].
    draw: a distribution of `jax.random`, by default the standard normal one.
  """
  batch_size, *rest = shape
  ids = jnp.arange(batch_size) if example_ids is None else example_ids
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  return jax.vmap(lambda key: draw(key, tuple(rest)))(keys)


def number_of_slots(
  num_slots: int,
  slots: jax.Array | None,
  noise: jax.Array | None,
  batch_size: int,
  slot_size: int,
  noise_size: int | None = None,
) -> int:
  """Checks the initial slots and the noise of a call, and returns its K.

  Args:
    num_slots: K if neither slots nor noise are given.
    slots: None or [batch_size, K, slot_size].
    noise: None or [batch_size, K, noise_size].
    batch_size: B.
    slot_size: size of the initial slots.
    noise_size: size of the noise; None is that of the slots.

  Raises:
    ValueError: if both are given, a shape does not fit, or K is below 1.
  """
  if slots is not None and noise is not None:
    raise ValueError(
      f"slots of shape {slots.shape} and noise of shape {noise.shape} exclude"
      " each other: noise makes the initial slots, slots replaces them"
    )
  for name, x, size in (
    ("initial slots", slots, slot_size),
    ("noise", noise, noise_size or slot_size),
  ):
    if x is not None and (x.ndim != 3 or x.shape[::2] != (batch_size, size)):
      raise ValueError(
        f"{name} of shape {x.shape} must have shape [B, K, D] ="
        f" [{batch_size}, K, {size}]"
      )
    if x is not None:
      num_slots = x.shape[1]
  check_at_least("num_slots", num_slots, 1)
  return num_slots


def check_images(images: jax.Array, decoder: nn.Module) -> None:
  """Raises a ValueError unless images have the shape that a decoder draws.

  Args:
    images: [B, H, W, C].
    decoder: has the attribute image_shape, (H, W, C).
  """
  if images.shape[1:] != decoder.image_shape:
    fields = [
      f"{decoder.name}.{field}"
      for field in ("broadcast_size", "strides", "image_size", "channels")
      if hasattr(decoder, field)
    ]
    raise ValueError(
      f"images of {format_shape(images.shape[1:])} (height x width x channels)"
      " do not fit the decoder, which draws"
      f" {format_shape(decoder.image_shape)}: change {', '.join(fields)} or the"
      " images"
    )
