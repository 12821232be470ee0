"""Tests of the fast ways to convolve against the plain ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import convolutions

D, F = 8, 6


def assert_same_function(plain, fast, *arguments):
  """Outputs and every gradient, in float64."""
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


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [(7, 10), (12, 9)])
def test_convolving_broadcast_vectors_equals_the_plain_convolution(
  kernel_size, size
):
  with jax.enable_x64(True):
    conv = convolutions.ConvTranspose(
      F, (kernel_size, kernel_size), param_dtype=jnp.float64
    )
    keys = jax.random.split(jax.random.key(0), 3)
    vectors = jax.random.normal(keys[0], (3, 1, 1, D), jnp.float64)
    position = jax.random.normal(keys[1], (1, *size, D), jnp.float64)
    variables = conv.init(keys[2], vectors)
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


@pytest.mark.parametrize("kernel_size", [(5, 5), (4, 3), (2, 7), (1, 2)])
@pytest.mark.parametrize("strides", [(2, 2), (1, 3), (4, 2)])
def test_transposed_convolution_by_phase_equals_the_plain_one(
  kernel_size, strides
):
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(keys[0], (2, 7, 10, D), jnp.float64)
    kernel = jax.random.normal(keys[1], (*kernel_size, F, D), jnp.float64)
    assert_same_function(
      lambda *x: convolutions.conv_transpose(*x, strides),
      lambda *x: convolutions.conv_transpose_by_phase(*x, strides),
      inputs,
      kernel,
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (4, 1)])
def test_transposed_convolution_is_that_of_flax(strides):
  """Parameters are drawn bit for bit alike, and compute the same."""
  inputs = jax.random.normal(jax.random.key(0), (2, 4, 5, D))
  ours = convolutions.ConvTranspose(F, (5, 5), strides)
  theirs = nn.ConvTranspose(
    F,
    (5, 5),
    strides,
    kernel_init=nn.initializers.glorot_uniform(),
    transpose_kernel=True,
  )
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


def test_only_strides_on_a_cpu_are_convolved_by_phase(monkeypatch):
  calls = []
  by_phase = convolutions.conv_transpose_by_phase
  monkeypatch.setattr(
    convolutions,
    "conv_transpose_by_phase",
    lambda *args: calls.append(1) or by_phase(*args),
  )
  for platform, strides, expected in (
    ("cpu", (2, 2), 1),
    ("cpu", (1, 1), 0),
    ("gpu", (2, 2), 0),
  ):
    calls.clear()
    monkeypatch.setattr(jax, "default_backend", lambda name=platform: name)
    layer = convolutions.ConvTranspose(F, (5, 5), strides)
    layer.init(jax.random.key(0), jnp.zeros((1, 3, 3, D)))
    assert len(calls) == expected


def test_chunks_equal_the_whole():
  inputs = jax.random.normal(jax.random.key(0), (7, 3))
  for size in (0, 1, 3, 7, 20):
    sizes = []

    def square(x, sizes=sizes):
      sizes.append(len(x))
      return x**2

    outputs = convolutions.in_chunks(square, inputs, size)
    np.testing.assert_array_equal(outputs, inputs**2)
    assert sum(sizes) == 7 and max(sizes) == min(size or 7, 7)
