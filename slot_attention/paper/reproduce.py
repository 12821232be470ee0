"""Reproduces a table or a figure of the paper by one command.

  python -m slot_attention.paper.reproduce --list
  python -m slot_attention.paper.reproduce figure11 --scale=small --seeds=0,1,2
  python -m slot_attention.paper.reproduce --page

The command trains the models of a table or figure, evaluates them, and writes
RESULTS/NAME_SCALE.json, .csv, .md and .png with the mean and the standard
deviation over the seeds and the paper's numbers. RESULTS/runs keeps the results
and the curve of each run. Finished runs are not repeated, and interrupted runs
continue. With --kept, a run also counts as finished if RESULTS/runs has its
results, for example from another machine. Several processes with the same
command share the runs. With --finished, the command trains nothing and uses the
runs that are finished. With --rows, it trains only some rows. At the paper's
scale, it trains only with --yes. Without --yes, it measures training steps and
prints how long the missing runs take on this machine.

At the end, it writes RESULTS/README.md, which lists all measurements in
RESULTS. With --page, it does only this.

There are three scales:
  paper   5 seeds; the paper's data, models and steps
  small   3 seeds; minutes a run on a CPU. The configs whose names end in
          _small replace the paper's; tetrominoes_small replaces CLEVR6 in the
          figures of appendix B, which need many runs
  smoke   2 seeds; tiny models and data, to see that everything works; the
          numbers are meaningless
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
from pathlib import Path
import shlex
import time
from typing import Any

from absl import logging
import filelock
import jax
import numpy as np

from slot_attention import command, files
from slot_attention.paper import curves, kept, page, plan, statistics, tables
from slot_attention.paper.experiments import EXPERIMENTS
from slot_attention.paper.provenance import num_cores
from slot_attention.paper.rows import (
  SCALES,
  TRAINED_FILE,
  changed,
  changed_values,
  config_name,
  files_of,
  find_trained,
  has_files,
  jobs_of,
  rows_at,
)
from slot_attention.training import checkpoints, evaluate, sweep, train

# The folder of the results of single runs, below that of all results.
KEPT = "runs"

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
  use_kept: bool = False,
  only_rows: str = "",
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
    use_kept: whether a run also counts as finished if the folder of the results
      keeps its results.
    only_rows: trains only rows whose labels contain this text. Of the others,
      only finished runs are used.

  Returns:
    The result that is written as JSON.

  Raises:
    ValueError: if no row of the experiment exists at this scale, if no label
      contains `only_rows`, or if nothing is trained and no run is finished.
  """
  experiment = EXPERIMENTS[name]
  rows = rows_at(experiment, scale)
  if not rows:
    raise ValueError(f"nothing of {name} exists at --scale={scale}")
  labels = sorted({row.label for row in rows})
  if not any(only_rows in label for label in labels):
    raise ValueError(f"no label contains {only_rows!r}: they are {labels}")
  jobs = jobs_of(experiment, scale, seeds)
  measured, origins = {}, {}
  # The first pass takes the runs on which no other process works. The second
  # pass waits for the others.
  for wait in (False, True):
    for i, job in enumerate(jobs):
      key = job.row.label, job.row.config, job.seed
      if key in measured:
        continue
      names = files_of(name, experiment, job.row)
      workdir = runs / job.directory
      kept_folder = results / KEPT / job.directory
      config = changed(job.config, {"data.data_dir": data_dir})
      is_kept = use_kept and has_files(kept_folder, names)
      if is_kept and not has_files(workdir, names):
        measured[key], origins[key] = kept.read(
          job.row, config, kept_folder, names
        )
        continue
      trains = not only_finished and only_rows in job.row.label
      if not trains and not (workdir / TRAINED_FILE).exists():
        continue
      with _lock(workdir, wait) as locked:
        if locked:
          logging.info("Run %d of %d: %s", i + 1, len(jobs), workdir)
          _measure(experiment, job.row, config, workdir, names)
          measured[key], origins[key] = kept.read(
            job.row, config, workdir, names
          )
          kept.keep(workdir, kept_folder)
  if not measured:
    raise ValueError(f"no run of {name} at --scale={scale} is finished")
  result = {
    "experiment": name,
    "title": experiment.title,
    "scale": scale,
    "command": f"python -m slot_attention.paper.reproduce {name}"
    f" --scale={scale} --seeds={','.join(map(str, seeds))}"
    + " --finished" * only_finished
    + " --kept" * use_kept
    + (f" --rows={shlex.quote(only_rows)}" if only_rows else ""),
    **kept.merge(list(origins.values())),
    "rows": [
      {
        "label": row.label,
        "config": config_name(row, scale),
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
    "stripes_factor": statistics.STRIPES_FACTOR,
  }
  result["table"] = statistics.make_table(result)
  result["differences"] = statistics.make_differences(result)
  tables.write(results, result, experiment.sweep)
  return result


@contextlib.contextmanager
def _lock(workdir: Path, wait: bool) -> Iterator[bool]:
  """Locks a run and yields whether this process has locked it.

  If `wait` is True, it waits until it has.
  """
  workdir.parent.mkdir(parents=True, exist_ok=True)
  path = workdir.with_name(f"{workdir.name}.lock")
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    lock.acquire(blocking=wait)
  except filelock.Timeout:
    yield False
    return
  except OSError as error:  # As in `runs.lock`.
    logging.info("%s cannot be locked: %s", path, error.strerror)
  try:
    yield True
  finally:
    lock.release()


def _measure(experiment, row, config, workdir, names):
  """Trains and evaluates a run, unless that has been done before."""
  trained = workdir / TRAINED_FILE
  if not trained.exists():
    goes_on = checkpoints.has_any(workdir)
    start = time.monotonic()
    try:
      metrics = train.train(config, workdir)
    except FloatingPointError as error:
      logging.error("The run diverged, which is recorded: %s", error)
      metrics = None
    # The time of the earlier parts of an interrupted run is not known.
    seconds = None if goes_on else time.monotonic() - start
    content = {
      "seconds": seconds,
      "metrics": metrics,
      **kept.origin_of_now(),
      "config": kept.fields(config),
    }
    files.write(trained, json.dumps(content))
  if has_files(workdir, names):
    return
  kept.check(workdir, config)  # Another config may have trained the run.
  evaluation = kept.evaluation(row, config)
  config = changed(config, row.evaluation)
  if experiment.sweep == curves.STEPS:
    measured = curves.read(workdir)
  elif experiment.sweep:
    measured = sweep.sweep_run(config, workdir, experiment.sweep)
  else:
    measured = evaluate.evaluate_run(config, workdir)
  content = {"evaluation": evaluation, "measured": measured}
  files.write(workdir / names[-1], json.dumps(content))


def _list(
  runs: Path, kept_runs: Path | None, scale: str, seeds: Sequence[int]
) -> None:
  """Prints finished and missing runs and the mean time of a run."""
  for name, experiment in EXPERIMENTS.items():
    jobs = jobs_of(experiment, scale, seeds)
    found = {}  # Several rows may evaluate one run.
    for job in jobs:
      names = files_of(name, experiment, job.row)
      path = find_trained(job, names, runs, kept_runs)
      found.setdefault(job.directory, []).append(path)
    done = [paths[0] for paths in found.values() if all(paths)]
    seconds = [files.read_json(path)["seconds"] for path in done]
    timed = [x for x in seconds if x is not None]
    took = f", {np.mean(timed):.0f} s a run" if timed else ""
    print(
      f"{name:<15} {len(done)} runs done, {len(found) - len(done)}"
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
    "kept", False, "Count runs as finished whose results RESULTS/runs keeps."
  )
  flags.define_string(
    "rows", "", "Train only rows whose labels contain this text. Empty: all."
  )
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
  runs = Path(flags.runs)
  kept_runs = results / KEPT if flags.kept else None
  if flags.list:
    _list(runs, kept_runs, flags.scale, seeds)
    return
  if len(names) != 1 or names[0] not in EXPERIMENTS:
    raise command.UsageError(
      f"give one name of a table or figure: {', '.join(EXPERIMENTS)}"
    )
  if flags.scale == "small":
    jax.config.update("jax_num_cpu_devices", min(2, num_cores()))
  if flags.scale == "paper" and not (flags.yes or flags.finished):
    missing = plan.missing_jobs(
      names[0], "paper", seeds, runs, kept_runs, flags.rows
    )
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
    use_kept=flags.kept,
    only_rows=flags.rows,
  )
  page.write(results)


if __name__ == "__main__":
  command.run(main)
