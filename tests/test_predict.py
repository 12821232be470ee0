"""Tests of predictions for images of the user."""

import json

import numpy as np
import PIL.Image
import pytest

import configs
from configs import clevr6_object_discovery, multi_dsprites_object_discovery
from slot_attention import predict, pretrained, visualization
from slot_attention.data import clevr
from tests.runs import make_run


def save(path, pixels):
  PIL.Image.fromarray(pixels).save(path)
  return path


def noise(*shape):
  return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(name="small_clevr", scope="module")
def _small_clevr(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("predict") / "run"
  return make_run(workdir, "clevr_set_prediction_small")


def test_the_quickstart_segments_enlarged_images_of_any_size(tmp_path):
  """The images are its examples with pixels of 7 x 5, in two formats."""
  examples = pretrained.load_examples("quickstart")
  paths = [
    save(tmp_path / name, image.repeat(7, 0).repeat(5, 1))
    for name, image in zip(("a.png", "b.bmp"), examples["images"])
  ]
  predict.main(
    ["--pretrained=quickstart", f"--to={tmp_path}/out", *map(str, paths)]
  )
  for i, name in enumerate("ab"):
    folder = tmp_path / "out" / name
    segments = np.asarray(PIL.Image.open(folder / "segments.png"))
    assert segments.shape == (7 * 16, 5 * 16) and segments.min() >= 1
    true = examples["segments"][i].repeat(7, 0).repeat(5, 1)
    winners = []
    for thing in (1, 2, 3):  # Most of each object is in one slot.
      counts = np.bincount(segments[true == thing])
      assert counts.max() > 0.7 * counts.sum()
      winners.append(counts.argmax())
    assert len(set(winners)) == 3
    for picture in ("slots.png", "attention.png"):
      with PIL.Image.open(folder / picture) as drawn:
        assert drawn.size[0] > 300
    with np.load(folder / "outputs.npz", allow_pickle=False) as outputs:
      assert outputs["masks"].shape == (4, 16, 16, 1)
      np.testing.assert_array_equal(
        outputs["masks"][..., 0].argmax(0) + 1, segments[3::7, 2::5]
      )


def test_set_prediction_describes_the_objects_of_an_image(
  small_clevr, tmp_path
):
  path = save(tmp_path / "photo.png", noise(37, 53, 3))
  predict.main(
    [
      f"--workdir={small_clevr}",
      f"--to={tmp_path}/out",
      "--num_slots=4",
      "--num_iterations=2",
      str(path),
    ]
  )
  folder = tmp_path / "out" / "photo"
  objects = json.loads((folder / "predictions.json").read_text())
  assert len(objects) == 4
  sure = [thing["is_object"] for thing in objects]
  assert sure == sorted(sure, reverse=True)
  for thing in objects:
    assert thing["color"] in clevr.PROPERTIES["color"]
    assert all(-3 <= x <= 3 for x in thing["xyz"])
  with np.load(folder / "outputs.npz") as outputs:
    assert outputs["attn"].shape[::2] == (2, 4)


def test_predictions_are_described_by_words_and_scene_units():
  thing = np.zeros((1, 19), np.float32)
  thing[0, :3] = (0.5, 1, 0)
  thing[0, [4, 5, 8, 17, 18]] = 0.9  # large rubber sphere cyan
  (words,) = predict.describe(thing)
  assert words == {
    "is_object": 0.9,
    "size": "large",
    "material": "rubber",
    "shape": "sphere",
    "color": "cyan",
    "xyz": [0, 3, -3],
  }


def test_images_are_framed_as_those_of_the_training():
  config = clevr6_object_discovery.get_config()
  image = noise(240, 320, 3)
  batch = predict.frame(config, [image])
  expected = clevr.frame(image[None], crop=True, image_size=128)
  np.testing.assert_array_equal(batch["images"], expected)
  # In an image of twice the size, the crop is the same part.
  rows, columns = predict.crop(config, 480, 640)
  assert (rows, columns) == (slice(58, 442), slice(128, 512))
  # Pixels outside the crop belong to no slot.
  masks = np.zeros((5, 128, 128, 1))
  masks[2] = 1
  segments = predict.segment(config, masks, 240, 320)
  assert (segments[29:221, 64:256] == 3).all()
  assert np.count_nonzero(segments) == 192 * 192

  # Small CLEVR stretches the values from 24 to 125.
  config = pretrained.load("clevr_small").config
  batch = predict.frame(config, [np.full((240, 320, 3), 75, np.uint8)])
  assert (batch["images"] == round(255 * (75 - 24) / (125 - 24))).all()
  config.data.source = "original"
  batch = predict.frame(config, [np.full((240, 320, 3), 75, np.uint8)])
  assert (batch["images"] == 75).all()

  config = multi_dsprites_object_discovery.get_config()
  batch = predict.frame(config, [noise(64, 64, 3), noise(9, 200, 3)])
  np.testing.assert_array_equal(batch["images"][0], noise(64, 64, 3))
  assert batch["images"].shape == (2, 64, 64, 3)
  config.data.grayscale, config.model.decoder.channels = True, 1
  gray = predict.frame(config, [np.full((3, 3, 3), (255, 0, 0), np.uint8)])
  assert gray["images"].shape == (1, 64, 64, 1)
  assert (gray["images"] == 76).all()  # 0.299 of 255.


def test_unreadable_files_are_named_and_nothing_is_written(tmp_path):
  good = save(tmp_path / "good.png", noise(40, 40, 3))
  text = tmp_path / "text.png"
  text.write_text("no image")
  cut = tmp_path / "cut.png"
  cut.write_bytes(good.read_bytes()[:900])
  out = tmp_path / "out"
  for bad, words in (
    (text, "text.png is not an image that Pillow knows"),
    (cut, "cut.png cannot be read: .*truncated"),
    (tmp_path / "none.png", "none.png cannot be read: No such file"),
    (tmp_path, "cannot be read: Is a directory"),
  ):
    with pytest.raises(ValueError, match=words):
      predict.main(
        ["--pretrained=quickstart", f"--to={out}", str(good), str(bad)]
      )
  with pytest.raises(ValueError, match="several images are called good"):
    predict.main(["--pretrained=quickstart", str(good), "elsewhere/good.png"])
  with pytest.raises(
    ValueError,
    match="num_slots=0: 0 is not a positive integer",
  ):
    predict.main(
      ["--pretrained=quickstart", f"--to={out}", "--num_slots=0", str(good)]
    )
  assert not out.exists()


def test_only_the_files_of_the_last_model_remain(tmp_path):
  examples = pretrained.load_examples("quickstart")
  path = save(tmp_path / "a.png", examples["images"][0])
  arguments = [f"--to={tmp_path}", str(path)]
  mine = tmp_path / "a" / "notes.txt"
  mine.parent.mkdir()
  mine.touch()
  predict.main(["--pretrained=quickstart", *arguments])
  assert (tmp_path / "a" / "segments.png").exists()
  predict.main(["--pretrained=clevr_set_prediction_small", *arguments])
  assert {x.name for x in mine.parent.iterdir()} == {
    "notes.txt", "attention.png", "outputs.npz", "predictions.json",
  }  # fmt: skip
  with pytest.raises(ValueError, match="at most 255 slots, and there are 256"):
    predict.segment(clevr6_object_discovery.get_config(), [0] * 256, 9, 9)


def test_models_of_binary_images_see_black_and_white():
  config = configs.load("nem:multi_dsprites_binarized_small")
  images = predict.frame(config, [noise(50, 70, 3)])["images"]
  assert images.dtype == np.uint8 and set(np.unique(images)) == {0, 255}


def test_the_segments_have_the_colors_of_the_slots(tmp_path):
  examples = pretrained.load_examples("quickstart")
  path = save(tmp_path / "a.png", examples["images"][0])
  predict.main(["--pretrained=quickstart", f"--to={tmp_path}", str(path)])
  picture = PIL.Image.open(tmp_path / "a" / "segments.png")
  colors = np.asarray(picture.convert("RGB")) / 255
  expected = visualization.slot_colors(4)[np.asarray(picture) - 1]
  np.testing.assert_allclose(colors, expected, atol=0.003)
