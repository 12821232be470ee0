"""Tests of writing files whole."""

import errno
import os

import pytest

from slot_attention import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  files.write(path, "\u00e9")
  assert path.read_bytes() == b"\xc3\xa9"
  files.write(path, b"old")

  def fill_the_disk(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", fill_the_disk)
  with pytest.raises(OSError, match="No space left"):
    files.write(path, "new")
  assert [x.name for x in tmp_path.iterdir()] == ["a.json"]
  assert path.read_text() == "old"


def test_a_damaged_json_file_is_named(tmp_path):
  path = tmp_path / "a.json"
  files.write_json(path, {"a": [1]})
  assert files.read_json(path) == {"a": [1]}
  for content in (b"", b"{", b"\xff"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.json is damaged"):
      files.read_json(path)
