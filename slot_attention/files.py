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
    partial.write_bytes(data)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file with a line for each value, see `write`."""
  write(path, json.dumps(value, indent=2) + "\n")
