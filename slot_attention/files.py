"""Writes files whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any
import uuid


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


def read_json(path: Path) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: names the file if it is damaged.
    FileNotFoundError: if there is none.
  """
  try:
    return json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error
