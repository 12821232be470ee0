"""The worker of this project, see `benchmarks.workers`.

It does the same work as main.py: training steps with the input pipeline, and
evaluation with its metrics.
"""

import importlib.metadata
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workers
import configs
from slot_attention import parallel, tasks, validation
from slot_attention.data import batches, loading
from slot_attention.paper.rows import changed
from slot_attention.training import evaluate, optimizers, train

# A large matrix product shows the speed that the hardware can reach.
PRODUCT = "matrix product"
PRODUCT_SIZE = 4096
PRODUCT_OPERATIONS = 2 * PRODUCT_SIZE**3


def _make_optimizer(config, learning_rate):
  """Makes the optimiser of a config, with rates that do not change."""
  fields = {**validation.DEFAULTS, **config}
  is_muon = fields["optimizer"] == "muon"
  return optimizers.make_optimizer(
    lambda step: learning_rate,
    fields["max_grad_norm"],
    (lambda step: fields["muon_learning_rate"]) if is_muon else None,
    fields["muon_kernels"],
    fields["optimizer_epsilon"],
  )


def make(
  specification: dict[str, Any],
) -> tuple[dict[str, workers.Work], dict[str, str], workers.PeakBytes]:
  """Makes the work for `workers.serve`."""
  config = configs.load(specification["config"])
  config = changed(config, specification["changes"])
  config.compute_dtype = specification["precision"]
  task = tasks.make_task(config)
  data = loading.load(config.data)
  optimizer = _make_optimizer(config, specification["learning_rate"])
  params = task.init(jax.random.key(0), data.image_shape)
  state = parallel.replicate(
    train.TrainState(jnp.int32(0), params, optimizer.init(params))
  )
  params = parallel.replicate(params)  # A copy, since the state is donated.
  train_step = train.make_train_step(task, optimizer, jax.random.key(1))
  feeder = batches.Feeder(data.splits["train"], config.data_placement)
  run_evaluation = evaluate.make_evaluator(
    task,
    data.splits["eval"],
    batch_size=config.batch_size,
    placement=config.data_placement,
  )
  infer_batch = parallel.data_parallel(
    lambda params, batch: task.apply(
      params, tasks.normalize(batch), jax.random.key(2)
    )
  )
  resident = parallel.shard(
    {
      **data.splits["eval"].take(np.arange(config.batch_size)),
      "example_ids": np.arange(config.batch_size, dtype=np.int32),
    }
  )
  matrix = jnp.ones((PRODUCT_SIZE, PRODUCT_SIZE), config.compute_dtype)
  multiply = jax.jit(jnp.matmul)

  def train_steps(steps):
    nonlocal state
    per_dispatch = config.steps_per_dispatch
    fed = feeder.train_batches(
      range(0, steps, per_dispatch), batch_size=config.batch_size, seed=0
    )
    for batch in fed:
      state, loss = train_step(state, batch)
    return float(loss[0, -1])

  def infer(steps):
    for _ in range(steps):
      outputs = infer_batch(params, resident)
    jax.block_until_ready(outputs)
    return float(outputs["slots"].mean())

  def run_evaluations(steps):
    for _ in range(steps):
      metrics = run_evaluation(params)
    return metrics["loss"]

  def multiply_matrices(steps):
    for _ in range(steps):
      product = multiply(matrix, matrix)
    return float(product[0, 0])

  return (
    {
      "training": train_steps,
      "inference": infer,
      "evaluation": run_evaluations,
      PRODUCT: multiply_matrices,
    },
    {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in ("jax", "flax")},
      "device": jax.devices()[0].device_kind,
    },
    _peak_bytes,
  )


def _peak_bytes():
  statistics = jax.local_devices()[0].memory_stats()
  if statistics is None:  # A CPU has none.
    return workers.peak_host_bytes()
  return statistics["peak_bytes_in_use"]


if __name__ == "__main__":
  workers.serve(make)
