"""Convolutions as functions: plain ones, and faster ones for CPUs.

The fast ones give the results and gradients of the plain ones, up to rounding.

Letters in shapes: B images or slots, h and w height and width of the feature
map, D input features, F output features.
"""

import functools

import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# On a CPU, the gradient of a kernel is summed over blocks of images and rows.
# The inputs and the output gradients of a block have at most about _BLOCK_BYTES
# each, so that they fit the cache of a core (2 MB on the measured CPU). Without
# blocks, the gradient takes about twice as long.
_BLOCK_BYTES = 2**20
# Number of images in a block.
_BLOCK_IMAGES = 16
# A block also reads the neighbouring rows that its kernel reaches. With fewer
# rows per block, counted over its images, these extra rows cost more than the
# cache saves, and blocks of one image are faster.
_MIN_BLOCK_ROWS = 128
# Number of floats in a vector register of AVX-512.
_LANES = 16


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


def conv_transpose(
  inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
  """Computes the transpose of a convolution with padding "SAME".

  Args:
    inputs: [B, h, w, D].
    kernel: [height, width, F, D].
    strides: factors by which h and w grow.

  Returns:
    [B, h * strides[0], w * strides[1], F].
  """
  return jax.lax.conv_transpose(
    inputs,
    kernel,
    strides,
    "SAME",
    dimension_numbers=_LAYOUT,
    transpose_kernel=True,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_with_blocked_gradient(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """Does `conv`, with fast gradients on a CPU, for reverse mode only.

  The gradient of the kernel is a sum over blocks of pixels that fit the cache.
  The gradient of the inputs is computed as in `conv_transpose_by_phase`.
  """
  return conv(inputs, kernel, strides, padding)


def _conv_forward(inputs, kernel, strides, padding):
  return conv(inputs, kernel, strides, padding), (inputs, kernel)


def _conv_backward(strides, padding, residuals, gradient):
  inputs, kernel = residuals
  _, height, width, _ = inputs.shape
  of_kernel = _kernel_gradient(inputs, gradient, kernel.shape, strides, padding)
  # With "VALID", a kernel starts at fewer places; zeros stand for the others.
  missing = [
    (0, max(-(-size // stride) - n, 0))
    for size, stride, n in zip((height, width), strides, gradient.shape[1:3])
  ]
  gradient = jnp.pad(gradient, [(0, 0), *missing, (0, 0)])
  of_inputs = _transpose_by_phase(gradient, kernel, strides, padding)
  return of_inputs[:, :height, :width], of_kernel.astype(kernel.dtype)


conv_with_blocked_gradient.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient(inputs, gradient, kernel_shape, strides, padding):
  """Computes the gradient of the kernel of `conv`, in float32."""
  *kernel_size, features_in, features_out = kernel_shape
  if strides == (1, 1) and features_out < min(features_in, _LANES):
    # The features of the gradient lie in vector registers, which they do not
    # fill here. Inputs and gradient change places, which turns the kernel.
    turned = _kernel_gradient(
      gradient,
      inputs,
      (*kernel_size, features_out, features_in),
      strides,
      [
        (size - 1 - before, size - 1 - after)
        for size, (before, after) in zip(kernel_size, padding)
      ],
    )
    return jnp.flip(turned, (0, 1)).swapaxes(2, 3)
  num_images, height, width, _ = gradient.shape
  row_bytes = (
    max(gradient[0, 0].size, strides[0] * inputs[0, 0].size)
    * gradient.dtype.itemsize
  )
  block_images, block_rows = _block_size(num_images, height, row_bytes)

  def add_images(total, first, number):
    for top in range(0, height, block_rows):
      block = slice(top, min(top + block_rows, height)), slice(0, width)
      seen, of_seen = zip(
        *map(_seen, block, inputs.shape[1:3], kernel_size, strides, padding)
      )
      # This convolution contracts images instead of features, and its kernel
      # is the output gradient. The transposes give XLA the dimensions in the
      # usual order: other orders are slow, and XLA does not reorder dimensions
      # inside a loop.
      of_block = jax.lax.conv_general_dilated(
        _cut(inputs, first, number, *seen).transpose(3, 1, 2, 0),
        _cut(gradient, first, number, *block).transpose(1, 2, 0, 3),
        (1, 1),
        of_seen,
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
      )
      total += of_block.transpose(1, 2, 0, 3)
    return total

  # An unrolled loop over a large batch would take minutes to compile.
  num_blocks, rest = divmod(num_images, block_images)
  total = jax.lax.fori_loop(
    0,
    num_blocks,
    lambda i, total: add_images(total, i * block_images, block_images),
    jnp.zeros(kernel_shape, jnp.promote_types(inputs.dtype, jnp.float32)),
  )
  if rest:
    total = add_images(total, num_images - rest, rest)
  return total


def _block_size(
  num_images: int, height: int, row_bytes: int
) -> tuple[int, int]:
  """Returns the number of images and the number of rows of a block."""
  images = min(_BLOCK_IMAGES, num_images)
  rows = _BLOCK_BYTES // (images * row_bytes)
  if images * min(rows, height) < min(_MIN_BLOCK_ROWS, images * height):
    images = 1
    rows = max(_BLOCK_BYTES // row_bytes, 1)
  # As few blocks as possible, of nearly equal height.
  return images, -(-height // -(-height // rows))


def _cut(x, first, number, rows, columns):
  return jax.lax.dynamic_slice(
    x,
    (first, rows.start, columns.start, 0),
    (number, rows.stop - rows.start, columns.stop - columns.start, x.shape[3]),
  )


def _seen(outputs, size, kernel_size, stride, padding):
  """Returns the inputs that a slice of outputs reads, and their padding."""
  before, _ = padding
  start = outputs.start * stride - before
  stop = (outputs.stop - 1) * stride - before + kernel_size
  seen = slice(max(start, 0), min(stop, size))
  return seen, (seen.start - start, stop - seen.stop)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose_by_phase(
  inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
  """Does `conv_transpose` fast on a CPU, for reverse mode only.

  On a CPU, XLA convolves dilated inputs slowly. For a stride s, the output
  pixels i s + phase of each phase are an ordinary convolution of the inputs
  with every s-th row (or column) of the kernel (Shi et al., 2016,
  https://arxiv.org/abs/1609.07009). The gradient of the inputs is a convolution
  with strides.
  """
  padding = _same_padding(inputs, kernel, strides)
  return _transpose_by_phase(inputs, kernel, strides, padding)


def _transpose_forward(inputs, kernel, strides):
  return conv_transpose_by_phase(inputs, kernel, strides), (inputs, kernel)


def _transpose_backward(strides, residuals, gradient):
  inputs, kernel = residuals
  padding = _same_padding(inputs, kernel, strides)
  of_inputs = conv(gradient, kernel, strides, padding)
  # The convolution that is transposed maps the gradient to the inputs.
  of_kernel = _kernel_gradient(gradient, inputs, kernel.shape, strides, padding)
  return of_inputs, of_kernel.astype(kernel.dtype)


conv_transpose_by_phase.defvjp(_transpose_forward, _transpose_backward)


def _same_padding(inputs, kernel, strides):
  """Returns the padding of the convolution that `conv_transpose` transposes."""
  sizes = [n * stride for n, stride in zip(inputs.shape[1:3], strides)]
  return jax.lax.padtype_to_pads(sizes, kernel.shape[:2], strides, "SAME")


def _transpose_by_phase(inputs, kernel, strides, padding):
  """Computes the transpose of `conv`."""
  # If a stride exceeds the kernel size, some phases have no kernel rows.
  missing = (max(st - sz, 0) for sz, st in zip(kernel.shape, strides))
  kernel = jnp.pad(kernel, [*((0, n) for n in missing), (0, 0), (0, 0)])
  rows, columns = (
    [_phase(size, stride, before + phase) for phase in range(stride)]
    for size, stride, (before, _) in zip(kernel.shape, strides, padding)
  )
  phases = [
    [
      conv(
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
  """Returns the kernel taps that a phase uses, and the padding of the inputs.

  Both are for one axis.
  """
  ahead, first = divmod(start, stride)
  num_taps = len(range(first, size, stride))
  return slice(first, None, stride), (num_taps - 1 - ahead, ahead)
