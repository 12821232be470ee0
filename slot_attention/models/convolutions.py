"""The models' convolutions, and exact ways to compute them faster.

Each fast way equals a plain one to rounding, gradients included, with the same
parameters; tests compare the two.

Letters in shapes: B images (or slots), h and w feature map, D and F features.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Of inputs or of outputs, from which a kernel's gradient is computed at a time
# on a CPU. More do not fit the cache of a core (2 MB where this was tried); all
# at once take about twice as long.
_BLOCK_BYTES = 2**20
# Images in a block: as many as floats fit a vector register.
_BLOCK_IMAGES = 16
# Fewer rows are not worth the rows around them, which the kernel sees as well.
_MIN_BLOCK_ROWS = 8


class Conv(nn.Module):
  """Keras' Conv2D with padding "SAME".

  Attributes:
    features: F of the outputs.
    kernel_size: height and width, in pixels.
    strides: by which the outputs are less high and wide than the inputs.
    param_dtype: of kernel [*kernel_size, D, F] and bias [F].
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """[B, h, w, D] to [B, ceil(h / strides[0]), ceil(w / strides[1]), F]."""
    kernel, bias = _parameters(
      self, (*self.kernel_size, inputs.shape[-1], self.features)
    )
    is_on_cpu = jax.default_backend() == "cpu"
    convolve = conv_with_blocked_gradient if is_on_cpu else conv
    padding = jax.lax.padtype_to_pads(
      inputs.shape[1:3], self.kernel_size, self.strides, "SAME"
    )
    outputs = convolve(inputs, kernel, self.strides, tuple(padding))
    return outputs + bias[None, None, None]


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
    kernel, bias = _parameters(
      self, (*self.kernel_size, self.features, inputs.shape[-1])
    )
    is_on_cpu = jax.default_backend() == "cpu"
    transpose = conv_transpose_by_phase if is_on_cpu else conv_transpose
    return transpose(inputs, kernel, self.strides) + bias[None, None, None]


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """max(x, 0), of which only the outputs are kept for the gradient.

  XLA would keep the inputs as well: it looks through the maximum to see where
  they are positive, unless it meets a barrier.
  """
  return jax.lax.optimization_barrier(jnp.maximum(x, 0))


relu.defjvps(lambda tangent, y, x: jnp.where(y > 0, tangent, 0))


def _parameters(module, kernel_shape):
  """Kernel and bias, initialised as by Keras."""
  dtype = module.param_dtype
  kernel_init = nn.initializers.glorot_uniform()
  return (
    module.param("kernel", kernel_init, kernel_shape, dtype),
    module.param("bias", nn.initializers.zeros, (module.features,), dtype),
  )


