"""Evaluates a run with other numbers of iterations, slots and objects."""

import dataclasses
from pathlib import Path

import ml_collections
import numpy as np

from slot_attention import (
  files,
  metrics,
  parallel,
  plots,
  tasks,
  validation,
)
from slot_attention.progress import progress_bar
from slot_attention.training import evaluate, runs

# What tells the rows apart.
_KEYS = (
  "sweep",
  "num_iterations",
  "num_slots",
  "num_objects",
  "num_examples",
)

# Iterations T of a sweep. The paper has 1 (Table 2) to 7 (Figure 5, centre).
# Larger numbers show whether more iterations do harm.
SWEPT_ITERATIONS = range(1, 11)
# Further iterations for models that train with at least 10: N-EM and DSPN.
SWEPT_MANY_ITERATIONS = (20, 30)

# Numbers of slots that a sweep adds to that of training.
SWEPT_MORE_SLOTS = (0, 1, 2, 4, 8)


def sweep_run(
  config: ml_collections.ConfigDict, workdir: Path, only: str = ""
) -> list[dict[str, float]]:
  """Evaluates the newest checkpoint with other T and K, without training.

  There are four sweeps:
    iterations: over T, on all images (Figure 2, and Figure 5, centre). A model
      without iterations has one point;
    objects: over T, on the images of each number N of objects (Figures 21, 22);
    slots: over N, on the images with N objects, where K - N is as large as
      num_slots - max_objects in training (Figure 5 right, where K = N);
    more_slots: over K, the training's plus each of `SWEPT_MORE_SLOTS`, on all
      images.
  A model of fixed K has neither of the last two sweeps. A model that learns
  each initial slot does not have the last one.
  To sweep over numbers of objects that were left out in training, change
  data.max_objects.

  Args:
    config: the config of the run, in which the data may be changed.
    workdir: folder of the run.
    only: name of one sweep, of which the rows are returned and nothing is
      written; "" is all four.

  Returns:
    A dict for each evaluation: "sweep", "num_iterations" (0 if the model has
    none), "num_slots", "num_objects" (0 for all images), "num_examples", and
    the metrics. The dicts are also written to sweep.json in the folder of
    `report`. If any metric is in percent, it is drawn in sweep.png.

  Raises:
    ValueError: if the model has neither iterations nor a free number of slots,
      as the Slot MLP; or if the run cannot be loaded.
  """
  config = validation.checked(config, num_devices=parallel.num_devices())
  trained = runs.load_config(workdir)
  spare_slots = (
    tasks.slots_section(trained).num_slots - trained.data.max_objects
  )
  section = tasks.slots_section(config)
  slots, iterations = section.num_slots, section.get("num_iterations", 0)
  task, data, params, step = evaluate.load(workdir, config)
  if not iterations and not task.has_free_slots:
    raise ValueError(
      "this model cannot be swept: it has no iterations and a fixed number of"
      " slots"
    )
  split = data.splits["eval"]
  num_objects = split.num_objects
  counts = np.unique(num_objects).tolist() if split.knows_objects else []
  swept, sizes, more_slots = [], [], ()
  if only in ("", "iterations", "objects"):
    swept = _swept_iterations(iterations)
  if only in ("", "slots") and task.has_free_slots:
    # A model that learns each initial slot has no more than it has learned.
    sizes = [
      count
      for count in counts
      if task.slots_can_grow or count + spare_slots <= slots
    ]
  if only in ("", "more_slots") and task.slots_can_grow:
    more_slots = SWEPT_MORE_SLOTS

  def measurer(split):
    return evaluate.make_measurer(
      task,
      split,
      batch_size=config.eval_batch_size,
      placement=config.data_placement,
    )

  rows = []

  def add(sweep, measured, num_iterations, num_slots, count):
    rows.append(
      {
        "sweep": sweep,
        "num_iterations": num_iterations or 0,
        "num_slots": num_slots,
        "num_objects": count,
        "num_examples": len(measured["loss"]),
        **evaluate.summarize(task, measured),
      }
    )

  with progress_bar(
    total=len(swept) + len(sizes) + len(more_slots),
    desc="sweeping",
    unit="pass",
    disable=not parallel.is_first_process(),
  ) as progress:
    measure = measurer(split)
    for t in swept:
      measured = measure(params, num_iterations=t)
      add("iterations", measured, t, slots, 0)
      for count in counts:
        of_count = {k: v[num_objects == count] for k, v in measured.items()}
        add("objects", of_count, t, slots, count)
      progress.update()
    for count in sizes:
      part = _of_count(split, num_objects, count)
      num_slots = max(task.least_slots, count + spare_slots)
      measured = measurer(part)(params, num_slots=num_slots)
      add("slots", measured, iterations, num_slots, count)
      progress.update()
    for more in more_slots:
      measured = measure(params, num_slots=slots + more)
      add("more_slots", measured, iterations, slots + more, 0)
      progress.update()

  if only:
    return [row for row in rows if row["sweep"] == only]
  if parallel.is_first_process():
    result = {
      "step": step,
      "changed": runs.changed_fields(workdir, config),
      "rows": rows,
      "data": data.description,
    }
    panels = _panels(rows, iterations, slots)
    _report(evaluate.folder_of(workdir, config), result, panels)
  return rows


