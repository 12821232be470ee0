"""Tests of the readers of original data, and of the download."""

import concurrent.futures
import dataclasses
import functools
import gzip
import http.server
import json
from pathlib import Path
import re
import shutil
import sys
import threading
import types

import numpy as np
import PIL.Image
import pytest

from slot_attention.data import clevr, clevr_originals, multi_object_records
from slot_attention.data.multi_object_records import FORMATS

SHARED = Path(__file__).parents[3] / "shared/data"
RERENDERED = SHARED / "clevr_rerendered"


def random_example(name, rng):
  """Makes the arrays of a record of one of the files, by feature."""
  record_format = FORMATS[name]
  height, width, _ = record_format.image_shape
  num_entities = record_format.num_entities
  entities = rng.integers(0, num_entities, (height, width))
  masks = 255 * np.eye(num_entities, dtype=np.uint8)[entities]
  if "multi_dsprites" not in name:
    masks = np.moveaxis(masks, -1, 0)
  return {
    "image": rng.integers(0, 256, record_format.image_shape, np.uint8),
    "mask": masks[..., None],
    **{
      factor: rng.normal(size=shape).astype(np.float32)
      for factor, shape in record_format.floats.items()
    },
    **{
      factor: rng.integers(0, 3, num_entities, np.uint8)
      for factor in record_format.codes
    },
  }, entities


def write_records(path, examples):
  """Writes examples like those of `random_example`."""
  tf = pytest.importorskip("tensorflow")

  def feature(array):
    if array.dtype == np.uint8:
      strings = [bytes([byte]) for byte in array.reshape(-1).tolist()]
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=strings))
    floats = tf.train.FloatList(value=array.reshape(-1))
    return tf.train.Feature(float_list=floats)

  with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
    for example in examples:
      features = tf.train.Features(
        feature={name: feature(array) for name, array in example.items()}
      )
      writer.write(tf.train.Example(features=features).SerializeToString())


@pytest.mark.parametrize("name", FORMATS)
def test_records_of_every_data_set_are_read_back(tmp_path, name):
  rng = np.random.default_rng(0)
  examples, entities = zip(*[random_example(name, rng) for _ in range(2)])
  path = tmp_path / "some.tfrecords"
  write_records(path, examples)
  (chunk,) = multi_object_records.read(path, name, 1, 2)
  np.testing.assert_array_equal(
    chunk["images"], [example["image"] for example in examples[1:]]
  )
  # All backgrounds are 0.
  last_background = 3 if "room" in name else 0
  segments = np.maximum(np.array(entities[1:]) - last_background, 0)
  np.testing.assert_array_equal(chunk["segments"], segments)
  assert chunk["images"].dtype == chunk["segments"].dtype == np.uint8
  assert set(chunk) - {"segments"} == set(examples[0]) - {"image", "mask"} | {
    "images"
  }
  for factor in set(examples[0]) - {"image", "mask"}:
    expected = np.array([example[factor] for example in examples[1:]])
    assert chunk[factor].dtype == expected.dtype
    np.testing.assert_array_equal(chunk[factor], expected)


def test_ranges_are_read_in_the_order_of_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(multi_object_records, "CHUNK_SIZE", 4)
  rng = np.random.default_rng(0)
  examples = [random_example("tetrominoes", rng)[0] for _ in range(12)]
  path = tmp_path / "some.tfrecords"
  write_records(path, examples)
  chunks = list(multi_object_records.read(path, "tetrominoes", 1, 11))
  assert [len(chunk["images"]) for chunk in chunks] == [4, 4, 2]
  np.testing.assert_array_equal(
    np.concatenate([chunk["images"] for chunk in chunks]),
    [example["image"] for example in examples[1:11]],
  )


@pytest.mark.skipif(not SHARED.exists(), reason="no genuine records here")
def test_genuine_records_are_read():
  pytest.importorskip("tensorflow")
  path = SHARED / "tetrominoes_mini.tfrecords"
  (chunk,) = multi_object_records.read(path, "tetrominoes", 0, 10)
  for piece in (1, 2, 3):
    pixels = (chunk["segments"] == piece).sum(axis=(1, 2))
    np.testing.assert_array_equal(pixels, 100)
  np.testing.assert_array_equal(
    chunk["images"].any(axis=-1), chunk["segments"] > 0
  )


