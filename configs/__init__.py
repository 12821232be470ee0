"""One page per experiment: values and a header, no logic."""

import difflib
import importlib
from pathlib import Path

from ml_collections import ConfigDict


class UnknownConfigError(LookupError):
  """There is no config of this name."""


def names() -> list[str]:
  """The names of all configs in this folder."""
  return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> ConfigDict:
  """The config of a name; quickstart is the one of configs/quickstart.py.

  Args:
    name: may be followed by :ARGUMENT, as in smoke:quickstart.

  Raises:
    UnknownConfigError: names a similar one.
  """
  file, _, argument = name.partition(":")
  if file not in names():
    similar = difflib.get_close_matches(file, names(), n=1) or names()
    raise UnknownConfigError(
      f"there is no config {file}; there is {', '.join(similar)}"
    )
  get_config = importlib.import_module(f"configs.{file}").get_config
  return get_config(argument) if argument else get_config()
