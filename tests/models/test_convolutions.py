"""Tests of the fast convolutions against the plain ones."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention.models import convolutions, cpu_convolutions

D, F = 8, 6

# Numbers of input and output features. Which is larger decides how the gradient
# of a kernel is computed.
FEATURES = pytest.mark.parametrize(
  ("features_in", "features_out"), [(8, 6), (6, 8)]
)


def assert_same_function(plain, fast, *arguments):
  """Compares outputs and all gradients in float64."""
  shape = jax.eval_shape(plain, *arguments).shape
  weights = jax.random.normal(jax.random.key(9), shape, jnp.float64)
  results = []
  for function in (plain, fast):
    outputs, gradients = jax.vjp(function, *arguments)
    results.append((outputs, gradients(weights)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
    *results,
  )


def test_relu_equals_flax_relu():
  x = jnp.array([-2.0, -0.0, 0.0, 3.0, jnp.nan])

  def value_and_slope(function):
    return jax.jvp(function, (x,), (jnp.full_like(x, 5.0),))

  np.testing.assert_array_equal(
    value_and_slope(convolutions.relu), value_and_slope(nn.relu)
  )


@pytest.mark.parametrize(
  "layer, kernel_size",
  [
    *((convolutions.ConvTranspose, size) for size in (2, 3, 4, 5)),
    (functools.partial(convolutions.Conv, padding="VALID"), 3),
    (functools.partial(convolutions.Conv, padding="VALID"), 5),
  ],
)
@pytest.mark.parametrize("size", [(7, 10), (12, 9)])
def test_convolving_broadcast_vectors_equals_the_plain_convolution(
  layer, kernel_size, size
):
  with jax.enable_x64(True):
    conv = layer(F, (kernel_size, kernel_size), param_dtype=jnp.float64)
    keys = jax.random.split(jax.random.key(0), 3)
    vectors = jax.random.normal(keys[0], (3, 1, 1, D), jnp.float64)
    position = jax.random.normal(keys[1], (1, *size, D), jnp.float64)
    variables = conv.init(keys[2], position)
    variables["params"]["bias"] += 0.7

    def plain(variables, vectors, position):
      return conv.bind(variables)(vectors + position)

    def fast(variables, vectors, position):
      return convolutions.sum_of_broadcast(
        *convolutions.convolve_broadcast(
          conv.bind(variables), vectors, position
        )
      )

    assert_same_function(plain, fast, variables, vectors, position)


@FEATURES
@pytest.mark.parametrize("kernel_size", [(5, 5), (4, 3), (2, 7), (1, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3), (4, 2)])
def test_transposed_convolution_by_phase_equals_the_plain_one(
  kernel_size, strides, features_in, features_out
):
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(keys[0], (2, 7, 10, features_in), jnp.float64)
    kernel = jax.random.normal(
      keys[1], (*kernel_size, features_out, features_in), jnp.float64
    )
    assert_same_function(
      lambda *x: convolutions.conv_transpose(*x, strides),
      lambda *x: convolutions.conv_transpose_by_phase(*x, strides),
      inputs,
      kernel,
    )


@FEATURES
@pytest.mark.parametrize("num_images", [1, 5])
@pytest.mark.parametrize("block_bytes", [1, 2_000])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
  ("kernel_size", "strides"),
  [((5, 5), (1, 1)), ((5, 5), (2, 2)), ((4, 3), (3, 1)), ((1, 2), (2, 2))],
)
def test_blocked_gradient_equals_the_plain_one(
  monkeypatch,
  kernel_size,
  strides,
  padding,
  block_bytes,
  num_images,
  features_in,
  features_out,
):
  monkeypatch.setattr(cpu_convolutions, "_BLOCK_BYTES", block_bytes)
  monkeypatch.setattr(cpu_convolutions, "_BLOCK_IMAGES", 2)
  monkeypatch.setattr(cpu_convolutions, "_MIN_BLOCK_ROWS", 6)
  size = (11, 8)
  padding = jax.lax.padtype_to_pads(size, kernel_size, strides, padding)
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(
      keys[0], (num_images, *size, features_in), jnp.float64
    )
    kernel = jax.random.normal(
      keys[1], (*kernel_size, features_in, features_out), jnp.float64
    )
    assert_same_function(
      lambda *x: convolutions.conv(*x, strides, padding),
      lambda *x: convolutions.conv_with_blocked_gradient(
        *x, strides, tuple(padding)
      ),
      inputs,
      kernel,
    )


@pytest.mark.parametrize("num_images", [1, 3, 40])
@pytest.mark.parametrize(
  ("height", "row_bytes"), [(35, 4_480), (128, 32_768), (8, 2_048), (1, 4)]
)
def test_blocks_fit_the_cache(num_images, height, row_bytes):
  images, rows = cpu_convolutions._block_size(num_images, height, row_bytes)
  assert 1 <= images <= num_images
  assert 1 <= rows <= height
  assert images * rows * row_bytes <= cpu_convolutions._BLOCK_BYTES


def test_large_batches_do_not_make_large_programs():
  """An unrolled loop over the blocks would take minutes to compile."""

  def length_of_program(batch_size):
    inputs = jax.ShapeDtypeStruct((batch_size, 64, 64, D), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 5, D, F), jnp.float32)

    def loss(inputs, kernel):
      padding = ((2, 2), (2, 2))
      outputs = convolutions.conv_with_blocked_gradient(
        inputs, kernel, (1, 1), padding
      )
      return jnp.sum(outputs**2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    return gradient.lower(inputs, kernel).as_text().count("\n")

  assert length_of_program(1024) == length_of_program(64)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("transpose", [False, True])
def test_layers_equal_those_of_flax(transpose, strides):
  """They draw bitwise equal parameters and compute the same outputs."""
  inputs = jax.random.normal(jax.random.key(0), (2, 4, 5, D))
  fields = {
    "features": F,
    "kernel_size": (5, 4),
    "strides": strides,
    "kernel_init": nn.initializers.glorot_uniform(),
  }
  ours, theirs = convolutions.Conv, nn.Conv(**fields)
  if transpose:
    ours = convolutions.ConvTranspose
    theirs = nn.ConvTranspose(**fields, transpose_kernel=True)
  ours = ours(F, (5, 4), strides)
  variables, expected = (
    module.init(jax.random.key(1), inputs) for module in (ours, theirs)
  )
  jax.tree.map(np.testing.assert_array_equal, variables, expected)
  variables["params"]["bias"] += 0.3
  np.testing.assert_allclose(
    ours.apply(variables, inputs),
    theirs.apply(variables, inputs),
    rtol=1e-5,
    atol=1e-6,
  )


def test_only_cpus_use_the_fast_convolutions(monkeypatch):
  calls = []
  for name in ("conv_with_blocked_gradient", "conv_transpose_by_phase"):
    function = getattr(convolutions, name)
    monkeypatch.setattr(
      convolutions,
      name,
      lambda *args, function=function: calls.append(1) or function(*args),
    )
  for platform, layer in itertools.product(
    ("cpu", "gpu"), (convolutions.Conv, convolutions.ConvTranspose)
  ):
    calls.clear()
    monkeypatch.setattr(jax, "default_backend", lambda name=platform: name)
    layer(F, (5, 5), (2, 2)).init(jax.random.key(0), jnp.zeros((1, 3, 3, D)))
    assert bool(calls) == (platform == "cpu")


def test_the_target_decides_and_not_the_devices_that_are_there(monkeypatch):
  for name in ("conv_with_blocked_gradient", "conv_transpose_by_phase"):
    monkeypatch.delattr(convolutions, name)
  target = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
  mesh = jax.sharding.AbstractMesh((1,), ("batch",), abstract_device=target)
  images = jax.ShapeDtypeStruct((1, 3, 3, D), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  for layer in (convolutions.Conv, convolutions.ConvTranspose):
    init = layer(F, (5, 5), (2, 2)).init
    with jax.sharding.use_abstract_mesh(mesh):
      jax.eval_shape(init, key, images)
    with pytest.raises(NameError):
      jax.eval_shape(init, key, images)
