"""Tests of writing files whole, and of reading damaged ones."""

import errno
import os

import numpy as np
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
  for content in (b"", b"{", b"\xff", b"[1]"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.json is damaged"):
      files.read_json(path)
  assert files.read_json(path, list) == [1]
  assert files.read_json(path, object) == [1]


def test_damaged_arrays_are_named_and_nothing_is_unpickled(tmp_path):
  path = tmp_path / "a.npz"
  array = np.arange(1000.0)
  np.savez_compressed(path, a=array)
  content = path.read_bytes()
  np.testing.assert_array_equal(files.read_arrays(path)["a"], array)
  middle = len(content) // 2
  flipped = content[:middle] + bytes([content[middle] ^ 1])
  flipped += content[middle + 1 :]
  pointer = b"version https://git-lfs.github.com/spec/v1"
  for damaged in (b"", content[:middle], flipped, pointer):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.npz is damaged"):
      files.read_arrays(path)
  np.savez(path, a=np.array([{}], object))
  with pytest.raises(ValueError, match="a.npz is damaged: Object arrays"):
    files.read_arrays(path)
  with pytest.raises(FileNotFoundError):
    files.read_arrays(tmp_path / "b.npz")
