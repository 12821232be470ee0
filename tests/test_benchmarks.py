"""Tests of what benchmarks count, and that they run."""

import json
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import operations
import configs
from slot_attention.models import convolutions

ROOT = Path(__file__).parents[1]


def count(function, *arguments):
  return operations._count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_operations_of_layers_counted_by_hand():
  assert (
    count(jnp.matmul, jnp.zeros((3, 5)), jnp.zeros((5, 7))) == 2 * 3 * 5 * 7
  )
  images = jnp.zeros((2, 8, 8, 3))
  for layer, pixels in (
    (convolutions.Conv(4, (5, 5)), 8 * 8),
    (convolutions.Conv(4, (5, 5), (2, 2)), 4 * 4),
    # As many as the convolution that it transposes.
    (convolutions.ConvTranspose(4, (5, 5), (2, 2)), 8 * 8),
  ):
    variables = layer.init(jax.random.key(0), images)
    forward = 2 * 2 * pixels * 5 * 5 * 3 * 4
    assert count(layer.apply, variables, images) == forward

    def loss(variables, images, layer=layer):
      return layer.apply(variables, images).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    # One more for the kernel, one more for the images.
    assert count(gradient, variables, images) == 3 * forward


def test_operations_in_loops_count_as_often_as_they_are_done():
  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=6)[0]

  assert count(loop, jnp.zeros((4, 4))) == 6 * 2 * 4**3


def test_operations_grow_with_the_batch():
  config = configs.load("smoke:tetrominoes_object_discovery")
  counts = []
  for config.batch_size in (2, 4, 6):
    counts.append(operations.count_operations(config))
  once, twice, thrice = counts
  # Position and unit vectors are convolved once for all.
  assert once < twice < 2 * once
  assert thrice - twice == twice - once


@pytest.mark.slow
def test_the_benchmarks_of_steps_run(tmp_path):
  common = ["--steps=1", "--rounds=2", f"--output={tmp_path / 'measured'}"]
  for arguments in (
    [
      "benchmarks.steps",
      "--configs=smoke:clevr6_object_discovery,smoke:clevr_set_prediction",
      "--contenders=jax",
      "--remat_chunk_size=3",
      "--steps_per_dispatch=2",
      f"--data_dir={tmp_path}",
    ],
    [
      "benchmarks.costs",
      "--config=configs/smoke.py:tetrominoes_object_discovery",
    ],
  ):
    subprocess.run(
      [sys.executable, "-m", *arguments, *common], cwd=ROOT, check=True
    )
    record = json.loads((tmp_path / "measured.json").read_text())
    assert arguments[0] in record["command"]
    table = (tmp_path / "measured.md").read_text()
    assert "| jax | training |" in table or "| remat in chunks of 8 |" in table
