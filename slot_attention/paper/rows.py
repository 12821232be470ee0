"""Defines tables and figures as rows, and what they become at each scale.

A row is one model that is trained with several seeds. `experiments` lists the
rows of the paper, and `reproduce` trains them.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
import re
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from slot_attention import command, files

TETROMINOES = "tetrominoes_object_discovery"
MULTI_DSPRITES = "multi_dsprites_object_discovery"
BINARIZED = "multi_dsprites_binarized_object_discovery"
CLEVR6 = "clevr6_object_discovery"
GRAYSCALE = "clevr6_grayscale_object_discovery"
CLEVR10_SETS = "clevr_set_prediction"
CLEVR6_SETS = "clevr6_set_prediction"
MOVING_SPRITES = "savi"

# The file in the folder of a run that says that its training is finished.
TRAINED_FILE = "trained.json"

SCALES = ("smoke", "small", "paper")
# The configs that replace those of the paper at the small scale. One that
# replaces itself is small, and does not exist at the paper's scale.
_SMALL = {
  CLEVR6: "tetrominoes_small",
  TETROMINOES: "tetrominoes_small",
  MULTI_DSPRITES: "multi_dsprites_small",
  BINARIZED: "multi_dsprites_binarized_small",
  GRAYSCALE: "clevr_grayscale_small",
  CLEVR10_SETS: "clevr_set_prediction_small",
  CLEVR6_SETS: "clevr4_set_prediction_small",
  MOVING_SPRITES: MOVING_SPRITES,
}

# The new value of a field, or a function from its old value to the new one.
Change = Any | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """One model of a table or figure, trained with several seeds.

  Attributes:
    label: name of the row.
    config: name of a config.
    changes: dict from the dotted names of fields to their changes in training.
    evaluation: dict of further changes, only in evaluation.
    paper: dict from metric to the paper's number, in percent.
    direction: how the paper compares this variant with the default: a key of
      `ablations.DIRECTIONS`, "not stated", or "" if it is not a variant.
    small: name of the config at the small scale, without a prefix such as
      "monet:". "" stands for that of most tables and figures.
  """

  label: str
  config: str = CLEVR6
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  evaluation: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
  direction: str = ""
  small: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table or a figure of the paper, or a comparison of this project.

  Attributes:
    title: what it shows.
    rows: its models.
    sweep: for curves, the name of a sweep of `sweep.sweep_run`, or
      `curves.STEPS`; "" for bars.
    place: its place in the paper, or a link to its page in docs/.
    see: another experiment with some or all of its rows, or "".
  """

  title: str
  rows: tuple[Row, ...]
  sweep: str = ""
  place: str = ""
  see: str = ""


def config_name(row: Row, scale: str) -> str | None:
  """Returns the name of a row's config at a scale, or None.

  At the paper's scale, adam.py leaves configs as they are, and has no runs of
  its own.
  """
  prefix, _, plain = row.config.rpartition(":")
  if scale == "paper":
    if _SMALL.get(plain) == plain:
      return None
    return plain if prefix == "adam" else row.config
  if scale == "smoke":
    return f"smoke:{row.config}"
  small = row.small or _SMALL[plain]
  return f"{prefix}:{small}" if prefix else small


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
  """Copies a config and changes some of its fields, see `Row`."""
  config = config.copy_and_resolve_references()
  for field, change in changes.items():
    *sections, name = field.split(".")
    section = config
    for part in sections:
      section = section[part]
    section[name] = change(section[name]) if callable(change) else change
  return config


def rows_at(experiment: Experiment, scale: str) -> list[Row]:
  """Returns the rows of an experiment that exist at a scale.

  Changes that have no effect at this scale are removed.
  """
  rows = []
  for row in experiment.rows:
    if (name := config_name(row, scale)) is not None:
      before = load_config(name)
      values = {
        field: value
        for field, value in changed_values(row, scale).items()
        if value != value_of(before, field)
      }
      changes = {field: row.changes[field] for field in values}
      rows.append(dataclasses.replace(row, changes=changes))
  return rows


def changed_values(row: Row, scale: str) -> dict[str, Any]:
  """Returns a dict from the fields that a row changes to their new values."""
  config = changed(load_config(config_name(row, scale)), row.changes)
  return {field: value_of(config, field) for field in row.changes}


def value_of(config: ConfigDict, field: str) -> Any:
  """Returns a field of a config by its dotted name."""
  for part in field.split("."):
    config = config[part]
  return config


def load_config(name: str) -> ConfigDict:
  """Loads a config of the folder configs/, see `configs.load`."""
  return command.import_configs().load(name)


class Job(NamedTuple):
  """One training of a row, with one seed.

  Attributes:
    row: the row.
    seed: the seed.
    config: the config of the run.
    directory: folder of the run, below that of all runs. Equal runs of
      different experiments have the same folder.
  """

  row: Row
  seed: int
  config: ConfigDict
  directory: Path


def jobs_of(
  experiment: Experiment, scale: str, seeds: Sequence[int]
) -> list[Job]:
  """Returns the jobs of an experiment, by seed and then by row."""
  jobs = []
  for seed in seeds:
    for row in rows_at(experiment, scale):
      name = config_name(row, scale)
      config = changed(load_config(name), {**row.changes, "seed": seed})
      changes = ",".join(
        f"{field.rpartition('.')[-1]}={value_of(config, field)}"
        for field in sorted(row.changes)
      )
      directory = Path(
        scale, name.replace(":", "_"), changes or "default", str(seed)
      )
      jobs.append(Job(row, seed, config, directory))
  return jobs


def files_of(name: str, experiment: Experiment, row: Row) -> list[str]:
  """Returns the names of the files that have the results of a run.

  The training writes the first file. If the row has another evaluation or the
  experiment has a sweep, a second file has its results. Several rows may
  evaluate one run.

  Args:
    name: name of the experiment.
    experiment: the experiment.
    row: one of its rows.
  """
  if not (experiment.sweep or row.evaluation):
    return [TRAINED_FILE]
  label = re.sub(r"\W+", "_", row.label)
  return [TRAINED_FILE, f"reproduce_{experiment.see or name}_{label}.json"]


def has_files(folder: Path, names: Sequence[str]) -> bool:
  """Returns whether a folder has all files of a run, see `files_of`.

  A run that diverged has no evaluation.
  """
  if not (folder / TRAINED_FILE).exists():
    return False
  diverged = files.read_json(folder / TRAINED_FILE)["metrics"] is None
  return diverged or all((folder / name).exists() for name in names)


def find_trained(
  job: Job, names: Sequence[str], runs: Path, kept: Path | None = None
) -> Path | None:
  """Returns the file that says that a job needs no training, or None.

  Args:
    job: the job.
    names: of its files, see `files_of`.
    runs: folder of all runs, which can be evaluated once they are trained.
    kept: folder of kept results. It has no parameters, so that all files of the
      job must be there. None if kept results do not count.
  """
  if (trained := runs / job.directory / TRAINED_FILE).exists():
    return trained
  if kept and has_files(kept / job.directory, names):
    return kept / job.directory / TRAINED_FILE
  return None