@pytest.fixture(name="records")
def _records(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / "some.tfrecords"
  write_records(path, [random_example("tetrominoes", rng)[0] for _ in range(3)])
  return path


def read_tetrominoes(path, stop=3):
  return list(multi_object_records.read(path, "tetrominoes", 0, stop))


def test_missing_records_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no TFRecord file .*nothing"):
    read_tetrominoes(tmp_path / "nothing.tfrecords")


@pytest.mark.parametrize("start", [0, 2, 3, 7])
def test_too_few_records_are_counted(records, start):
  chunks = multi_object_records.read(records, "tetrominoes", start, 9)
  with pytest.raises(
    ValueError,
    match="some.tfrecords has fewer than 9 examples, .*data.num_examples",
  ):
    list(chunks)


def cut(path):
  path.write_bytes(path.read_bytes()[:-3000])


def flip_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def replace_by_text(path):
  path.write_bytes(gzip.compress(b"not a TFRecord at all" * 99))


def decompress(path):
  path.write_bytes(gzip.decompress(path.read_bytes()))


def replace_by_other_data_set(path):
  rng = np.random.default_rng(0)
  write_records(
    path, [random_example("objects_room_empty_room", rng)[0] for _ in range(3)]
  )


@pytest.mark.parametrize(
  "damage",
  [
    cut,
    flip_bit,
    replace_by_text,
    decompress,
    replace_by_other_data_set,
  ],
)
def test_damaged_records_are_named(records, damage):
  assert len(read_tetrominoes(records)) == 1
  damage(records)
  with pytest.raises(
    ValueError, match="some.tfrecords is not a readable tetrominoes TFRecord"
  ):
    read_tetrominoes(records)


def test_a_record_without_a_factor_is_of_another_data_set(tmp_path):
  example, _ = random_example("tetrominoes", np.random.default_rng(0))
  del example["shape"]
  write_records(tmp_path / "some.tfrecords", [example])
  with pytest.raises(ValueError, match="another data set"):
    read_tetrominoes(tmp_path / "some.tfrecords", 1)


CONTENT = np.random.default_rng(0).bytes(3_500_000)


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves CONTENT as the `behavior` of the server says."""

  def do_GET(self):
    behavior = self.server.behavior
    asked = self.headers["Range"]
    behavior.ranges.append(asked)
    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
    if behavior.status:
      self.send_error(behavior.status)
      return
    if start >= len(CONTENT):
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
      self.end_headers()
      return
    if behavior.knows_ranges and asked:
      self.send_response(206)
    else:
      start = 0
      self.send_response(200)
    self.send_header("Content-Length", str(len(CONTENT) - start))
    self.end_headers()
    size = behavior.sizes.pop(0) if behavior.sizes else len(CONTENT)
    self.wfile.write(CONTENT[start : start + size])

  def log_message(self, *args):
    """Logs nothing."""


@pytest.fixture(name="behavior")
def _behavior(monkeypatch):
  """Starts a server that publishes tetrominoes; yields its behaviour.

  Attributes:
    ranges: the Range header of each request so far.
    sizes: number of bytes after which each of the next responses is cut.
    knows_ranges: whether the server honours Range headers.
    status: an HTTP error to answer with, or None.
  """
  behavior = types.SimpleNamespace(
    ranges=[], sizes=[], knows_ranges=True, status=None
  )
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  server.behavior = behavior
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  publish_at(monkeypatch, server.server_port)
  yield behavior
  server.shutdown()
  thread.join()
  server.server_close()


def publish_at(monkeypatch, port):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setitem(
    FORMATS,
    "tetrominoes",
    dataclasses.replace(
      FORMATS["tetrominoes"], url=f"http://127.0.0.1:{port}/some.tfrecords"
    ),
  )


def files_of(folder):
  files = (path for path in folder.iterdir() if path.suffix != ".lock")
  return {path.name: path.read_bytes() for path in files}


def test_a_file_is_downloaded_once(tmp_path, behavior):
  folder = tmp_path / "new" / "folder"
  path = multi_object_records.download("tetrominoes", folder)
  assert path == folder / "some.tfrecords"
  assert files_of(folder) == {"some.tfrecords": CONTENT}
  assert multi_object_records.download("tetrominoes", folder) == path
  assert behavior.ranges == [None]


def test_processes_that_need_one_file_download_it_once(tmp_path, behavior):
  names = ["tetrominoes"] * 4
  download = functools.partial(multi_object_records.download, folder=tmp_path)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    paths = list(pool.map(download, names))
  assert set(paths) == {tmp_path / "some.tfrecords"}
  assert files_of(tmp_path) == {"some.tfrecords": CONTENT}
  assert behavior.ranges == [None]


def test_an_interrupted_download_continues_where_it_stopped(tmp_path, behavior):
  behavior.sizes = [2_000_000, 1_000_000]
  multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords": CONTENT}
  assert behavior.ranges == [None, "bytes=2000000-", "bytes=3000000-"]


def test_the_next_command_continues_a_download(tmp_path, behavior):
  behavior.sizes = [2_000_000, 0]
  with pytest.raises(
    OSError, match="interrupted. The downloaded part is kept, .* goes on"
  ):
    multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords.partial": CONTENT[:2_000_000]}
  multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords": CONTENT}
  assert behavior.ranges == [None, "bytes=2000000-", "bytes=2000000-"]


def test_without_range_requests_a_download_starts_again(tmp_path, behavior):
  behavior.knows_ranges = False
  (tmp_path / "some.tfrecords.partial").write_bytes(CONTENT[:1_000_000])
  multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords": CONTENT}
  assert len(behavior.ranges) == 1


@pytest.mark.parametrize(
  "partial, num_requests", [(CONTENT, 1), (CONTENT + b"more", 2)]
)
def test_a_complete_partial_file_is_kept_and_a_longer_one_is_not(
  tmp_path, behavior, partial, num_requests
):
  (tmp_path / "some.tfrecords.partial").write_bytes(partial)
  multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords": CONTENT}
  assert len(behavior.ranges) == num_requests


def test_a_file_that_is_not_published_ends_in_one_message(tmp_path, behavior):
  behavior.status = 404
  with pytest.raises(
    OSError, match="some.tfrecords .about 0.3 GB. cannot be .*: Not Found"
  ):
    multi_object_records.download("tetrominoes", tmp_path)
  assert not files_of(tmp_path)


def test_without_network_the_message_names_url_and_alternative(
  tmp_path, monkeypatch
):
  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    closed_port = server.server_port
  publish_at(monkeypatch, closed_port)
  with pytest.raises(
    OSError, match="http://127.0.0.1:.*/some.tfrecords .*refused.*data.path"
  ):
    multi_object_records.download("tetrominoes", tmp_path)


def test_a_disk_without_room_is_named_before_anything_is_written(
  tmp_path, monkeypatch, behavior
):
  (tmp_path / "some.tfrecords.partial").write_bytes(CONTENT[:500_000])
  monkeypatch.setattr(
    shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2_000_000)
  )
  with pytest.raises(
    OSError, match="3.0 MB are missing, but only 2.0 MB are free"
  ):
    multi_object_records.download("tetrominoes", tmp_path)
  assert files_of(tmp_path) == {"some.tfrecords.partial": CONTENT[:500_000]}


def resized(image, size):
  """Resizes [H, W, C] bilinearly, half-pixel centres, no antialiasing."""
  for axis in (0, 1):
    length = image.shape[axis]
    place = (np.arange(size) + 0.5) * length / size - 0.5
    place = np.clip(place, 0, length - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, length - 1)
    part = (place - before).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    image = (1 - part) * image.take(before, axis) + part * image.take(
      after, axis
    )
  return image


def nearest(segments, size):
  """Resizes [H, W] to the pixel that contains the centre of the new one."""
  for axis in (0, 1):
    length = segments.shape[axis]
    place = np.floor((np.arange(size) + 0.5) * length / size).astype(int)
    segments = segments.take(place, axis)
  return segments


def check_frame(chunk, images, segments, crop, size):
  """Compares a chunk with the images and segments of the files."""
  for i, image in enumerate(images):
    if crop:
      image = image[29:221, 64:256]
    # The images are rounded to whole numbers.
    expected = resized(image.astype(float), size)
    np.testing.assert_allclose(chunk["images"][i], expected, atol=0.501)
  for i, segment in enumerate(segments):
    if crop:
      segment = segment[29:221, 64:256]
    np.testing.assert_array_equal(chunk["segments"][i], nearest(segment, size))


def target_of(coords, size, material, shape, color):
  """Writes out the 19 numbers of an object (E.4)."""
  target = np.zeros(19, np.float32)
  target[:3] = (np.array(coords) + 3) / 6
  target[3 + ["small", "large"].index(size)] = 1
  target[5 + ["rubber", "metal"].index(material)] = 1
  target[7 + ["cube", "sphere", "cylinder"].index(shape)] = 1
  colors = "gray blue brown yellow red green purple cyan".split()
  target[10 + colors.index(color)] = 1
  target[18] = 1
  return target


def check_targets(targets, objects_of_scenes):
  for target, objects in zip(targets, objects_of_scenes, strict=True):
    for row, item in zip(target, objects):
      expected = target_of(
        item["3d_coords"],
        *(item[name] for name in ("size", "material", "shape", "color")),
      )
      np.testing.assert_allclose(row, expected, atol=1e-6)
    assert (target[len(objects) :] == 0).all()


def random_objects(rng, num_objects):
  return [
    {
      "3d_coords": rng.uniform(-3, 3, 3).tolist(),
      "pixel_coords": rng.uniform(0, 300, 3).tolist(),
      "rotation": rng.uniform(0, 360),
      **{
        name: str(rng.choice(names)) for name, names in clevr.PROPERTIES.items()
      },
    }
    for _ in range(num_objects)
  ]


def write_split(folder, split, num_examples, *, size=(20, 30), masks=False):
  """Writes a split of CLEVR_v1.0; returns images, masks and objects."""
  rng = np.random.default_rng(num_examples)
  images = rng.integers(0, 256, (num_examples, *size, 4), np.uint8)
  segments = rng.integers(0, 4, (num_examples, *size), np.uint8)
  objects = [random_objects(rng, 3 + i % 8) for i in range(num_examples)]
  scenes = []
  for kind in ("images", "masks", "scenes", "questions"):
    (folder / kind).mkdir(parents=True, exist_ok=True)
  (folder / "images" / split).mkdir()
  if masks:
    (folder / "masks" / split).mkdir()
  for i in range(num_examples):
    name = f"CLEVR_{split}_{i:06d}.png"
    PIL.Image.fromarray(images[i]).save(folder / "images" / split / name)
    if masks:
      PIL.Image.fromarray(segments[i]).save(folder / "masks" / split / name)
    scenes.append({"image_filename": name, "objects": objects[i]})
  (folder / f"scenes/CLEVR_{split}_scenes.json").write_text(
    json.dumps({"info": {"split": split}, "scenes": scenes})
  )
  (folder / f"questions/CLEVR_{split}_questions.json").write_text(
    '{"questions": []}'
  )
  return images[..., :3], segments, objects


def joined(chunks):
  chunks = list(chunks)
  return {
    name: np.concatenate([chunk[name] for chunk in chunks])
    for name in chunks[0]
  }


read_folder = functools.partial(
  clevr_originals.read_folder, crop=False, image_size=8
)


def test_a_folder_gives_train_without_its_first_512_then_val(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(clevr_originals, "CHUNK_SIZE", 2)
  train = write_split(tmp_path, "train", 515)
  val = write_split(tmp_path, "val", 4)
  chunk = joined(read_folder(tmp_path, 1, 6))
  assert set(chunk) == {"images", "targets"}
  images = np.concatenate([train[0][513:], val[0][:3]])
  check_frame(chunk, images, (), crop=False, size=8)
  check_targets(chunk["targets"], train[2][513:] + val[2][:3])
  with pytest.raises(ValueError, match="only 7 examples, but .* is 8"):
    list(read_folder(tmp_path, 5, 8))


def test_a_folder_of_one_split_gives_its_masks(tmp_path):
  images, segments, objects = write_split(
    tmp_path, "val", 3, size=(240, 320), masks=True
  )
  chunk = joined(
    clevr_originals.read_folder(tmp_path, 0, 3, crop=True, image_size=128)
  )
  assert chunk["images"].shape == (3, 128, 128, 3)
  assert chunk["targets"].shape == (3, 10, 19)
  check_frame(chunk, images, segments, crop=True, size=128)
  check_targets(chunk["targets"], objects)


def remove_image(folder):
  (folder / "images/val/CLEVR_val_000001.png").unlink()


def truncate_image(folder):
  path = folder / "images/val/CLEVR_val_000001.png"
  path.write_bytes(path.read_bytes()[:-300])


def replace_image(folder):
  (folder / "images/val/CLEVR_val_000001.png").write_text("not a picture")


def shrink_image(folder):
  path = folder / "images/val/CLEVR_val_000001.png"
  PIL.Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path)


def color_mask(folder):
  path = folder / "masks/val/CLEVR_val_000001.png"
  PIL.Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)


def renumber_mask(folder):
  path = folder / "masks/val/CLEVR_val_000001.png"
  PIL.Image.fromarray(np.full((20, 30), 80, np.uint8)).save(path)


def shrink_masks(folder):
  for path in (folder / "masks/val").iterdir():
    PIL.Image.fromarray(np.zeros((10, 15), np.uint8)).save(path)


def truncate_scenes(folder):
  path = folder / "scenes/CLEVR_val_scenes.json"
  path.write_bytes(path.read_bytes()[:-30])


def change_scenes(folder, old, new):
  path = folder / "scenes/CLEVR_val_scenes.json"
  path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
  "damage, error, words",
  [
    (remove_image, FileNotFoundError, "000001.png is missing"),
    (truncate_image, ValueError, "000001.png is not a readable image"),
    (replace_image, ValueError, "000001.png is not a readable image"),
    (shrink_image, ValueError, r"000001.png has \(5, 6\) pixels, but .*000000"),
    (color_mask, ValueError, "masks.*000001.png has the channels RGB"),
    (
      renumber_mask,
      ValueError,
      "masks.*000001.png has the object 80, but the scene has only",
    ),
    (shrink_masks, ValueError, "masks.*000000.png and its image differ in"),
    (truncate_scenes, ValueError, "CLEVR_val_scenes.json is not a readable"),
    (
      functools.partial(change_scenes, old='"objects"', new='"items"'),
      ValueError,
      "CLEVR_val_scenes.json is not a readable .*objects",
    ),
    (
      functools.partial(change_scenes, old='"rubber"', new='"wood"'),
      ValueError,
      "CLEVR_val_scenes.json is not a readable .*wood",
    ),
  ],
)
def test_damage_of_a_folder_is_named(tmp_path, damage, error, words):
  write_split(tmp_path, "val", 3, masks=True)
  assert len(joined(read_folder(tmp_path, 0, 3))["images"]) == 3
  damage(tmp_path)
  with pytest.raises(error, match=words):
    list(read_folder(tmp_path, 0, 3))


def test_images_without_the_crop_are_refused(tmp_path):
  write_split(tmp_path, "val", 3, size=(221, 255))
  with pytest.raises(ValueError, match="221x255 pixels .* columns 64 to 256"):
    list(clevr_originals.read_folder(tmp_path, 0, 3, crop=True, image_size=128))


def test_a_folder_that_is_not_of_clevr_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="is not a CLEVR folder"):
    read_folder(tmp_path, 0, 3)


@pytest.mark.skipif(not RERENDERED.exists(), reason="no such scenes here")
@pytest.mark.parametrize(
  "folder, file, names",
  [
    ("with_masks", "scenes.json", "image_{0}.png mask_{0}.png"),
    (
      "CLEVR_v1.0",
      "scenes/CLEVR_val_scenes.json",
      "images/val/CLEVR_val_{0}.png masks/val/CLEVR_val_{0}.png",
    ),
  ],
)
def test_rendered_scenes_are_read(folder, file, names):
  folder = RERENDERED / folder
  crop = folder.name == "with_masks"
  chunk = joined(
    clevr_originals.read_folder(folder, 5, 15, crop=crop, image_size=128)
  )
  scenes = json.loads((folder / file).read_text())["scenes"][5:15]
  check_targets(chunk["targets"], [scene["objects"] for scene in scenes])
  images, masks = (
    [
      np.asarray(PIL.Image.open(folder / name.format(f"{i:06d}")))
      for i in range(5, 15)
    ]
    for name in names.split()
  )
  check_frame(chunk, [i[..., :3] for i in images], masks, crop, 128)
  num_objects = chunk["targets"][..., -1].sum(axis=1)
  assert (chunk["segments"].max(axis=(1, 2)) <= num_objects).all()
  # Each object is drawn at its coordinates. y grows towards the back.
  behind = np.array([-0.75449, 0.65631])
  for scene, segment in zip(scenes, masks):
    rows = [
      np.mean(np.nonzero(segment == i + 1)[0])
      for i in range(len(scene["objects"]))
    ]
    depth = [np.dot(behind, o["3d_coords"][:2]) for o in scene["objects"]]
    assert np.corrcoef(rows, depth)[0, 1] < -0.8


def test_records_with_masks_give_targets_of_visible_objects(tmp_path):
  codes = {
    "size": ["large", "small"],
    "material": ["rubber", "metal"],
    "shape": ["sphere", "cylinder", "cube"],
    "color": "red cyan green blue brown gray purple yellow".split(),
  }
  rng = np.random.default_rng(0)
  name = "clevr_with_masks"
  examples, entities, objects = [], [], []
  for num_objects in (3, 8):
    example, entity = random_example(name, rng)
    visible = np.arange(11) <= num_objects
    example["visibility"] = visible.astype(np.float32)
    scene = random_objects(rng, num_objects)
    for i, item in enumerate(scene):
      for axis, coordinate in zip("xyz", item["3d_coords"]):
        example[axis][i + 1] = coordinate
      for factor, names in codes.items():
        example[factor][i + 1] = names.index(item[factor]) + 1
    for factor in codes:
      example[factor][~visible] = 0
    examples.append(example)
    entities.append(entity.astype(np.uint8))
    objects.append(scene)
  path = tmp_path / "some.tfrecords"
  write_records(path, examples)
  (chunk,) = clevr_originals.read_with_masks(
    path, 0, 2, crop=True, image_size=128
  )
  assert set(chunk) == {"images", "targets", "segments"}
  images = [example["image"] for example in examples]
  check_frame(chunk, images, entities, crop=True, size=128)
  check_targets(chunk["targets"], objects)

  examples[1]["color"][2] = 9
  write_records(path, examples)
  with pytest.raises(ValueError, match="some.tfrecords .*color .* 1 to 8"):
    list(clevr_originals.read_with_masks(path, 0, 2, crop=True, image_size=128))


def test_objects_come_before_padding_with_their_segments(tmp_path):
  example, entities = random_example(
    "clevr_with_masks", np.random.default_rng(0)
  )
  visible = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0], np.float32)
  example["visibility"] = visible
  example["x"][:] = np.arange(11) / 4
  for factor in ("size", "material", "shape", "color"):
    example[factor] = visible.astype(np.uint8)
  path = tmp_path / "some.tfrecords"
  write_records(path, [example])
  (chunk,) = clevr_originals.read_with_masks(
    path, 0, 1, crop=True, image_size=192
  )
  (targets,), (segments,) = chunk["targets"], chunk["segments"]
  np.testing.assert_array_equal(targets[:, -1], [1, 1, 1] + [0] * 7)
  np.testing.assert_allclose(6 * targets[:3, 0] - 3, [0.25, 0.75, 1.5], 1e-5)
  true = entities[clevr.CROP_ROWS, clevr.CROP_COLUMNS]
  for place, entity in enumerate((1, 3, 6), 1):
    np.testing.assert_array_equal(segments == place, true == entity)


def test_tensorflow_datasets_need_tensorflow(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(ImportError, match="needs TensorFlow: pip install"):
    clevr_originals.read_tfds(tmp_path, 0, 1, crop=False, image_size=6)


def test_prepared_tensorflow_datasets_are_read(tmp_path, monkeypatch):
  """The builder of TensorFlow Datasets prepares a tiny CLEVR_v1.0."""
  pytest.importorskip("tensorflow")
  tfds = pytest.importorskip("tensorflow_datasets")
  source = tmp_path / "CLEVR_v1.0"
  written = [
    write_split(source, "train", 514, size=(8, 12)),
    write_split(source, "val", 3, size=(8, 12)),
  ]
  write_split(source, "test", 1, size=(8, 12))
  data_dir = tmp_path / "prepared"

  def read(start, stop):
    return clevr_originals.read_tfds(
      data_dir, start, stop, crop=False, image_size=6
    )

  with pytest.raises(
    FileNotFoundError,
    match="not prepared in .*18 GB.*download_and_prepare.*data.path.*CLEVR_v1.0"
    ".*data.source='procedural'",
  ):
    read(0, 1)
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    "download_and_extract",
    lambda self, url: str(tmp_path),
  )
  tfds.builder("clevr", data_dir=data_dir).download_and_prepare()
  chunk = joined(read(0, 5))
  assert set(chunk) == {"images", "targets"}
  # TensorFlow Datasets has its own order of examples within a split.
  all_objects = [written[0][2], written[1][2]]
  all_images = [written[0][0], written[1][0]]
  found = []
  for i in range(5):
    split = int(i >= 2)
    expected = [resized(image.astype(float), 6) for image in all_images[split]]
    errors = [np.abs(e - chunk["images"][i]).max() for e in expected]
    example = int(np.argmin(errors))
    assert errors[example] < 0.501
    check_targets(chunk["targets"][i : i + 1], [all_objects[split][example]])
    found.append((split, example))
  assert len(set(found)) == 5
  # Rounding may depend on the number of images that are resized together.
  np.testing.assert_allclose(
    joined(read(1, 4))["images"].astype(int), chunk["images"][1:4], atol=1
  )
  with pytest.raises(ValueError, match="only 5 examples, but .* is 6"):
    list(read(0, 6))