def conv(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """Convolves [B, h, w, D] with a kernel [height, width, D, F]."""
  return jax.lax.conv_general_dilated(
    inputs, kernel, strides, padding, dimension_numbers=_LAYOUT
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_with_blocked_gradient(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """`conv` with gradients that are fast on a CPU, in reverse mode alone.

  The kernel's is a sum over blocks of pixels, each of which fits the cache. The
  inputs' is `conv_transpose_by_phase`.
  """
  return conv(inputs, kernel, strides, padding)


def _forward(inputs, kernel, strides, padding):
  return conv(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(strides, padding, residuals, gradient):
  inputs, kernel = residuals
  _, height, width, _ = inputs.shape
  before = (padding[0][0], padding[1][0])
  of_inputs = _transpose_by_phase(gradient, kernel, strides, before)
  of_kernel = _kernel_gradient(inputs, gradient, kernel, strides, before)
  return of_inputs[:, :height, :width], of_kernel


def _kernel_gradient(inputs, gradient, kernel, strides, before):
  """Gradient of `conv` whose padding starts with `before` rows and columns."""
  num_images, height, width, _ = gradient.shape
  row_bytes = (
    max(gradient[0, 0].size, strides[0] * inputs[0, 0].size)
    * gradient.dtype.itemsize
  )
  block_images, block_rows = _block_size(num_images, height, row_bytes)

  def add_images(total, first, number):
    for top in range(0, height, block_rows):
      block = slice(top, min(top + block_rows, height)), slice(0, width)
      seen, padding = zip(
        *map(_seen, block, inputs.shape[1:3], kernel.shape, strides, before)
      )
      # A convolution that sums over images as others do over features, and
      # whose kernel is the gradient. XLA must find the dimensions in their
      # usual order: it does not reorder them in a loop, and others are slow.
      of_block = jax.lax.conv_general_dilated(
        _cut(inputs, first, number, *seen).transpose(3, 1, 2, 0),
        _cut(gradient, first, number, *block).transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
      )
      total += of_block.transpose(1, 2, 0, 3)
    return total

  # Not unrolled: large batches would take minutes to compile.
  num_blocks, rest = divmod(num_images, block_images)
  total = jax.lax.fori_loop(
    0,
    num_blocks,
    lambda i, total: add_images(total, i * block_images, block_images),
    jnp.zeros(kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32)),
  )
  if rest:
    total = add_images(total, num_images - rest, rest)
  return total.astype(kernel.dtype)


def _block_size(
  num_images: int, height: int, row_bytes: int
) -> tuple[int, int]:
  """Number of images, and of rows, of a block."""
  images = min(_BLOCK_IMAGES, num_images)
  rows = _BLOCK_BYTES // (images * row_bytes)
  if rows < min(_MIN_BLOCK_ROWS, height):
    images = 1
    rows = max(_BLOCK_BYTES // row_bytes, 1)
  return images, -(-height // -(-height // rows))  # As few blocks, but alike.


def _cut(x, first, number, rows, columns):
  return jax.lax.dynamic_slice(
    x,
    (first, rows.start, columns.start, 0),
    (number, rows.stop - rows.start, columns.stop - columns.start, x.shape[3]),
  )


def _seen(outputs, size, kernel_size, stride, before):
  """Inputs that a slice of outputs sees, and the padding around them."""
  start = outputs.start * stride - before
  stop = (outputs.stop - 1) * stride - before + kernel_size
  seen = slice(max(start, 0), min(stop, size))
  return seen, (seen.start - start, stop - seen.stop)


conv_with_blocked_gradient.defvjp(_forward, _backward)


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
  """`conv_transpose` as convolutions without strides, fast on a CPU.

  XLA has no fast gradient of a convolution over dilated inputs there.

  Of a stride s, the output pixels i s + phase are, for each phase, an ordinary
  convolution of the inputs with every s-th row (or column) of the kernel (Shi
  et al., 2016, https://arxiv.org/abs/1609.07009).
  """
  before = tuple(max(sz - st, 0) // 2 for sz, st in zip(kernel.shape, strides))
  return _transpose_by_phase(inputs, kernel, strides, before)


def _transpose_by_phase(inputs, kernel, strides, before):
  """Transpose of `conv` whose padding starts with `before` rows and columns."""
  # Where a stride exceeds the kernel, some phases see only zeros.
  missing = (max(st - sz, 0) for sz, st in zip(kernel.shape, strides))
  kernel = jnp.pad(kernel, [*((0, n) for n in missing), (0, 0), (0, 0)])
  rows, columns = (
    [_phase(size, stride, start + phase) for phase in range(stride)]
    for size, stride, start in zip(kernel.shape, strides, before)
  )
  phases = [
    [
      conv_with_blocked_gradient(
        inputs,
        jnp.flip(kernel[taps_y, taps_x], (0, 1)).swapaxes(2, 3),
        (1, 1),
        (padding_y, padding_x),
      )
      for taps_x, padding_x in columns
    ]
    for taps_y, padding_y in rows
  ]
  # [B, h, strides[0], w, strides[1], F]
  x = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
  batch_size, height, stride_y, width, stride_x, features = x.shape
  return x.reshape(batch_size, height * stride_y, width * stride_x, features)


def _phase(size, stride, start):
  """Taps of a kernel's axis that a phase sees, and the inputs' padding."""
  ahead, first = divmod(start, stride)
  num_taps = len(range(first, size, stride))
  return slice(first, None, stride), (num_taps - 1 - ahead, ahead)


def convolve_broadcast(
  layer: nn.Module, vectors: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Convolves vectors that are copied to every pixel, without the copies.

  With `sum_of_broadcast` it equals `layer(vectors + position)` to rounding,
  gradients included. The convolution is linear. Of a vector copied to every
  pixel it is the same everywhere but near the border, so that a grid of kernel
  size says it all, and it is the sum of what it is for the unit vectors. The
  position's part does not depend on the vector: it is computed once for all.

  Args:
    layer: a convolution of stride 1, padding "SAME", with a square kernel
      smaller than the grid.
    vectors: [B, 1, 1, D].
    position: [1, h, w, D].

  Returns:
    Without the copies, the vectors' part [B, side, side, F] of odd side, and
    the position's with the bias [1, h, w, F].
  """
  side = 2 * (layer.kernel_size[0] // 2) + 1
  size = vectors.shape[-1]
  units = jnp.eye(size, dtype=vectors.dtype)[:, None, None]
  units = layer(jnp.broadcast_to(units, (size, side, side, size)))
  bias = layer(jnp.zeros((1, 1, 1, size), vectors.dtype))
  grids = jnp.tensordot(vectors[:, 0, 0], units - bias, axes=1)
  return grids, layer(position)


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
