"""One page per experiment: values and a header, no logic."""

import difflib
import importlib
from pathlib import Path

from ml_collections import ConfigDict

_FOLDER = Path(__file__).parent


class UnknownConfigError(LookupError):
  """There is no config of this name."""


def names() -> list[str]:
  """The names of all configs in this folder."""
  return sorted(
    path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__"
  )


def find(name: str) -> str:
  """The file of a config: quickstart is configs/quickstart.py.

  Args:
    name: of a config in this folder, or of a file; either may be followed by
      :ARGUMENT, as in smoke:quickstart.

  Raises:
    UnknownConfigError: names similar ones.
  """
  file, colon, argument = name.partition(":")
  if Path(file).is_file():
    return name
  if file not in names():
    similar = difflib.get_close_matches(Path(file).stem, names(), n=1)
    hint = f"configs/ has {', '.join(names())}"
    if similar:
      hint = f"did you mean {similar[0]}?"
    raise UnknownConfigError(f"there is no config {file} ({hint})")
  return f"{_FOLDER / file}.py{colon}{argument}"


def load(name: str) -> ConfigDict:
  """The config of a name in this folder, which :ARGUMENT may follow.

  Raises:
    UnknownConfigError: names similar ones.
  """
  file, _, argument = name.partition(":")
  find(file)
  get_config = importlib.import_module(f"configs.{file}").get_config
  return get_config(argument) if argument else get_config()