def _of_count(split, num_objects, count):
  """Returns the examples with `count` objects, and targets without padding.

  If there were more targets than slots, objects would be left without a slot
  while others are matched with padding.
  """
  arrays = dict(split.arrays)
  if "targets" in arrays:
    arrays["targets"] = arrays["targets"][:, : max(1, count)]
  examples = split.examples[num_objects == count]
  return dataclasses.replace(split, arrays=arrays, examples=examples)


def _swept_iterations(trained):
  """Returns the T of a sweep, with that of training; [None] without any T."""
  if not trained:
    return [None]
  many = SWEPT_MANY_ITERATIONS if trained >= max(SWEPT_ITERATIONS) else ()
  return sorted({*SWEPT_ITERATIONS, trained, *many})


def _report(folder, result, panels):
  """Prints a sweep and writes it into the folder of the evaluation."""
  files.write_json(folder / "sweep.json", result)
  _print_rows(result["rows"])
  print(f"  numbers      {folder / 'sweep.json'}")
  if panels:  # Without masks, object discovery has no metric in percent.
    plots.draw_curves(folder / "sweep.png", panels)
    print(f"  picture      {folder / 'sweep.png'}")


def _print_rows(rows):
  """Prints a table of the sweeps over iterations and over slots."""
  names = [x for x in rows[0] if x not in _KEYS]
  print("\n" + "".join(f"{x:>15}" for x in (*_KEYS, *names)))
  for row in rows:
    if row["sweep"] != "objects":  # Too many; they are in the file.
      keys = "".join(f"{row[x]:>15}" for x in _KEYS)
      print(keys + "".join(f"{row[x]:>15.4f}" for x in names))


def _panels(rows, num_iterations, num_slots):
  """Makes the panels of `plots.draw_curves`, as many as have curves."""
  names = [
    name for name in rows[0] if name.startswith(metrics.PERCENT_PREFIXES)
  ]

  def curves(sweep, key, **fixed):
    chosen = [
      row
      for row in rows
      if row["sweep"] == sweep and all(row[k] == v for k, v in fixed.items())
    ]
    return {
      name: [(row[key], 100 * row[name]) for row in chosen] for name in names
    }

  t = f"T = {num_iterations}, " if num_iterations else ""
  panels = {
    f"iterations T (K = {num_slots})": curves("iterations", "num_iterations"),
    f"objects ({t}K = {num_slots})": curves(
      "objects", "num_objects", num_iterations=num_iterations
    ),
    f"objects ({t}K follows them)": curves("slots", "num_objects"),
    "slots K" + f" (T = {num_iterations})" * bool(num_iterations): curves(
      "more_slots", "num_slots"
    ),
  }
  # One point, of data whose images have equally many objects, is no curve.
  return {
    label: lines
    for label, lines in panels.items()
    if lines and all(len(points) > 1 for points in lines.values())
  }
