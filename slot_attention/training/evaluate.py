"""Evaluates parameters: the paper's numbers, and pictures."""

from collections.abc import Callable, Sequence
import functools
import hashlib
from pathlib import Path
import re
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np

from slot_attention import files, parallel, plots, tasks, validation
from slot_attention.data import batches, datasets, loading, store
from slot_attention.metrics import PERCENT_PREFIXES
from slot_attention.training import checkpoints, runs, writers

# The initial slots of an example are the same in every evaluation of every run.
_SLOTS_KEY_SEED = 0

# Number of examples in a picture.
_EXAMPLES_PER_PICTURE = 4

# The most characters of changes in the name of an evaluation's folder.
_MAX_NAME = 100


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
  measure = make_measurer(
    task, split, batch_size=batch_size, placement=placement
  )
  return lambda params: summarize(task, measure(params))


def make_measurer(
  task: tasks.Task, split: store.Split, *, batch_size: int, placement: str
) -> Callable[..., dict[str, np.ndarray]]:
  """Makes a function that applies `task.measure` to all examples.

  Args:
    task: the task.
    split: the examples.
    batch_size: number of examples in a batch, over all devices.
    placement: placement of the data, see `batches.Feeder`.

  Returns:
    A function of replicated parameters and the keyword arguments num_slots and
    num_iterations. It returns host arrays with one row for each example.
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


def summarize(
  task: tasks.Task, measured: dict[str, np.ndarray]
) -> dict[str, float]:
  """Computes the metrics of examples that `make_measurer` has measured."""
  return _flatten(task.metrics(measured).compute())


def make_apply(
  run: runs.Run,
  *,
  num_slots: int | None = None,
  num_iterations: int | None = None,
) -> Callable[[tasks.Arrays], tasks.Arrays]:
  """Compiles the model of a run, with the noise of evaluations.

  Args:
    run: the run.
    num_slots: number of slots K; None takes the run's.
    num_iterations: number of iterations T; None takes the run's.

  Returns:
    A function from a normalised batch to the model's outputs.
  """

  @jax.jit
  def apply(params, batch):
    return run.task.apply(
      params,
      batch,
      jax.random.key(_SLOTS_KEY_SEED),
      num_slots=num_slots,
      num_iterations=num_iterations,
    )

  return functools.partial(apply, run.params)


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
  task, data, params, step = load(workdir, config)
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


def load(
  workdir: Path, config: ml_collections.ConfigDict
) -> tuple[tasks.Task, loading.Data, Any, int]:
  """Loads task, data, replicated parameters and step of a run.

  It warns if the config has the data of the run, and this data has changed.
  """
  run = runs.load(workdir)
  task = tasks.make_task(config)
  datasets.check_outside(config.data, "--workdir", str(workdir))
  data = loading.load(config.data)
  changed = runs.changed_fields(workdir, config)
  if not any(field.startswith("data.") for field in changed):
    if differ := runs.changed_data(workdir, data.description):
      logging.warning(
        "The data has changed since the training of %s (%s): examples of the"
        " training may be among those of the evaluation.",
        workdir,
        ", ".join(differ),
      )
  if changed:  # `runs.load` has checked the run's own config.
    checkpoints.check_fit(run.params, task, data.image_shape)
  return task, data, parallel.replicate(run.params), run.step


def make_artist(
  workdir: Path,
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  data: loading.Data,
) -> Callable[[Any], list[Path]]:
  """Makes a function that draws the pictures of a run.

  The PNG files of `task.draw` for the first evaluation examples go to the
  folder of the evaluation, see `folder_of`. WORKDIR/curves.png shows the
  metrics over the training steps.

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
  examples = np.arange(min(_EXAMPLES_PER_PICTURE, len(split)))
  batch = tasks.normalize({"example_ids": examples, **split.take(examples)})
  apply = jax.jit(task.apply)

  def draw(params):
    outputs = apply(
      parallel.unreplicate(params), batch, jax.random.key(_SLOTS_KEY_SEED)
    )
    folder = folder_of(workdir, config)
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
  changed = runs.changed_fields(workdir, config)
  result = {
    "step": step,
    "num_examples": len(data.splits["eval"]),
    **_slots_and_iterations(config),
    "changed": changed,
    **metrics,
    "data": data.description,
  }
  folder = folder_of(workdir, config)
  files.write_json(folder / "metrics.json", result)
  writers.show_run(workdir, step, pictures, config)
  print(
    f"\nStep {step}, {result['num_examples']} evaluation examples"
    f" ({config.data.source} {config.data.name}, after the first"
    f" {config.data.num_train}), {_assigned(_slots_and_iterations(config))}:"
  )
  if changed:
    print(f"  not as in training: {_assigned(changed)}")
  for name, value in metrics.items():
    print(f"  {name:<12} {value:.4f}")
  for path in pictures:
    print(f"  picture      {path}")


def _draw_history(workdir):
  """Draws losses and evaluation metrics over the training steps."""
  lines = writers.read(workdir)
  if not lines:  # Converted runs have no history.
    return []
  losses, metrics = {}, {}
  for line in lines:
    step, split = line["step"], line["split"]
    losses.setdefault(split, []).append((step, line["loss"]))
    if split == "eval":
      for name, value in line.items():
        if name.startswith(PERCENT_PREFIXES):
          metrics.setdefault(name, []).append((step, 100 * value))
  path = workdir / "curves.png"
  panels = {"step": dict(sorted(metrics.items()))} if metrics else {}
  plots.draw_curves(path, panels, losses=losses)
  return [path]


def folder_of(workdir: Path, config: ml_collections.ConfigDict) -> Path:
  """Makes the folder of an evaluation.

  It is WORKDIR/eval_NAME_SOURCE, where NAME and SOURCE are those of the data.
  The fields that differ from the run's config follow, for example
  eval_clevr_original,slot_attention.num_slots=11. If they have characters
  that are unsafe in a file name, a digest follows them; if they are long, a
  digest replaces them. Different evaluations therefore have different folders.

  Args:
    workdir: folder of the run.
    config: the config of the evaluation.
  """
  name = f"eval_{config.data.name}_{config.data.source}"
  changes = "".join(
    f",{field.partition('.')[2] or field}={value}"
    for field, value in runs.changed_fields(workdir, config).items()
    if field not in ("data.name", "data.source")
  )
  readable = re.sub(r"[^\w.,=-]+", "_", changes, flags=re.ASCII)
  if readable != changes or len(changes) > _MAX_NAME:
    digest = hashlib.sha256(changes.encode()).hexdigest()
    kept = readable if len(readable) <= _MAX_NAME else ""
    readable = f"{kept},{digest[:8]}"
  folder = workdir / (name + readable)
  folder.mkdir(exist_ok=True)
  return folder


def _slots_and_iterations(config):
  """Returns the fields of K and, if the module has iterations, of T."""
  section = tasks.slots_section(config)
  return {
    name: section[name]
    for name in ("num_slots", "num_iterations")
    if name in section
  }


def _assigned(values):
  return ", ".join(f"{name}={value}" for name, value in values.items())


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
