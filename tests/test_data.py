"""Tests of the store, the batches, and the Tetrominoes of both sources."""

import gzip
import hashlib
import json
from pathlib import Path
import resource
import time

import jax
import numpy as np
import pytest

from slot_attention.data import batches, prepare, store, tetrominoes

# The ten Tetrominoes of DeepMind's IODINE release (Apache-2.0), as the factors
# in their records: shape codes, rows, columns, colours of the three pieces.
GENUINE = tetrominoes.Scenes(
  shapes=np.array([
    [6, 5, 15], [9, 14, 5], [13, 5, 2], [14, 11, 16], [18, 17, 13],
    [7, 19, 16], [12, 7, 18], [9, 16, 16], [15, 15, 3], [10, 3, 2],
  ]),
  rows=np.array([
    [22, 11, 24], [12, 17, 0], [12, 22, 4], [14, 20, 2], [3, 15, 15],
    [16, 9, 2], [2, 13, 0], [14, 1, 18], [25, 5, 17], [16, 25, 1],
  ]),
  columns=np.array([
    [0, 19, 20], [3, 20, 19], [3, 4, 22], [19, 0, 1], [2, 4, 19],
    [25, 7, 20], [0, 1, 23], [25, 8, 8], [12, 5, 7], [5, 16, 25],
  ]),
  colors=np.array([
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1], [1, 1, 0]],
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]], [[1, 1, 0], [1, 0, 1], [0, 0, 1]],
    [[0, 1, 1], [1, 0, 0], [0, 0, 1]], [[0, 1, 1], [0, 1, 0], [0, 0, 1]],
    [[0, 1, 0], [0, 1, 1], [1, 0, 1]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]],
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[0, 1, 0], [1, 0, 1], [0, 1, 1]],
  ], np.uint8),
)  # fmt: skip
# SHA-256 of their images followed by their segments, both uint8.
GENUINE_PIXELS = (
  "a87960346d896eb79b76520c14bb2062951f15b53410ce38d424fbc665156e08"
)
# The records themselves, where they lie beside the repository.
GENUINE_RECORDS = (
  Path(__file__).parents[2] / "shared/data/tetrominoes_mini.tfrecords"
)

DATA = {
  "name": "tetrominoes",
  "source": "procedural",
  "path": "",
  "num_train": 20,
  "num_eval": 6,
  "max_objects": 3,
  "procedural": {"seed": 0, "image_size": 20, "block_size": 3},
}


def generate(num_examples, **options):
  chunks = list(tetrominoes.generate(num_examples, **options))
  return {
    name: np.concatenate([chunk[name] for chunk in chunks])
    for name in chunks[0]
  }


def write_records(path, drawn, scenes):
  """Writes Tetrominoes as the original does: strings of one byte."""
  tf = pytest.importorskip("tensorflow")

  def one_byte_strings(array):
    values = [bytes([value]) for value in array.reshape(-1).tolist()]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

  def floats(array):
    with_background = np.concatenate([np.zeros_like(array[:1]), array])
    return tf.train.Feature(
      float_list=tf.train.FloatList(value=with_background.reshape(-1))
    )

  with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
    for i, (image, segments) in enumerate(
      zip(drawn["images"], drawn["segments"])
    ):
      masks = 255 * (segments == np.arange(4)[:, None, None])
      feature = {
        "image": one_byte_strings(image),
        "mask": one_byte_strings(masks),
        "x": floats(scenes.rows[i]),
        "y": floats(scenes.columns[i]),
        "shape": floats(scenes.shapes[i]),
        "color": floats(scenes.colors[i]),
        "visibility": floats(np.ones(3)),
      }
      writer.write(
        tf.train.Example(
          features=tf.train.Features(feature=feature)
        ).SerializeToString()
      )


@pytest.fixture(name="records")
def _records(tmp_path):
  path = tmp_path / "tetrominoes.tfrecords"
  write_records(path, tetrominoes.render(GENUINE), GENUINE)
  return path


def test_the_generator_draws_the_ten_genuine_images_pixel_for_pixel():
  drawn = tetrominoes.render(GENUINE)
  pixels = drawn["images"].tobytes() + drawn["segments"].tobytes()
  assert hashlib.sha256(pixels).hexdigest() == GENUINE_PIXELS


