"""Tests of the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import tasks
from slot_attention.data import loading


def test_in_bfloat16_convolutions_are_and_the_rest_is_not(config):
  images = loading.load(config.data).splits["train"].take(np.arange(4))
  batch = tasks.normalize({**images, "example_ids": jnp.arange(4)})

  def compute(dtype):
    config.compute_dtype = dtype
    task = tasks.make_task(config)
    params = task.init(jax.random.key(0), (12, 12, 3))

    def loss_and_outputs(params):
      outputs = task.apply(params, batch, jax.random.key(1))
      return task.loss(outputs, batch).mean(), outputs

    results = jax.jit(jax.value_and_grad(loss_and_outputs, has_aux=True))(
      params
    )
    assert {x.dtype.name for x in jax.tree.leaves(results)} == {"float32"}
    convolutions = {
      line.split(":")[1].partition("[")[0]
      for line in str(jax.make_jaxpr(loss_and_outputs)(params)).splitlines()
      if "= conv_general_dilated[" in line
    }
    return float(results[0][0]), convolutions

  loss32, convolutions32 = compute("float32")
  loss16, convolutions16 = compute("bfloat16")
  assert (convolutions32, convolutions16) == ({"f32"}, {"bf16"})
  assert loss32 != loss16
  assert loss32 == pytest.approx(loss16, rel=0.01)
