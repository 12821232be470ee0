"""Tests of reading image files, a single one and a folder of them."""

import io
import os
import struct

from ml_collections import ConfigDict
import numpy as np
import PIL.Image
import pytest

import configs
from slot_attention import predict
from slot_attention.data import datasets, image_files, loading, prepare
from tests.data.test_loading import section


def save(path, pixels):
  PIL.Image.fromarray(pixels).save(path)
  return path


def noise(*shape):
  return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_folder(folder, number, masks=None):
  """Writes images of different sizes, and masks with up to four objects."""
  for i in range(number):
    place = folder / "ab"[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    save(place / f"{i:03}.png", noise(20 + i, 30, 3))
    if masks is not None:
      place = masks / "ab"[i % 2]
      place.mkdir(parents=True, exist_ok=True)
      save(place / f"{i:03}.png", np.full((20 + i, 30), i % 5, np.uint8))


def folder_section(tmp_path, path, **fields):
  return section(
    tmp_path / "data",
    **{
      "name": "image_folder",
      "source": "original",
      "path": str(path),
      "num_examples": 5,
      "num_train": 3,
      "num_eval": 2,
      "preprocessing": {"image_size": 16},
      "procedural": {},
      **fields,
    },
  )


def test_images_are_read_in_any_mode_and_upright(tmp_path):
  pixels = noise(6, 4, 3)
  for name, image in (
    ("rgb", PIL.Image.fromarray(pixels)),
    ("rgba", PIL.Image.fromarray(pixels).convert("RGBA")),
  ):
    image.save(tmp_path / f"{name}.png")
    read = image_files.read_image(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read, pixels)
  turned = PIL.Image.fromarray(np.rot90(pixels))
  exif = turned.getexif()
  exif[0x0112] = 6  # The orientation: rotate by 90 degrees clockwise.
  turned.save(tmp_path / "turned.png", exif=exif)
  np.testing.assert_array_equal(
    image_files.read_image(tmp_path / "turned.png"), pixels
  )
  gray = save(tmp_path / "gray.png", pixels[..., 0])
  assert image_files.read_image(gray).shape == (6, 4, 3)


def test_images_of_every_depth_and_mode_are_read_as_they_look(tmp_path):
  gray = np.array([[0, 1, 128], [200, 254, 255]], np.uint8)
  rgb = np.repeat(gray[..., None], 3, axis=-1)
  deep = gray.astype(np.uint16) * 257
  for name, image, tolerance in (
    ("deep.png", PIL.Image.fromarray(deep), 0),
    ("deep.tif", PIL.Image.fromarray(deep), 0),
    ("ints.tif", PIL.Image.fromarray(deep.astype(np.int32)), 0),
    ("palette.png", PIL.Image.fromarray(gray).convert("P"), 0),
    ("cmyk.tif", PIL.Image.fromarray(rgb).convert("CMYK"), 1),
    ("black_and_white.png", PIL.Image.fromarray(gray > 127), 128),
  ):
    image.save(tmp_path / name)
    read = image_files.read_image(tmp_path / name).astype(int)
    assert read.dtype == int and read.shape == (2, 3, 3)
    np.testing.assert_allclose(read, rgb, atol=tolerance, err_msg=name)

  alpha = np.array([[0, 128, 255], [0, 128, 255]], np.uint8)
  dark = np.dstack([np.zeros((2, 3, 3), np.uint8), alpha])
  PIL.Image.fromarray(dark).save(tmp_path / "alpha.png")
  read = image_files.read_image(tmp_path / "alpha.png")
  np.testing.assert_array_equal(read[0, :, 0], [255, 127, 0])

  for pixels, words in (
    (np.full((2, 3), 0.5, np.float32), "floating point numbers, of unknown"),
    (np.full((2, 3), 70_000, np.int32), "32 bits, of unknown range"),
  ):
    path = tmp_path / "unknown.tif"
    PIL.Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=f"unknown.tif cannot be .*{words}"):
      image_files.read_image(path)


def test_a_file_that_is_not_on_this_disk_is_read_and_named(tmp_path):
  content = save(tmp_path / "a.png", noise(5, 4, 3)).read_bytes()
  pixels = image_files.read_image("b.png", io.BytesIO(content))
  np.testing.assert_array_equal(pixels, noise(5, 4, 3))
  with pytest.raises(ValueError, match="b.png cannot be read: .*truncated"):
    image_files.read_image("b.png", io.BytesIO(content[:60]))


def test_a_folder_of_images_is_a_data_set_in_the_order_of_paths(tmp_path):
  folder = tmp_path / "photos"
  write_folder(folder, 5)
  (folder / "notes.txt").write_text("no image")
  (folder / ".hidden.png").write_text("no image")
  (folder / "folder.png").mkdir()
  data = folder_section(tmp_path, folder)
  datasets.check_data(data)
  splits = loading.load(data).splits
  assert (len(splits["train"]), len(splits["eval"])) == (3, 2)
  (batch,) = image_files.read_folder(folder, 0, 5, image_size=16)
  assert set(batch) == {"images"} and batch["images"].shape == (5, 16, 16, 3)
  config = configs.load("image_folder_object_discovery")
  config.data = ConfigDict(data)
  names = ["a/000", "a/002", "a/004", "b/001", "b/003"]
  for name, image in zip(names, batch["images"], strict=True):
    whole = image_files.read_image(folder / f"{name}.png")
    squashed = predict.frame(config, [whole])["images"][0]
    np.testing.assert_array_equal(image, squashed)
  np.testing.assert_array_equal(
    splits["eval"].take(np.arange(2))["images"], batch["images"][3:]
  )


