"""Writes files whole or not at all, and reads them with clear errors."""

import json
import os
from pathlib import Path
from typing import Any
import uuid
import zipfile
import zlib

import numpy as np


def write(path: Path, content: str | bytes) -> None:
  """Writes a file, which others see in its old or in its new state only.

  Args:
    path: of the file.
    content: a text is encoded as UTF-8.

  Raises:
    OSError: if it cannot be written. What was there before stays.
  """
  data = content.encode() if isinstance(content, str) else content
  partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
  try:
    with partial.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())  # A power failure leaves no empty file.
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file with a line for each value, see `write`."""
  write(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, kind: type = dict) -> Any:
  """Reads a JSON file.

  Args:
    path: of the file.
    kind: the type that the file's value must have.

  Raises:
    ValueError: names the file if it is damaged or has a value of another type.
    FileNotFoundError: if there is none.
  """
  try:
    value = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error
  if not isinstance(value, kind):
    raise ValueError(
      f"{path} is damaged: it has a {type(value).__name__}, not a"
      f" {kind.__name__}"
    )
  return value


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """Reads all arrays of an NPZ file. Nothing is unpickled.

  Raises:
    ValueError: names the file if it is damaged.
    FileNotFoundError: if there is none.
  """
  with path.open("rb") as file:
    if not zipfile.is_zipfile(file):
      raise ValueError(f"{path} is damaged: it is no NPZ file")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error}") from error
