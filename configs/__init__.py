"""The configs of all experiments, one file each."""

from collections.abc import Mapping
import difflib
import importlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


class UnknownConfigError(LookupError):
  """There is no config of this name."""


def names() -> list[str]:
  """Returns the names of all configs in this folder."""
  return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> ConfigDict:
  """Loads a config by its name.

  Args:
    name: name of a file in configs/, for example "quickstart". An argument of
      its get_config may follow after a colon: "smoke:quickstart".

  Raises:
    UnknownConfigError: if there is no such file. The error names similar ones.
  """
  file, _, argument = name.partition(":")
  if file not in names():
    similar = difflib.get_close_matches(file, names(), n=1) or names()
    raise UnknownConfigError(
      f"there is no config {file}; there is {', '.join(similar)}"
    )
  get_config = importlib.import_module(f"configs.{file}").get_config
  return get_config(argument) if argument else get_config()


def load_slot_attention(file: str, name: str) -> ConfigDict:
  """Loads a config whose Slot Attention another config replaces.

  Args:
    file: name of the file in configs/ that replaces it.
    name: of the config to load.

  Raises:
    UnknownConfigError: if there is no such config, or if its model has no Slot
      Attention.
  """
  config = load(name)
  if "slot_attention" not in config.model:
    raise UnknownConfigError(
      f"there is no config {file}:{name}: the model of {name} has no Slot"
      " Attention to replace"
    )
  return config


def choose(file: str, name: str, values: Mapping[str, Any]) -> Any:
  """Returns what a config with an argument has for the config of that name.

  Args:
    file: name of the file in configs/ that has the table.
    name: its argument, for example "quickstart".
    values: the table, by the names of other configs.

  Raises:
    UnknownConfigError: if the table has no such name. The error lists all.
  """
  if name not in values:
    raise UnknownConfigError(
      f"there is no config {file}:{name}; there is {', '.join(values)}"
    )
  return values[name]
