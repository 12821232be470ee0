"""From parameters to the paper's numbers."""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from slot_attention import checkpoints, parallel, tasks
from slot_attention.data import batches, prepare, store

# Evaluation noise is fixed: the initial slots of an example are the same in
# every evaluation of every run.
_SLOTS_KEY_SEED = 0

# Examples in a picture.
_NUM_PICTURES = 4


def make_evaluator(
  task: tasks.Task, split: store.Split, *, batch_size: int, placement: str
) -> Callable[[Any], dict[str, float]]:
  """Compiles the evaluation of a split.

  Args:
    task: what to measure.
    split: every example of it is measured once.
    batch_size: over all devices.
    placement: of the data, see `batches.Feeder`.

  Returns:
    A function of replicated parameters that returns the metrics.
  """
  parallel.check_divisible("eval_batch_size", batch_size)
  feeder = batches.Feeder(split, placement)

  @parallel.data_parallel
  def measure(params, batch):
    batch = tasks.normalize(batch)
    outputs = task.apply(params, batch, jax.random.key(_SLOTS_KEY_SEED))
    return task.measure(outputs, batch)

  def evaluate(params):
    collected = task.metrics.empty()
    for batch, size in feeder.eval_batches(batch_size):
      measured = parallel.unshard(measure(params, batch))
      collected = collected.merge(
        task.metrics.single_from_model_output(
          **{name: values[:size] for name, values in measured.items()}
        )
      )
    return _flatten(collected.compute())

  return evaluate


def evaluate_run(
  workdir: Path, config: ml_collections.ConfigDict
) -> dict[str, float]:
  """Evaluates the newest checkpoint of a run and draws its pictures.

  Args:
    workdir: of the run.
    config: the run's own, or one with other data, K or T.

  Returns:
    The metrics; they are also written, see `report`.
  """
  run = checkpoints.load_run(workdir)
  task = tasks.make_task(config)
  data = prepare.load(**config.data)
  checkpoints.check_fit(run.params, task, data.image_shape)
  params = parallel.replicate(run.params)
  evaluate = make_evaluator(
    task,
    data.splits["eval"],
    batch_size=config.eval_batch_size,
    placement=config.data_placement,
  )
  metrics = evaluate(params)
  report(workdir, config, task, params, data, run.step, metrics)
  return metrics


def report(
  workdir: Path,
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  params: Any,
  data: store.Store,
  step: int,
  metrics: dict[str, float],
) -> None:
  """Prints metrics and writes them with pictures into a folder of the run.

  The folder is WORKDIR/eval_NAME_SOURCE, after the data: metrics.json and the
  PNG files of `task.draw` for the first examples.

  Args:
    workdir: of the run.
    config: that was evaluated.
    task: that the config describes.
    params: replicated.
    data: that was evaluated; its split "eval".
    step: of the checkpoint.
    metrics: of the evaluation.
  """
  folder = workdir / f"eval_{config.data.name}_{config.data.source}"
  folder.mkdir(exist_ok=True)
  split = data.splits["eval"]
  result = {
    "step": step,
    "num_examples": len(split["images"]),
    **metrics,
    "data": data.description,
  }
  (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")

  examples = np.arange(min(_NUM_PICTURES, len(split["images"])))
  batch = tasks.normalize(
    {
      "example_ids": examples,
      **{name: array[examples] for name, array in split.items()},
    }
  )
  outputs = jax.jit(task.apply)(
    parallel.unreplicate(params), batch, jax.random.key(_SLOTS_KEY_SEED)
  )
  pictures = task.draw(folder, outputs, batch)
  print(
    f"\nStep {step}, {result['num_examples']} evaluation examples"
    f" ({config.data.source} {config.data.name}, after the first"
    f" {config.data.num_train}):"
  )
  for name, value in metrics.items():
    print(f"  {name:<12} {value:.4f}")
  for path in pictures:
    print(f"  picture      {path}")


def _flatten(computed):
  """Average precision is one metric with a value for each threshold."""
  flat = {}
  for name, value in computed.items():
    if isinstance(value, dict):
      flat.update(
        {f"{name}_{threshold:g}": v for threshold, v in value.items()}
      )
    else:
      flat[name] = float(value)
  return flat