@pytest.mark.skipif(
  not GENUINE_RECORDS.exists(), reason="the genuine records are not here"
)
def test_the_reader_and_the_generator_agree_on_the_genuine_records():
  pytest.importorskip("tensorflow")
  from slot_attention.data import multi_object_records

  (chunk,) = multi_object_records.read(GENUINE_RECORDS, "tetrominoes", 10)
  drawn = tetrominoes.render(GENUINE)
  np.testing.assert_array_equal(chunk["images"], drawn["images"])
  np.testing.assert_array_equal(chunk["segments"], drawn["segments"])
  np.testing.assert_array_equal(chunk["shape"][:, 1:], GENUINE.shapes)
  np.testing.assert_array_equal(chunk["color"][:, 1:], GENUINE.colors)


def test_records_of_the_original_format_are_read_back(records):
  from slot_attention.data import multi_object_records

  drawn = tetrominoes.render(GENUINE)
  (chunk,) = multi_object_records.read(records, "tetrominoes", 7)
  np.testing.assert_array_equal(chunk["images"], drawn["images"][:7])
  np.testing.assert_array_equal(chunk["segments"], drawn["segments"][:7])
  np.testing.assert_array_equal(chunk["x"][:, 1:], GENUINE.rows[:7])


def test_unreadable_records_end_in_one_clear_message(records, tmp_path):
  from slot_attention.data import multi_object_records

  def read(path, num_examples=10):
    return list(multi_object_records.read(path, "tetrominoes", num_examples))

  with pytest.raises(FileNotFoundError, match="no TFRecord file .*nothing"):
    read(tmp_path / "nothing.tfrecords")
  with pytest.raises(ValueError, match="ends after 10 examples"):
    read(records, 11)
  truncated = tmp_path / "truncated.tfrecords"
  truncated.write_bytes(records.read_bytes()[:1500])
  with pytest.raises(ValueError, match="truncated.tfrecords .* truncated"):
    read(truncated)
  other = tmp_path / "other.tfrecords"
  other.write_bytes(gzip.compress(b"not a TFRecord at all"))
  with pytest.raises(ValueError, match="other.tfrecords is not a readable"):
    read(other)
  plain = tmp_path / "plain.tfrecords"
  plain.write_bytes(b"not even gzip")
  with pytest.raises(ValueError, match="plain.tfrecords is not a readable"):
    read(plain)


def test_there_are_19_different_tetrominoes_of_four_blocks():
  assert len(set(tetrominoes.SHAPES)) == 19
  assert all(shape.count("#") == 4 for shape in tetrominoes.SHAPES)


def test_every_image_has_three_whole_pieces_without_overlap():
  drawn = generate(500, seed=0)
  assert drawn["images"].shape == (500, 35, 35, 3)
  for piece in (1, 2, 3):
    size = (drawn["segments"] == piece).sum(axis=(1, 2))
    np.testing.assert_array_equal(size, 100)
  black = drawn["images"].sum(-1) == 0
  np.testing.assert_array_equal(black, drawn["segments"] == 0)


def test_shapes_and_colors_are_uniform_and_positions_are_not_on_a_lattice():
  scenes = tetrominoes.sample(np.random.default_rng(0), 20_000)
  codes, counts = np.unique(
    scenes.colors.reshape(-1, 3), axis=0, return_counts=True
  )
  assert len(codes) == 6
  np.testing.assert_allclose(counts / counts.sum(), 1 / 6, atol=0.01)
  shapes = np.bincount(scenes.shapes.reshape(-1), minlength=20)[1:]
  # Rejecting overlaps favours compact shapes a little.
  assert 0.03 < shapes.min() / shapes.sum() < 1 / 19
  assert shapes.max() / shapes.sum() < 0.08
  assert set(np.unique(scenes.rows % 5)) == {0, 1, 2, 3, 4}


