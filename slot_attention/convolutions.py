"""The models' convolutions, and exact ways to compute them faster.

Each fast way equals a plain one to rounding, gradients included, with the same
parameters; docstrings name the plain one, tests compare the two.

Letters in shapes: B images (or slots), h and w feature map, D and F features.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Keras' initialisers (biases are zero in both libraries).
Conv = functools.partial(nn.Conv, kernel_init=nn.initializers.glorot_uniform())


class ConvTranspose(nn.Module):
  """Keras' Conv2DTranspose with padding "SAME".

  Attributes:
    features: F of the outputs.
    kernel_size: height and width, in pixels.
    strides: by which the outputs are higher and wider than the inputs.
    param_dtype: of kernel [*kernel_size, F, D] and bias [F].
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """[B, h, w, D] to [B, h * strides[0], w * strides[1], F]."""
    kernel = self.param(
      "kernel",
      nn.initializers.glorot_uniform(),
      (*self.kernel_size, self.features, inputs.shape[-1]),
      self.param_dtype,
    )
    bias = self.param(
      "bias", nn.initializers.zeros, (self.features,), self.param_dtype
    )
    # XLA has no fast gradient of dilated convolutions for CPUs.
    by_phase = jax.default_backend() == "cpu" and max(self.strides) > 1
    transpose = conv_transpose_by_phase if by_phase else conv_transpose
    return transpose(inputs, kernel, self.strides) + bias[None, None, None]


def conv_transpose(
  inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
  """The transpose of a convolution with padding "SAME".

  Takes [B, h, w, D] and [height, width, F, D]; returns [B, h * strides[0],
  w * strides[1], F].
  """
  return jax.lax.conv_transpose(
    inputs,
    kernel,
    strides,
    "SAME",
    dimension_numbers=_LAYOUT,
    transpose_kernel=True,
  )


def conv_transpose_by_phase(
  inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
  """`conv_transpose` as convolutions without strides.

  Of a stride s, the output pixels i s + phase are, for each phase, an ordinary
  convolution of the inputs with every s-th row (or column) of the kernel (Shi
  et al., 2016, https://arxiv.org/abs/1609.07009).
  """
  # Where a stride exceeds the kernel, some phases see only zeros.
  missing = (max(st - sz, 0) for st, sz in zip(strides, kernel.shape))
  kernel = jnp.pad(kernel, [*((0, n) for n in missing), (0, 0), (0, 0)])
  rows, columns = (
    [_phase(size, stride, phase) for phase in range(stride)]
    for size, stride in zip(kernel.shape, strides)
  )
  phases = [
    [
      jax.lax.conv_general_dilated(
        inputs,
        jnp.flip(kernel[taps_y, taps_x], (0, 1)).swapaxes(2, 3),
        (1, 1),
        (padding_y, padding_x),
        dimension_numbers=_LAYOUT,
      )
      for taps_x, padding_x in columns
    ]
    for taps_y, padding_y in rows
  ]
  # [B, h, strides[0], w, strides[1], F]
  x = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
  batch_size, height, stride_y, width, stride_x, features = x.shape
  return x.reshape(batch_size, height * stride_y, width * stride_x, features)


def _phase(size, stride, phase):
  """Taps of a kernel's axis that a phase sees, and the inputs' padding."""
  ahead, first = divmod(phase + (size - stride) // 2, stride)
  num_taps = len(range(first, size, stride))
  return slice(first, None, stride), (num_taps - 1 - ahead, ahead)


def in_chunks(
  function: Callable[[jax.Array], jax.Array], inputs: jax.Array, size: int
) -> jax.Array:
  """A function of examples, applied to so many of them at a time.

  Equals `function(inputs)`, gradients included, to rounding. On a CPU it is
  faster: a small chunk's activations stay in the cache from layer to layer, and
  gradients of convolution kernels, which are sums over the chunk, take less
  time for many small sums than for a large one. The chunks are unrolled, since
  XLA has no fast gradient of a convolution in a loop for CPUs.

  Args:
    function: [b, ...] to [b, ...], of each example by itself.
    inputs: [B, ...].
    size: of a chunk, the last one may be smaller; 0 for all at once.
  """
  if not size:
    return function(inputs)
  starts = range(0, len(inputs), size)
  return jnp.concatenate([function(inputs[i : i + size]) for i in starts])


def convolve_broadcast(
  conv: nn.Module, vectors: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Convolves vectors that are copied to every pixel, without the copies.

  With `sum_of_broadcast` it equals `conv(vectors + position)` to rounding,
  gradients included. The convolution is linear. Of a vector copied to every
  pixel it is the same everywhere but near the border, so that a grid of kernel
  size says it all, and it is the sum of what it is for the unit vectors. The
  position's part does not depend on the vector: it is computed once for all.

  Args:
    conv: stride 1, padding "SAME", square kernel smaller than the grid.
    vectors: [B, 1, 1, D].
    position: [1, h, w, D].

  Returns:
    Without the copies, the vectors' part [B, side, side, features of conv] of
    odd side, and the position's with the bias [1, h, w, features of conv].
  """
  side = 2 * (conv.kernel_size[0] // 2) + 1
  size = vectors.shape[-1]
  units = jnp.eye(size, dtype=vectors.dtype)[:, None, None]
  units = conv(jnp.broadcast_to(units, (size, side, side, size)))
  bias = conv(jnp.zeros((1, 1, 1, size), vectors.dtype))
  grids = jnp.tensordot(vectors[:, 0, 0], units - bias, axes=1)
  return grids, conv(position)


def sum_of_broadcast(grids: jax.Array, position: jax.Array) -> jax.Array:
  """Copies and adds the two parts of `convolve_broadcast`.

  Takes [B, side, side, F] and [1, h, w, F]; returns [B, h, w, F], where the
  middle row and column of the grids are repeated.
  """
  border = grids.shape[1] // 2
  x = grids
  for axis in (1, 2):
    first, middle, last = jnp.split(x, (border, border + 1), axis)
    middle_shape = list(middle.shape)
    middle_shape[axis] = position.shape[axis] - 2 * border
    middle = jnp.broadcast_to(middle, middle_shape)
    x = jnp.concatenate([first, middle, last], axis)
  return x + position