def test_links_to_folders_are_followed_once(tmp_path):
  write_folder(tmp_path / "a", 3, masks=tmp_path / "b")
  folder = tmp_path / "photos"
  folder.mkdir()
  (folder / "images").symlink_to(tmp_path / "a")
  (folder / "masks").symlink_to(tmp_path / "b")
  (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
  assert image_files.count(folder) == 3
  first = image_files.fingerprint(folder)
  assert image_files.fingerprint(folder) == first
  path = min((tmp_path / "a").rglob("*.*"))
  os.utime(path, ns=(0, 0))
  assert image_files.fingerprint(folder) != first


def test_names_of_files_need_not_be_utf_8(tmp_path):
  write_folder(tmp_path, 1)
  before = image_files.fingerprint(tmp_path)
  (path,) = (x for x in tmp_path.rglob("*") if x.is_file())
  os.rename(path, os.fsencode(tmp_path) + b"/caf\xe9.png")
  assert image_files.count(tmp_path) == 1
  assert image_files.fingerprint(tmp_path) != before


@pytest.mark.parametrize(
  "kind", [struct.error, RuntimeError, TypeError, AttributeError, MemoryError]
)
def test_whatever_a_decoder_raises_names_the_image(kind, tmp_path, monkeypatch):
  path = save(tmp_path / "a.png", noise(5, 4, 3))

  def fail(image):
    raise kind("unpack requires a buffer of 8 bytes")

  monkeypatch.setattr(image_files.PIL.ImageOps, "exif_transpose", fail)
  with pytest.raises(ValueError, match="a.png cannot be read: unpack requires"):
    image_files.read_image(path)


def test_prepared_data_does_not_become_training_images(tmp_path):
  data = folder_section(tmp_path, tmp_path)
  with pytest.raises(ValueError, match="data.path=.* holds data.data_dir="):
    datasets.check_data(data)
  datasets.check_data(folder_section(tmp_path, tmp_path / "dat"))


def test_masks_of_a_folder_give_segments_and_numbers_of_objects(tmp_path):
  folder = tmp_path / "photos"
  write_folder(folder / "images", 5, masks=folder / "masks")
  data = folder_section(tmp_path, folder, num_train=2, max_objects=3)
  split = loading.load({**data, "num_eval": 2}).splits["eval"]
  # In the order of paths the numbers of objects are 0, 2, 4, 1 and 3.
  np.testing.assert_array_equal(split.num_objects, [1, 3])
  segments = split.take(np.arange(2))["segments"]
  np.testing.assert_array_equal(segments, np.full((2, 16, 16), [[[1]], [[3]]]))


def test_a_folder_is_prepared_whole_by_its_name(tmp_path, capsys):
  folder = tmp_path / "photos"
  write_folder(folder / "images", 5, masks=folder / "masks")
  prepare.main(
    [
      "image_folder",
      "--source=original",
      f"--path={folder}",
      f"--data_dir={tmp_path / 'data'}",
    ]
  )
  assert "images    uint8 (5, 128, 128, 3)" in capsys.readouterr().out


def test_folders_are_read_in_any_parts(tmp_path, monkeypatch):
  write_folder(tmp_path, 5)
  (whole,) = image_files.read_folder(tmp_path, 0, 5, image_size=8)
  monkeypatch.setattr(image_files, "CHUNK_SIZE", 2)
  chunks = list(image_files.read_folder(tmp_path, 0, 5, image_size=8))
  assert [len(chunk["images"]) for chunk in chunks] == [2, 2, 1]
  part = list(image_files.read_folder(tmp_path, 2, 5, image_size=8))
  np.testing.assert_array_equal(
    np.concatenate([chunk["images"] for chunk in part]), whole["images"][2:]
  )


def test_errors_of_folders_name_the_file_and_what_is_wrong(tmp_path):
  folder = tmp_path / "photos"
  write_folder(folder / "images", 3, masks=folder / "masks")

  def read(path=folder, stop=3):
    return list(image_files.read_folder(path, 0, stop, image_size=8))

  with pytest.raises(FileNotFoundError, match="there is no folder .*other"):
    read(tmp_path / "other")
  with pytest.raises(ValueError, match="only 3 images, but .* is 4"):
    read(stop=4)
  save(folder / "masks" / "b" / "001.png", noise(21, 30, 3))
  with pytest.raises(ValueError, match="b/001.png.*one channel .* not RGB"):
    read()
  save(folder / "masks" / "b" / "001.png", noise(30, 21))
  with pytest.raises(ValueError, match="b/001.png has 30x21 .*has 21x30"):
    read()
  (folder / "masks" / "b" / "001.png").unlink()
  with pytest.raises(FileNotFoundError, match="mask .*b/001.png is missing"):
    read()
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="there is no image in .*empty"):
    image_files.count(tmp_path / "empty")
  data = folder_section(tmp_path, "")
  with pytest.raises(ValueError, match="data.path='' must name the folder"):
    datasets.check_data(data)