def test_options_of_the_small_variants():
  drawn = generate(
    300,
    seed=1,
    image_size=18,
    block_size=2,
    min_gap=2,
    distinct_colors=True,
    background=90,
  )
  segments = drawn["segments"].astype(int)
  assert segments.shape == (300, 18, 18)
  for piece in (1, 2, 3):
    assert ((segments == piece).sum(axis=(1, 2)) == 16).all()
  # Within two pixels of a piece there is no other one, diagonals included.
  for rows in range(-2, 3):
    for columns in range(-2, 3):
      a = segments[:, 2:-2, 2:-2]
      b = np.roll(segments, (rows, columns), (1, 2))[:, 2:-2, 2:-2]
      assert not ((a != b) & (a > 0) & (b > 0)).any()
  assert (drawn["images"][segments == 0] == 90).all()
  scenes = tetrominoes.sample(
    np.random.default_rng(0), 100, distinct_colors=True, shapes=(2, 19)
  )
  assert set(np.unique(scenes.shapes)) == {2, 19}
  for colors in scenes.colors:
    assert len({tuple(color) for color in colors.tolist()}) == 3


def test_a_longer_set_begins_with_the_shorter_one():
  chunk = tetrominoes.CHUNK_SIZE
  options = {"seed": 3, "image_size": 16, "block_size": 2}
  short, long = (generate(n, **options) for n in (chunk + 5, 2 * chunk + 1))
  np.testing.assert_array_equal(short["images"], long["images"][: chunk + 5])
  other = generate(chunk, **{**options, "seed": 4})
  assert (other["images"] != long["images"][:chunk]).any()


def test_scenes_without_room_are_refused():
  with pytest.raises(ValueError, match="image_size=12 has hardly room for 6"):
    generate(1, seed=0, image_size=12, block_size=3, num_objects=6)
  with pytest.raises(ValueError, match="no room for a tetromino"):
    generate(1, seed=0, image_size=12, block_size=4)
  with pytest.raises(ValueError, match="must be codes from 1 to 19"):
    generate(1, seed=0, shapes=(3, 20))
  with pytest.raises(ValueError, match="at most 6 pieces, not 7"):
    generate(1, seed=0, num_objects=7, distinct_colors=True)


def test_5000_images_a_second():
  start = time.perf_counter()
  generate(10_000, seed=0)
  assert 10_000 / (time.perf_counter() - start) > 5_000


def write_store(path, images, splits=None):
  chunks = [
    {"images": part, "segments": part[..., 0]}
    for part in np.array_split(images, 3)
  ]
  store.write(path, {"name": "x"}, splits or {"train": 8, "eval": 2}, chunks)


@pytest.fixture(name="images")
def _images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)


def test_a_store_gives_back_what_was_written(tmp_path, images):
  write_store(tmp_path / "x", images)
  data = store.read(tmp_path / "x")
  np.testing.assert_array_equal(data.splits["train"]["images"], images[:8])
  np.testing.assert_array_equal(data.splits["eval"]["images"], images[8:])
  np.testing.assert_array_equal(
    data.splits["eval"]["segments"], images[8:, ..., 0]
  )
  assert data.image_shape == (4, 5, 3)
  assert data.description == {"name": "x"}
  assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_store_appears_whole_or_not_at_all(tmp_path, images):
  def broken():
    yield {"images": images[:3]}
    raise RuntimeError("power cut")

  with pytest.raises(RuntimeError, match="power cut"):
    store.write(tmp_path / "x", {}, {"train": 10}, broken())
  with pytest.raises(ValueError, match="9 examples, but its source gave 10"):
    write_store(tmp_path / "x", images, {"train": 9})
  assert not list(tmp_path.iterdir())


def test_the_first_of_two_writers_wins(tmp_path, images):
  write_store(tmp_path / "x", images)
  write_store(tmp_path / "x", 255 - images)
  data = store.read(tmp_path / "x")
  np.testing.assert_array_equal(data.splits["train"]["images"], images[:8])


def test_a_disk_that_cannot_be_written_is_named(tmp_path, images):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(
    OSError, match="data set .*x cannot be written .*data_dir"
  ):
    write_store(tmp_path / "file" / "x", images)


