"""A row of a table: one model, trained with several seeds, at a scale.

`experiments` has the rows of the paper; `reproduce` trains them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict

import configs

TETROMINOES = "tetrominoes_object_discovery"
MULTI_DSPRITES = "multi_dsprites_object_discovery"
BINARIZED = "multi_dsprites_binarized_object_discovery"
CLEVR6 = "clevr6_object_discovery"
GRAYSCALE = "clevr6_grayscale_object_discovery"
CLEVR10_SETS = "clevr_set_prediction"
CLEVR6_SETS = "clevr6_set_prediction"

SCALES = ("smoke", "small", "paper")
# What stands for a config of the paper at the small scale.
_SMALL = {
  CLEVR6: "quickstart",
  TETROMINOES: "quickstart",
  CLEVR10_SETS: "clevr_set_prediction_small",
}

# The value of a field, or what makes it from the config's own.
Change = Any | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """One model of a table or figure, trained with several seeds.

  Attributes:
    label: what is different about it.
    config: name of a config.
    changes: fields of the config that this run changes, by dotted name.
    evaluation: fields that only its evaluation changes.
    paper: metric to the paper's number, in percent.
    direction: a key of `DIRECTIONS`, "not stated", or "" for no variant.
  """

  label: str
  config: str = CLEVR6
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  evaluation: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
  direction: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table, or a figure of bars or of curves.

  Attributes:
    title: what it shows.
    rows: its models.
    sweep: for curves, a sweep of `sweep.sweep_run`; "" for bars.
    others: numbers of the paper for models that are not of this project.
    place: where the paper has it.
    see: another experiment that has some or all of its rows, or "".
  """

  title: str
  rows: tuple[Row, ...]
  sweep: str = ""
  others: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )
  place: str = ""
  see: str = ""


def config_name(name: str, scale: str) -> str | None:
  """The config that stands for one of the paper at a scale, or None."""
  if scale == "paper":
    return name
  if scale == "smoke":
    return f"smoke:{name}"
  prefix, _, plain = name.rpartition(":")
  if plain not in _SMALL:
    return None
  return f"{prefix}:{_SMALL[plain]}" if prefix else _SMALL[plain]


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
  """A copy of a config with some fields changed, see `Row`."""
  config = config.copy_and_resolve_references()
  for field, change in changes.items():
    *sections, name = field.split(".")
    section = config
    for part in sections:
      section = section[part]
    section[name] = change(section[name]) if callable(change) else change
  return config


def rows_at(experiment: Experiment, scale: str) -> list[Row]:
  """The rows that exist at a scale, with what they change there.

  Of rows that become one and the same run, the last one stands.
  """
  rows = {}
  for row in experiment.rows:
    if (name := config_name(row.config, scale)) is not None:
      before = configs.load(name)
      values = {
        field: value
        for field, value in changed_values(row, scale).items()
        if value != value_of(before, field)
      }
      changes = {field: row.changes[field] for field in values}
      run = (name, *sorted(values.items()), *row.evaluation)
      rows[run] = dataclasses.replace(row, changes=changes)
  return list(rows.values())


def changed_values(row: Row, scale: str) -> dict[str, Any]:
  """The fields that a row changes, with the values they get at a scale."""
  config = changed(configs.load(config_name(row.config, scale)), row.changes)
  return {field: value_of(config, field) for field in row.changes}


def value_of(config: ConfigDict, field: str) -> Any:
  """A field of a config, by its dotted name."""
  for part in field.split("."):
    config = config[part]
  return config
