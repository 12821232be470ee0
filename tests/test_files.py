"""Tests of writing files whole."""

import errno
from pathlib import Path

import pytest

from slot_attention import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  files.write(path, "\u00e9")
  assert path.read_bytes() == b"\xc3\xa9"
  files.write(path, b"old")
  write_bytes = Path.write_bytes

  def fill_the_disk(self, data):
    write_bytes(self, data[:1])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
  with pytest.raises(OSError, match="No space left"):
    files.write(path, "new")
  assert [x.name for x in tmp_path.iterdir()] == ["a.json"]
  assert path.read_text() == "old"
