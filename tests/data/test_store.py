"""Tests of prepared data sets on disk."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from slot_attention.data import store

NUM_EXAMPLES = 10
CHUNK_SIZE = 4


@pytest.fixture(name="images")
def _images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (NUM_EXAMPLES, 4, 5, 3), dtype=np.uint8)


def chunks_of(images):
  """Returns the function make_chunks that store.write needs."""

  def make_chunks(chunks):
    for chunk in chunks:
      part = images[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
      yield {"images": part, "segments": part[..., 0]}

  return make_chunks


def write(path, images, **options):
  return store.write(
    path,
    {"name": "x"},
    **{
      "num_examples": NUM_EXAMPLES,
      "chunk_size": CHUNK_SIZE,
      "make_chunks": chunks_of(images),
      **options,
    },
  )


def contents(directory):
  return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_store_returns_what_was_written(tmp_path, images):
  assert write(tmp_path / "x", images)
  data = store.read(tmp_path / "x")
  np.testing.assert_array_equal(data.arrays["images"], images)
  np.testing.assert_array_equal(data.arrays["segments"], images[..., 0])
  assert data.description == {"name": "x"}
  assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_last_chunk_may_be_longer_than_needed(tmp_path, images):
  assert write(tmp_path / "x", images, num_examples=7)
  arrays = store.read(tmp_path / "x").arrays
  np.testing.assert_array_equal(arrays["images"], images[:7])
  with pytest.raises(ValueError, match="chunk 2 of y .* 4 .* gave 2"):
    write(tmp_path / "y", images, num_examples=12)


def test_interrupted_work_continues_with_the_first_missing_chunk(
  tmp_path, images
):
  made = []

  def make_chunks(chunks, stop_before=None):
    for chunk, arrays in zip(chunks, chunks_of(images)(chunks)):
      if chunk == stop_before:
        raise RuntimeError("power cut")
      made.append(chunk)
      yield arrays

  with pytest.raises(RuntimeError, match="power cut"):
    write(
      tmp_path / "x", images, make_chunks=lambda chunks: make_chunks(chunks, 2)
    )
  assert not (tmp_path / "x").exists()
  with pytest.raises(FileNotFoundError):
    store.read(tmp_path / "x")
  assert write(tmp_path / "x", images, make_chunks=make_chunks)
  assert made == [0, 1, 2]
  write(tmp_path / "undisturbed", images)
  assert contents(tmp_path / "x") == contents(tmp_path / "undisturbed")
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_shards_in_any_order_make_the_same_set(tmp_path, images, order):
  done = [
    write(tmp_path / "x", images, shard=shard, num_shards=3) for shard in order
  ]
  assert done == [False, False, True]
  write(tmp_path / "whole", images)
  assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_a_shard_may_have_nothing_to_do(tmp_path, images):
  done = [
    write(tmp_path / "x", images, shard=shard, num_shards=5)
    for shard in range(5)
  ]
  assert done[-1]
  np.testing.assert_array_equal(
    store.read(tmp_path / "x").arrays["images"], images
  )


def test_parts_of_several_folders_need_no_source_to_become_one_set(
  tmp_path, images
):
  for folder, shard in (("a", 0), ("b", 1)):
    assert not write(tmp_path / folder / "x", images, shard=shard, num_shards=2)
  a, b = (store.partial_directory(tmp_path / folder / "x") for folder in "ab")
  for chunk in b.iterdir():
    chunk.rename(a / chunk.name)

  def download(chunks):
    yield pytest.fail(f"chunks {chunks} are not missing")

  assert write(tmp_path / "a" / "x", images, make_chunks=download)
  arrays = store.read(tmp_path / "a" / "x").arrays
  np.testing.assert_array_equal(arrays["images"], images)


def test_a_damaged_chunk_is_named_and_made_again(tmp_path, images):
  write(tmp_path / "x", images, shard=0, num_shards=2)
  (chunk,) = store.partial_directory(tmp_path / "x").glob("*.npz")
  data = bytearray(chunk.read_bytes())
  data[len(data) // 4] ^= 1
  chunk.write_bytes(data)
  with pytest.raises(ValueError, match="chunk .*000000.npz was damaged"):
    write(tmp_path / "x", images)
  assert not (tmp_path / "x").exists()
  assert write(tmp_path / "x", images)
  np.testing.assert_array_equal(
    store.read(tmp_path / "x").arrays["images"], images
  )


def test_the_first_of_two_writers_wins(tmp_path, images):
  write(tmp_path / "x", images)
  write(tmp_path / "x", 255 - images)
  data = store.read(tmp_path / "x")
  np.testing.assert_array_equal(data.arrays["images"], images)


def test_a_writer_ends_if_another_one_has_finished_the_same_set(
  tmp_path, images
):
  def make_chunks(chunks):
    for chunk, arrays in zip(chunks, chunks_of(images)(chunks)):
      if chunk == 1:
        write(tmp_path / "x", images)  # Another process.
      yield arrays

  assert write(tmp_path / "x", images, make_chunks=make_chunks)
  assert store.read(tmp_path / "x").description == {"name": "x"}


def test_a_writer_makes_no_chunk_of_a_set_that_another_one_has_finished(
  tmp_path, images
):
  made = []

  def make_chunks(chunks):
    for chunk in chunks:
      made.append(chunk)
      yield from chunks_of(images)([chunk])
      if len(made) == 1:
        write(tmp_path / "other", images)
        (tmp_path / "other").rename(tmp_path / "x")

  assert write(tmp_path / "x", images, make_chunks=make_chunks)
  assert len(made) == 2 < NUM_EXAMPLES / CHUNK_SIZE
  assert store.read(tmp_path / "x").description == {"name": "x"}


def test_a_disk_that_cannot_be_written_is_named(tmp_path, images):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(
    OSError, match="data set .*x cannot be written .*data_dir"
  ):
    write(tmp_path / "file" / "x", images)


def test_a_full_disk_leaves_only_whole_chunks(tmp_path, images):
  """A limit on file sizes makes writes fail as on a full disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  # The chunks fit, but the merged array does not.
  write(tmp_path / "x", images, shard=0, num_shards=3)
  (chunk,) = store.partial_directory(tmp_path / "x").glob("*.npz")
  for limit in (chunk.stat().st_size - 1, chunk.stat().st_size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
      with pytest.raises(OSError, match="x cannot be written .*large"):
        write(tmp_path / "x", np.concatenate([images] * 9), num_examples=88)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "x").exists()
    (partial,) = tmp_path.iterdir()
    assert all(file.suffix == ".npz" for file in partial.iterdir())


