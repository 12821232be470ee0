"""Counts the operations of a training step without doing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from slot_attention import tasks
from slot_attention.data import clevr, datasets


def gradient_of_step(
  config: ConfigDict,
) -> tuple[Callable[..., Any], Any, dict[str, jax.ShapeDtypeStruct]]:
  """Returns the loss and gradients of a step as a function, and its shapes.

  The shapes are those of its arguments, parameters and batch.
  """
  task = tasks.make_task(config)
  image_shape = task.image_shape or datasets.image_shape(config.data)
  objects = (config.batch_size, config.data.max_objects, clevr.TARGET_SIZE)
  batch = {
    "images": jax.ShapeDtypeStruct(
      (config.batch_size, *image_shape), jnp.uint8
    ),
    "example_ids": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    "targets": jax.ShapeDtypeStruct(objects, jnp.float32),
  }

  def mean_loss(params, batch):
    batch = tasks.normalize(batch)
    outputs = task.apply(params, batch, jax.random.key(0))
    return jnp.mean(task.loss(outputs, batch))

  params = jax.eval_shape(lambda: task.init(jax.random.key(0), image_shape))
  return jax.value_and_grad(mean_loss), params, batch


def count_operations(config: ConfigDict) -> int:
  """Counts multiplications and additions of the loss and its gradients.

  It counts those of convolutions and matrix products, in the form in which this
  project computes them. What `remat_chunk_size` computes twice counts twice.
  """
  function, *shapes = gradient_of_step(config)
  return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      left = equation.invars[0].aval.shape
      contracted = [left[axis] for axis in params["dimension_numbers"][0][0]]
      total += 2 * equation.outvars[0].aval.size * int(np.prod(contracted))
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval
      outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
      # The zeros of a dilated input need no multiplications.
      dilation = int(np.prod(params["lhs_dilation"]))
      products = equation.outvars[0].aval.size * kernel.size // outputs
      total += 2 * products // dilation
    for inner in jax.tree.leaves([*params.values()]):
      inner = getattr(inner, "jaxpr", inner)  # Opens a closed jaxpr.
      if hasattr(inner, "eqns"):
        total += params.get("length", 1) * _count(inner)
  return total
