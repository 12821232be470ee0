"""Reproduces a table or a figure of the paper by one command.

  python -m slot_attention.paper.reproduce --list
  python -m slot_attention.paper.reproduce figure11 --scale=small --seeds=0,1,2
  python -m slot_attention.paper.reproduce --page

The command trains the models of a table or figure, evaluates them, and writes
RESULTS/NAME_SCALE.json, .csv, .md and .png with the mean and the standard
deviation over the seeds and the paper's numbers. Finished runs are not
repeated, and interrupted runs continue. Several processes with the same command
share the runs. With --finished, the command trains nothing and uses the runs
that are finished. At the paper's scale, it first measures how long the training
takes on this machine, prints that, and only trains with --yes.

At the end it writes RESULTS/README.md, which lists all measurements of the
paper and all others in RESULTS. With --page, it does only this.

There are three scales:
  paper   5 seeds; the paper's data, models and steps
  small   3 seeds; for two CPU cores: configs/quickstart.py replaces object
          discovery and configs/clevr_set_prediction_small.py set prediction
  smoke   2 seeds; tiny models and data, to see that everything works; the
          numbers are meaningless
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
from pathlib import Path
import re
import time
from typing import Any

from absl import logging
import filelock
import jax
import numpy as np

from slot_attention import command
from slot_attention.paper import page, plan, tables
from slot_attention.paper.experiments import EXPERIMENTS
from slot_attention.paper.provenance import provenance
from slot_attention.paper.rows import (
  FINISHED,
  SCALES,
  changed,
  changed_values,
  config_name,
  jobs_of,
  rows_at,
)
from slot_attention.training import evaluate, sweep, train

_NUM_SEEDS = {"smoke": 2, "small": 3, "paper": 5}


def reproduce(
  name: str,
  *,
  scale: str,
  seeds: Sequence[int],
  runs: Path,
  results: Path,
  data_dir: str,
  only_finished: bool = False,
) -> dict[str, Any]:
  """Trains the missing runs of a table or figure, and writes its results.

  Args:
    name: name of the table or figure, a key of `EXPERIMENTS`.
    scale: one of `SCALES`.
    seeds: seeds of each row.
    runs: folder of all runs.
    results: folder of the results.
    data_dir: folder of the prepared data sets.
    only_finished: whether to train nothing and use only finished runs.

  Returns:
    The result that is written as JSON.

  Raises:
    ValueError: if no row of the experiment exists at this scale, or if
      only_finished is True and no run is finished.
  """
  experiment = EXPERIMENTS[name]
  rows = rows_at(experiment, scale)
  if not rows:
    raise ValueError(f"nothing of {name} exists at --scale={scale}")
  jobs = jobs_of(experiment, scale, seeds)
  measured, origins = {}, {}
  # The first pass takes the runs on which no other process works. The second
  # pass waits for the others.
  for wait in (False, True):
    for i, job in enumerate(jobs):
      key = job.row.label, job.row.config, job.seed
      workdir = runs / job.directory
      is_finished = (workdir / FINISHED).exists()
      if key in measured or (only_finished and not is_finished):
        continue
      config = changed(job.config, {"data.data_dir": data_dir})
      with _lock(workdir, wait) as locked:
        if locked:
          logging.info("Run %d of %d: %s", i + 1, len(jobs), workdir)
          measured[key], origins[key] = _measure(
            name, experiment, job.row, config, workdir
          )
  if not measured:
    raise ValueError(f"no run of {name} at --scale={scale} is finished")
  result = {
    "experiment": name,
    "title": experiment.title,
    "scale": scale,
    "command": f"python -m slot_attention.paper.reproduce {name}"
    f" --scale={scale} --seeds={','.join(map(str, seeds))}"
    + " --finished"
    * only_finished,
    **_merge(list(origins.values())),
    "rows": [
      {
        "label": row.label,
        "config": config_name(row.config, scale),
        "changes": changed_values(row, scale),
        "paper": dict(row.paper),
        "direction": row.direction,
        "seeds": {
          str(seed): measured[row.label, row.config, seed]
          for seed in seeds
          if (row.label, row.config, seed) in measured
        },
      }
      for row in rows
      if any((row.label, row.config, seed) in measured for seed in seeds)
    ],
    "stripes_factor": tables.STRIPES_FACTOR,
    "others": {label: dict(x) for label, x in experiment.others.items()},
  }
  result["table"] = tables.make_table(result)
  result["differences"] = tables.make_differences(result)
  tables.write(results, result, experiment.sweep)
  return result


def _merge(origins):
  """Merges the provenance of several runs; lists values that differ."""
  merged = {}
  for key, value in origins[0].items():
    values = [origin[key] for origin in origins]
    nested = isinstance(value, dict)
    merged[key] = _merge(values) if nested else " and ".join(sorted({*values}))
  return merged


@contextlib.contextmanager
def _lock(workdir: Path, wait: bool) -> Iterator[bool]:
  """Locks a run and yields whether this process has locked it.

  If `wait` is True, it waits until it has.
  """
  workdir.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(workdir.with_name(f"{workdir.name}.lock"))
  try:
    lock.acquire(blocking=wait)
  except filelock.Timeout:
    yield False
    return
  try:
    yield True
  finally:
    lock.release()


def _measure(name, experiment, row, config, workdir):
  """Trains and evaluates a run, unless that has been done before.

  Returns:
    The metrics or the rows of the sweep, None if the training diverged; and the
    provenance of the run.
  """
  trained = workdir / FINISHED
  if not trained.exists():
    start = time.monotonic()
    try:
      metrics = train.train(config, workdir)
    except FloatingPointError as error:
      logging.error("The run diverged, which is recorded: %s", error)
      metrics = None
    seconds = time.monotonic() - start
    trained.write_text(
      json.dumps({"seconds": seconds, "metrics": metrics, **provenance()})
    )
  run = json.loads(trained.read_text())
  origin = {key: run.get(key, value) for key, value in provenance().items()}
  if run["metrics"] is None or not (experiment.sweep or row.evaluation):
    return run["metrics"], origin
  # Several rows of an experiment may evaluate the same run.
  label = re.sub(r"\W+", "_", row.label)
  path = workdir / f"reproduce_{name}_{label}.json"
  if not path.exists():
    config = changed(config, row.evaluation)
    if experiment.sweep:
      swept = sweep.sweep_run(config, workdir)
      measured = [x for x in swept if x["sweep"] == experiment.sweep]
    else:
      measured = evaluate.evaluate_run(config, workdir)
    path.write_text(json.dumps(measured))
  return json.loads(path.read_text()), origin


def _list(runs: Path, scale: str, seeds: Sequence[int]) -> None:
  """Prints finished and missing runs and the mean time of a run."""
  for name, experiment in EXPERIMENTS.items():
    jobs = jobs_of(experiment, scale, seeds)
    finished = [runs / job.directory / FINISHED for job in jobs]
    seconds = [
      json.loads(path.read_text())["seconds"]
      for path in finished
      if path.exists()
    ]
    took = f", {np.mean(seconds):.0f} s a run" if seconds else ""
    print(
      f"{name:<15} {len(seconds)} runs done, {len(jobs) - len(seconds)}"
      f" missing{took}: {experiment.title}"
      + ("" if jobs else f" (not at --scale={scale})")
    )


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__, arguments="NAME")
  flags.define_bool(
    "list", False, "Only list all names, with finished and missing runs."
  )
  flags.define_bool("page", False, "Only write RESULTS/README.md.")
  flags.define_choice("scale", "paper", SCALES, "Scale of the runs, see above.")
  flags.define_integers("seeds", None, "Seeds. Default: see the scales above.")
  flags.define_bool("finished", False, "Train nothing; use finished runs.")
  flags.define_bool(
    "yes",
    False,
    "Train at the paper's scale. Without it, only what that takes is printed.",
  )
  flags.define_string("runs", "runs/reproduce", "Folder of all runs.")
  flags.define_string("results", "results", "Folder of the results.")
  flags.define_string("data_dir", "data", "Folder of the prepared data sets.")
  names = flags.parse(arguments)
  seeds = flags.seeds or list(range(_NUM_SEEDS[flags.scale]))
  results = Path(flags.results)
  if flags.page:
    page.write(results)
    return
  if flags.list:
    _list(Path(flags.runs), flags.scale, seeds)
    return
  if len(names) != 1 or names[0] not in EXPERIMENTS:
    raise command.UsageError(
      f"give one name of a table or figure: {', '.join(EXPERIMENTS)}"
    )
  if flags.scale == "small":
    # macOS does not tell which cores a process may use.
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))
    cores = len(affinity(0))
    jax.config.update("jax_num_cpu_devices", min(2, cores))
  runs = Path(flags.runs)
  if flags.scale == "paper" and not (flags.yes or flags.finished):
    missing = plan.missing_jobs(EXPERIMENTS[names[0]], "paper", seeds, runs)
    if missing:
      print(plan.describe(missing))
      print("Nothing is trained yet: add --yes.")
      return
  reproduce(
    names[0],
    scale=flags.scale,
    seeds=seeds,
    runs=runs,
    results=results,
    data_dir=flags.data_dir,
    only_finished=flags.finished,
  )
  page.write(results)


if __name__ == "__main__":
  command.run(main)