def test_a_full_disk_leaves_nothing_behind(tmp_path, images):
  """A limit on the size of files fails writes as a full disk does."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
  try:
    with pytest.raises(OSError, match="x cannot be written .*large"):
      write_store(tmp_path / "x", images)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())


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
    (damage_format, "its format is not 1"),
    (remove_manifest, "manifest.json is missing"),
    (remove_array, "images.npy is missing"),
    (truncate_array, "images.npy has 727 bytes instead of 728"),
    (flip_bit, "the checksum of images.npy is wrong"),
  ],
)
def test_damage_is_named_with_what_to_do(tmp_path, images, damage, words):
  write_store(tmp_path / "x", images)
  damage(tmp_path / "x")
  with pytest.raises(store.DamagedError, match=words) as error:
    store.read(tmp_path / "x")
  assert "Delete that folder; it is prepared again" in str(error.value)


def test_there_is_nothing_to_read_where_nothing_was_prepared(tmp_path):
  with pytest.raises(FileNotFoundError):
    store.read(tmp_path / "x")


def test_data_is_prepared_once_and_each_description_apart(tmp_path):
  data = prepare.load(**DATA, data_dir=tmp_path)
  assert data.splits["train"]["images"].shape == (20, 20, 20, 3)
  assert data.splits["eval"]["images"].shape == (6, 20, 20, 3)
  changed = data.directory.stat().st_mtime_ns
  assert prepare.load(**DATA, data_dir=tmp_path).directory == data.directory
  assert data.directory.stat().st_mtime_ns == changed
  other = prepare.load(**{**DATA, "num_train": 21}, data_dir=tmp_path)
  assert other.directory != data.directory


def test_original_records_are_prepared_like_procedural_data(records, tmp_path):
  data = prepare.load(
    **{
      **DATA,
      "source": "original",
      "path": str(records),
      "num_train": 8,
      "num_eval": 2,
      "data_dir": tmp_path,
    }
  )
  drawn = tetrominoes.render(GENUINE)
  np.testing.assert_array_equal(
    data.splits["train"]["images"], drawn["images"][:8]
  )
  np.testing.assert_array_equal(
    data.splits["eval"]["segments"], drawn["segments"][8:]
  )


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"name": "mnist"}, "data.name='mnist' is not one of tetrominoes"),
    ({"source": "web"}, "data.source='web' is not one of procedural, original"),
    ({"source": "original"}, "needs data.path"),
    ({"num_train": 0}, "data.num_train=0 must be at least 1"),
  ],
)
def test_bad_data_fields_are_named(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    prepare.load(**{**DATA, **fields, "data_dir": tmp_path})


def test_every_epoch_shows_every_example_once():
  options = {"batch_size": 4, "num_examples": 10, "seed": 5}
  seen = np.concatenate(
    [batches.examples_of_step(step, **options) for step in range(10)]
  )
  for epoch in seen.reshape(4, 10):
    assert sorted(epoch) == list(range(10))
  assert (seen[:10] != seen[10:20]).any()
  other = batches.examples_of_step(0, **{**options, "seed": 6})
  assert (other != seen[:4]).any()


def feed(split, placement):
  feeder = batches.Feeder(split, placement)
  return [
    jax.tree.map(np.asarray, batch)
    for batch in feeder.train_batches(range(2, 7), batch_size=8, seed=1)
  ]


def test_host_and_device_give_the_same_examples_in_the_same_order(images):
  split = {"images": images, "segments": images[..., 0]}
  from_device, from_host = feed(split, "device"), feed(split, "host")
  assert len(from_device) == len(from_host) == 5
  for a, b in zip(from_device, from_host):
    assert a["images"].shape == (4, 2, 4, 5, 3)  # Devices, examples of each.
    jax.tree.map(np.testing.assert_array_equal, a, b)
  flat = from_host[0]["images"].reshape(8, 4, 5, 3)
  examples = batches.examples_of_step(2, batch_size=8, num_examples=10, seed=1)
  np.testing.assert_array_equal(flat, images[examples])
  with pytest.raises(ValueError, match="data_placement='disk'"):
    feed(split, "disk")


@pytest.mark.parametrize("placement", batches.PLACEMENTS)
def test_evaluation_sees_every_example_exactly_once(images, placement):
  feeder = batches.Feeder({"images": images}, placement)
  seen, ids = [], []
  for batch, size in feeder.eval_batches(4):
    seen.append(np.asarray(batch["images"]).reshape(4, 4, 5, 3)[:size])
    ids.append(np.asarray(batch["example_ids"]).reshape(4)[:size])
  np.testing.assert_array_equal(np.concatenate(seen), images)
  np.testing.assert_array_equal(np.concatenate(ids), np.arange(10))
