"""The convolutions of the models.

On a CPU, they use the algorithms of `cpu_convolutions`. With the same
parameters, these give the results and gradients of the plain ones, up to
rounding. Tests compare the two.

Letters in shapes: B images or slots, h and w height and width of the feature
map, D input features, F output features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.models.cpu_convolutions import (
  conv,
  conv_transpose,
  conv_transpose_by_phase,
  conv_with_blocked_gradient,
)


class Conv(nn.Module):
  """Convolution as Keras' Conv2D.

  Attributes:
    features: number of output features F.
    kernel_size: height and width of the kernel, in pixels.
    strides: factors by which height and width shrink.
    padding: "SAME", or "VALID" for none.
    use_bias: whether there is a bias.
    param_dtype: type of the kernel [*kernel_size, D, F] and the bias [F].
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: str = "SAME"
  use_bias: bool = True
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [B, h, w, D] to [B, ceil(h / stride), ceil(w / stride), F].

    With "VALID", h and w are the numbers of places where the kernel fits.
    """
    kernel, bias = _parameters(
      self,
      (*self.kernel_size, inputs.shape[-1], self.features),
      self.use_bias,
    )
    convolve = conv_with_blocked_gradient if _is_for_cpu() else conv
    padding = jax.lax.padtype_to_pads(
      inputs.shape[1:3], self.kernel_size, self.strides, self.padding
    )
    outputs = convolve(inputs, kernel, self.strides, tuple(padding))
    return outputs if bias is None else outputs + bias[None, None, None]


class ConvTranspose(nn.Module):
  """Transposed convolution as Keras' Conv2DTranspose with padding "SAME".

  Attributes:
    features: number of output features F.
    kernel_size: height and width of the kernel, in pixels.
    strides: factors by which height and width grow.
    param_dtype: type of the kernel [*kernel_size, F, D] and the bias [F].
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [B, h, w, D] to [B, h * strides[0], w * strides[1], F]."""
    kernel, bias = _parameters(
      self, (*self.kernel_size, self.features, inputs.shape[-1])
    )
    transpose = conv_transpose_by_phase if _is_for_cpu() else conv_transpose
    return transpose(inputs, kernel, self.strides) + bias[None, None, None]


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """Returns max(x, 0) and keeps only the outputs for the gradient.

  Without the barrier, XLA keeps the inputs as well, because it computes the
  sign of x from the inputs of the maximum.
  """
  return jax.lax.optimization_barrier(jnp.maximum(x, 0))


relu.defjvps(lambda tangent, y, x: jnp.where(y > 0, tangent, 0))


def _is_for_cpu():
  """Returns whether the function that is being traced will run on a CPU.

  A step can be compiled for TPUs on a machine without one, so this asks for the
  devices of the trace, and not for those of the machine.
  """
  target = jax.sharding.get_abstract_mesh().abstract_device
  platform = target.platform if target else jax.default_backend()
  return platform == "cpu"


def _parameters(module, kernel_shape, use_bias=True):
  """Makes kernel and bias, initialised as in Keras; without a bias, None."""
  dtype = module.param_dtype
  kernel_init = nn.initializers.glorot_uniform()
  kernel = module.param("kernel", kernel_init, kernel_shape, dtype)
  if not use_bias:
    return kernel, None
  bias_shape = (module.features,)
  return kernel, module.param("bias", nn.initializers.zeros, bias_shape, dtype)


def convolve_broadcast(
  layer: nn.Module, vectors: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Convolves vectors copied to every pixel, without making the copies.

  `sum_of_broadcast` of the results equals `layer(vectors + position)` up to
  rounding, also in its gradients. It is faster for three reasons, since the
  convolution is linear:
    - A vector copied to every pixel gives the same output at every pixel that
      is farther from the border than the kernel reaches. A grid as large as the
      kernel therefore has all different outputs.
    - The output of a vector is a weighted sum of the outputs of unit vectors,
      so only D grids are convolved instead of B.
    - The part of the position does not depend on the vector and is computed
      once.

  Args:
    layer: a convolution with stride 1 and a square kernel that is smaller than
      the grid; if its padding is "VALID", of an odd size.
    vectors: [B, 1, 1, D].
    position: [1, h, w, D].

  Returns:
    The part of the vectors, [B, side, side, F] with an odd side (1 if the
    padding is "VALID"), and the part of the position with the bias, [1, h, w,
    F].
  """
  side = 2 * (layer.kernel_size[0] // 2) + 1
  size = vectors.shape[-1]
  units = jnp.eye(size, dtype=vectors.dtype)[:, None, None]
  units = layer(jnp.broadcast_to(units, (size, side, side, size)))
  # Zeros give the bias at every position, and one of them is enough.
  bias = layer(jnp.zeros((1, side, side, size), vectors.dtype))[:, :1, :1]
  grids = jnp.tensordot(vectors[:, 0, 0], units - bias, axes=1)
  return grids, layer(position)


def sum_of_broadcast(grids: jax.Array, position: jax.Array) -> jax.Array:
  """Adds the two parts that `convolve_broadcast` returns.

  Args:
    grids: [B, side, side, F]. Their middle row and column are repeated until
      the grids have the size of the position.
    position: [1, h, w, F].

  Returns:
    [B, h, w, F].
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
