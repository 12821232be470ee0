"""Evaluates parameters: the paper's numbers, pictures and sweeps."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from slot_attention import parallel, plots, tasks, validation
from slot_attention.data import batches, loading, store
from slot_attention.progress import progress_bar
from slot_attention.training import checkpoints, runs, writers

# The initial slots of an example are the same in every evaluation of every run.
_SLOTS_KEY_SEED = 0

# Iterations T of a sweep. The paper has 1 (Figure 12) to 7 (Figure 5). Larger
# numbers show whether more iterations do harm.
SWEPT_ITERATIONS = range(1, 11)

# Number of examples in a picture.
_NUM_PICTURES = 4


def make_evaluator(
  task: tasks.Task, split: store.Split, *, batch_size: int, placement: str
) -> Callable[[Any], dict[str, float]]:
  """Makes a function that evaluates parameters.

  Args:
    task: the task of the parameters.
    split: the examples. Each one is measured once.
    batch_size: number of examples in a batch, over all devices.
    placement: placement of the data, see `batches.Feeder`.

  Returns:
    A function of replicated parameters that returns the metrics.
  """
  measure = _make_measurer(task, split, batch_size, placement)
  return lambda params: _summarize(task, measure(params))


def _make_measurer(task, split, batch_size, placement):
  """Makes a function that applies `task.measure` to all examples.

  It returns host arrays with one row for each example.
  """
  feeder = batches.Feeder(split, placement)

  @functools.cache
  def compiled(num_slots, num_iterations):
    @parallel.data_parallel
    def measure(params, batch):
      batch = tasks.normalize(batch)
      outputs = task.apply(
        params,
        batch,
        jax.random.key(_SLOTS_KEY_SEED),
        num_slots=num_slots,
        num_iterations=num_iterations,
      )
      return task.measure(outputs, batch)

    return measure

  def measure(params, *, num_slots=None, num_iterations=None):
    step = compiled(num_slots, num_iterations)
    parts = []
    for batch, size in feeder.eval_batches(batch_size):
      measured = parallel.unshard(step(params, batch))
      parts.append({name: x[:size] for name, x in measured.items()})
    return {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }

  return measure


def _summarize(task, measured):
  return _flatten(task.metrics(measured).compute())


def evaluate_run(
  config: ml_collections.ConfigDict, workdir: Path
) -> dict[str, float]:
  """Evaluates the newest checkpoint of a run and draws its pictures.

  Args:
    config: the config of the run, in which data, K and T may be changed.
    workdir: folder of the run.

  Returns:
    The metrics, which are also written, see `report`.
  """
  config = validation.checked(config, num_devices=parallel.num_devices())
  task, data, params, step = _load(workdir, config)
  evaluate = make_evaluator(
    task,
    data.splits["eval"],
    batch_size=config.eval_batch_size,
    placement=config.data_placement,
  )
  metrics = evaluate(params)
  if parallel.is_first_process():
    pictures = make_artist(workdir, config, task, data)(params)
    report(workdir, config, data, step, metrics, pictures)
  return metrics


def sweep_run(
  config: ml_collections.ConfigDict, workdir: Path
) -> list[dict[str, float]]:
  """Evaluates the newest checkpoint with other T and K, without training.

  There are three sweeps:
    iterations: over T, on all images (Figures 5 centre, 12);
    objects: over T, on the images of each number N of objects (Figures 21, 22);
    slots: over N, on the images with N objects, where K - N is as large as
      num_slots - max_objects in training (Figure 5 right, where K = N).
  To sweep over numbers of objects that were left out in training, change
  data.max_objects.

  Args:
    config: the config of the run, in which the data may be changed.
    workdir: folder of the run.

  Returns:
    A dict for each evaluation: "sweep", "num_iterations", "num_slots",
    "num_objects" (0 for all images), "num_examples", and the metrics. The dicts
    are also written to sweep.json in the folder of `report`. If any metric is
    in percent, it is drawn in sweep.png.

  Raises:
    ValueError: if the run has no Slot Attention, or cannot be loaded.
  """
  config = validation.checked(config, num_devices=parallel.num_devices())
  if "slot_attention" not in config.model:
    raise ValueError(
      "the Slot MLP cannot be swept: it has no iterations and a fixed number of"
      " slots"
    )
  trained = runs.load_config(workdir)
  spare_slots = (
    trained.model.slot_attention.num_slots - trained.data.max_objects
  )
  task, data, params, step = _load(workdir, config)
  split = data.splits["eval"]
  num_objects = split.num_objects
  counts = np.unique(num_objects).tolist()
  slots = config.model.slot_attention.num_slots
  iterations = config.model.slot_attention.num_iterations

  def measurer(split):
    return _make_measurer(
      task, split, config.eval_batch_size, config.data_placement
    )

  rows = []

  def add(sweep, measured, num_iterations, num_slots, count):
    rows.append(
      {
        "sweep": sweep,
        "num_iterations": num_iterations,
        "num_slots": num_slots,
        "num_objects": count,
        "num_examples": len(measured["loss"]),
        **_summarize(task, measured),
      }
    )

  with progress_bar(
    total=len(SWEPT_ITERATIONS) + len(counts),
    desc="sweeping",
    unit="pass",
    disable=not parallel.is_first_process(),
  ) as progress:
    measure = measurer(split)
    for t in SWEPT_ITERATIONS:
      measured = measure(params, num_iterations=t)
      add("iterations", measured, t, slots, 0)
      for count in counts:
        of_count = {k: v[num_objects == count] for k, v in measured.items()}
        add("objects", of_count, t, slots, count)
      progress.update()
    for count in counts:
      part = dataclasses.replace(
        split, examples=split.examples[num_objects == count]
      )
      num_slots = max(1, count + spare_slots)
      measured = measurer(part)(params, num_slots=num_slots)
      add("slots", measured, iterations, num_slots, count)
      progress.update()

  if not parallel.is_first_process():
    return rows
  folder = _folder(workdir, config)
  result = {"step": step, "rows": rows, "data": data.description}
  _write_json(folder / "sweep.json", result)
  print(folder / "sweep.json")
  names = [name for name in rows[0] if name.startswith(("ap_", "fg_", "attn_"))]
  if names:  # Without masks, object discovery has no metric in percent.
    _draw_sweep(folder / "sweep.png", rows, names, iterations, slots)
    print(folder / "sweep.png")
  return rows


def _draw_sweep(path, rows, names, num_iterations, num_slots):
  def curves(sweep, key, **fixed):
    chosen = [
      row
      for row in rows
      if row["sweep"] == sweep and all(row[k] == v for k, v in fixed.items())
    ]
    return {
      name: [(row[key], 100 * row[name]) for row in chosen] for name in names
    }

  plots.draw_curves(
    path,
    {
      f"iterations T (K = {num_slots})": curves("iterations", "num_iterations"),
      f"objects (T = {num_iterations}, K = {num_slots})": curves(
        "objects", "num_objects", num_iterations=num_iterations
      ),
      f"objects (T = {num_iterations}, K follows them)": curves(
        "slots", "num_objects"
      ),
    },
  )


def _load(workdir, config):
  """Loads task, data, replicated parameters and step of a run."""
  run = runs.load(workdir)
  task = tasks.make_task(config)
  data = loading.load(config.data)
  checkpoints.check_fit(run.params, task, data.image_shape)
  return task, data, parallel.replicate(run.params), run.step


def make_artist(
  workdir: Path,
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  data: loading.Data,
) -> Callable[[Any], list[Path]]:
  """Makes a function that draws the pictures of a run.

  The PNG files of `task.draw` for the first evaluation examples go to
  WORKDIR/eval_NAME_SOURCE, where NAME and SOURCE are those of the data.
  WORKDIR/curves.png shows the metrics over the training steps.

  Args:
    workdir: folder of the run.
    config: the config of the evaluation.
    task: the task of the config.
    data: the data, whose split "eval" is used.

  Returns:
    A function of replicated parameters that returns the paths of the pictures.
    Only one process may call it. Each call overwrites the pictures of the call
    before.
  """
  split = data.splits["eval"]
  examples = np.arange(min(_NUM_PICTURES, len(split)))
  batch = tasks.normalize({"example_ids": examples, **split.take(examples)})
  apply = jax.jit(task.apply)

  def draw(params):
    outputs = apply(
      parallel.unreplicate(params), batch, jax.random.key(_SLOTS_KEY_SEED)
    )
    folder = _folder(workdir, config)
    return [*task.draw(folder, outputs, batch), *_draw_history(workdir)]

  return draw


def report(
  workdir: Path,
  config: ml_collections.ConfigDict,
  data: loading.Data,
  step: int,
  metrics: dict[str, float],
  pictures: Sequence[Path],
) -> None:
  """Prints metrics, and writes them to metrics.json beside the pictures.

  Args:
    workdir: folder of the run.
    config: the config of the evaluation.
    data: the data, whose split "eval" was used.
    step: step of the checkpoint.
    metrics: the metrics.
    pictures: the pictures of `make_artist`, which TensorBoard also shows.
  """
  result = {
    "step": step,
    "num_examples": len(data.splits["eval"]),
    **metrics,
    "data": data.description,
  }
  _write_json(_folder(workdir, config) / "metrics.json", result)
  writers.show_run(workdir, step, pictures, config)
  print(
    f"\nStep {step}, {result['num_examples']} evaluation examples"
    f" ({config.data.source} {config.data.name}, after the first"
    f" {config.data.num_train}):"
  )
  for name, value in metrics.items():
    print(f"  {name:<12} {value:.4f}")
  for path in pictures:
    print(f"  picture      {path}")


def _draw_history(workdir):
  """Draws losses and evaluation metrics over the training steps."""
  history = workdir / "metrics.jsonl"
  if not history.exists():  # Converted runs have no history.
    return []
  lines = [json.loads(line) for line in history.read_text().splitlines()]
  losses, metrics = {}, {}
  for line in lines:
    step, split = line["step"], line["split"]
    losses.setdefault(split, []).append((step, line["loss"]))
    if split == "eval":
      for name in line.keys() - {"step", "split", "loss"}:
        metrics.setdefault(name, []).append((step, 100 * line[name]))
  path = workdir / "curves.png"
  panels = {"step": dict(sorted(metrics.items()))} if metrics else {}
  plots.draw_curves(path, panels, losses=losses)
  return [path]


def _folder(workdir, config):
  folder = workdir / f"eval_{config.data.name}_{config.data.source}"
  folder.mkdir(exist_ok=True)
  return folder


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2) + "\n")


def _flatten(computed):
  """Gives each threshold of average precision a metric of its own."""
  flat = {}
  for name, value in computed.items():
    if isinstance(value, dict):
      flat.update(
        {f"{name}_{threshold:g}": v for threshold, v in value.items()}
      )
    else:
      flat[name] = float(value)
  return flat