@pytest.mark.parametrize("last", range(3))
def test_a_killed_preparation_leaves_nothing_that_would_be_accepted(
  tmp_path, images, last
):
  np.save(tmp_path / "images.npy", images)
  script = textwrap.dedent(f"""
    import pathlib, signal
    import numpy as np
    from tests.data import test_store
    images = np.load({str(tmp_path / "images.npy")!r})
    def make_chunks(chunks):
      for i, arrays in enumerate(test_store.chunks_of(images)(chunks)):
        if i == {last}:
          print("ready", flush=True)
          signal.pause()
        yield arrays
    test_store.write(
      pathlib.Path({str(tmp_path / "x")!r}), images, make_chunks=make_chunks
    )
  """)
  process = subprocess.Popen(
    [sys.executable, "-c", script],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={**os.environ, "PYTHONPATH": "."},
  )
  with process:
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
  assert not (tmp_path / "x").exists()
  assert write(tmp_path / "x", images)
  np.testing.assert_array_equal(
    store.read(tmp_path / "x").arrays["images"], images
  )
  assert not store.partial_directory(tmp_path / "x").exists()


def damage_manifest(directory):
  (directory / "manifest.json").write_text("{")


def damage_manifest_fields(directory):
  path = directory / "manifest.json"
  manifest = json.loads(path.read_text())
  del manifest["arrays"]["images"]["sha256"]
  path.write_text(json.dumps(manifest))


def damage_format(directory):
  (directory / "manifest.json").write_text('{"format": 99}')


def remove_manifest(directory):
  (directory / "manifest.json").unlink()


def remove_array(directory):
  (directory / "images.npy").unlink()


def truncate_array(directory):
  path = directory / "images.npy"
  path.write_bytes(path.read_bytes()[:-1])


def flip_bit(directory):
  path = directory / "images.npy"
  data = bytearray(path.read_bytes())
  data[-7] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
  "damage, words",
  [
    (damage_manifest, "manifest.json is not JSON"),
    (damage_manifest_fields, "manifest.json is not complete"),
    (damage_format, "its format is not 2"),
    (remove_manifest, "manifest.json is missing"),
    (remove_array, "images.npy is missing"),
    (truncate_array, "images.npy has 727 bytes instead of 728"),
    (flip_bit, "the checksum of images.npy is wrong"),
  ],
)
def test_damage_is_named_with_what_to_do(tmp_path, images, damage, words):
  write(tmp_path / "x", images)
  damage(tmp_path / "x")
  with pytest.raises(store.DamagedError, match=words) as error:
    store.read(tmp_path / "x")
  assert "Delete that folder; the next command prepares it" in str(error.value)


def test_reading_a_set_that_was_not_prepared_fails(tmp_path):
  with pytest.raises(FileNotFoundError):
    store.read(tmp_path / "x")


def test_a_split_returns_its_examples_in_its_order(images):
  arrays = {"images": images, "segments": images[..., 0]}
  split = store.Split(arrays, np.array([7, 2, 5]))
  assert len(split) == 3
  taken = split.take(np.array([2, 0]))
  np.testing.assert_array_equal(taken["images"], images[[5, 7]])
  np.testing.assert_array_equal(taken["segments"], images[[5, 7], ..., 0])


def test_grayscale_is_luminance(monkeypatch):
  monkeypatch.setattr(store, "_GRAYSCALE_BLOCK", 3)
  colors = np.zeros((4, 1, 1, 3), np.uint8)
  colors[[0, 1, 2], 0, 0, [0, 1, 2]] = 255
  colors[3] = 200
  split = store.Split({"images": colors}, np.arange(4), grayscale=True)
  assert split.image_shape == (1, 1, 1)
  gray = split.take(np.arange(4))["images"]
  np.testing.assert_array_equal(gray.reshape(-1), [76, 150, 29, 200])
