"""Tests of the images of the page to explore slots."""

import types

from ml_collections import ConfigDict
import numpy as np
import pytest

import configs
from slot_attention import pretrained
from slot_attention.data import loading, multi_dsprites
from slot_attention.explore import scenes
from slot_attention.explore.weights import Weights
from tests.runs import make_run


def config_of(name):
  return configs.load(f"smoke:{name}")


def num_objects(batch):
  return len(np.unique(batch["segments"])) - 1


@pytest.mark.parametrize(
  "name, factor, counts",
  [
    ("quickstart", "num_objects", (1, 2, 4)),
    ("multi_dsprites_object_discovery", "num_sprites", (2, 3, 5)),
    ("clevr_set_prediction_small", "num_objects", (1, 4)),
  ],
)
def test_a_scene_has_as_many_objects_as_were_asked_for(name, factor, counts):
  config = config_of(name)
  size = scenes.datasets.image_shape(config.data)
  assert scenes.factors(config)[0].name == factor
  for count in counts:
    batch = scenes.draw(config, 3, {factor: count})
    again = scenes.draw(config, 3, {factor: count})
    other = scenes.draw(config, 4, {factor: count})
    np.testing.assert_array_equal(batch["images"], again["images"])
    assert (batch["images"] != other["images"]).any()
    assert batch["images"].shape == (1, *size)
    if "targets" in batch:
      assert batch["targets"][0, :, -1].sum() == count
    else:  # A sprite that is turned can hide another one.
      assert num_objects(batch) == count


def test_factors_change_what_is_drawn():
  config = config_of("quickstart")
  gray = scenes.draw(config, 0, {"background": 50})
  background = gray["images"][gray["segments"] == 0]
  assert (background == 50).all()
  # Shape 1 is the line of four blocks.
  line = scenes.draw(config, 0, {"num_objects": 1, "shape": 1})
  rows, columns = np.nonzero(line["segments"][0])
  block = config.data.procedural.block_size
  assert np.ptp(rows) + 1 == block and np.ptp(columns) + 1 == 4 * block

  config = config_of("clevr_set_prediction_small")
  names = [factor.name for factor in scenes.factors(config)]
  assert names == ["num_objects", "shape", "material", "color"]
  batch = scenes.draw(config, 0, {"num_objects": 3, "color": 2})
  colors = batch["targets"][0, :3, 10:18]
  np.testing.assert_array_equal(colors.argmax(-1), [1, 1, 1])

  config = config_of("multi_dsprites_object_discovery")
  one_size = scenes.draw(config, 0, {"num_sprites": 2, "scale": 1, "shape": 1})
  segments = one_size["segments"]
  assert np.bincount(segments.ravel())[1:].max() <= 10 * 10  # Half of 19.2.


def test_new_sprites_have_the_options_of_the_run():
  config = config_of("multi_dsprites_binarized_small")
  number = scenes.factors(config)[0]
  assert number.default == number.high == multi_dsprites.MOST_APART
  options = {}

  def sample(rng, num_scenes, **given):
    options.update(given)
    return multi_dsprites_sample(rng, num_scenes, **given)

  multi_dsprites_sample = multi_dsprites.sample
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(multi_dsprites, "sample", sample)
    assert num_objects(scenes.draw(config, 0, {})) == number.default
  assert options.pop("may_overlap") is False
  config = config_of("multi_dsprites_object_discovery")
  config.data.procedural = ConfigDict({"seed": 0, "num_sprites": 2})
  assert scenes.factors(config)[0].default == 2


def test_new_scenes_of_clevr_have_the_options_of_the_run():
  config = config_of("clevr_set_prediction_small")
  dark = scenes.draw(config, 1, {"num_objects": 3})
  config.data.procedural.update(
    only_large=True, distinct_colors=True, black_level=0, white_level=100
  )
  assert scenes.factors(config)[0].high == 8  # One object of each colour.
  batch = scenes.draw(config, 1, {"num_objects": 8})
  is_large = batch["targets"][0, :8, 4]
  colors = batch["targets"][0, :8, 10:18].argmax(-1)
  assert is_large.all() and sorted(colors) == list(range(8))
  assert batch["images"].mean() > 1.5 * dark["images"].mean()


def test_new_scenes_have_as_many_rows_of_targets_as_in_training():
  config = config_of("clevr_set_prediction_small")
  assert config.data.max_objects == 6
  for count in (3, 8):
    batch = scenes.draw(config, 0, {"num_objects": count})
    assert batch["targets"].shape == (1, max(count, 6), 19)


def test_a_scene_that_cannot_be_drawn_is_named():
  config = config_of("quickstart")
  for values, words in (
    ({"num_objects": 7}, "num_objects=7 must be from 1 to 6"),
    ({"shape": 20}, "shape=20 must be from 0 to 19"),
    ({"size": 1}, "size is not one of num_objects, shape"),
    ({"num_objects": 6, "block_size": 6}, "has too little room"),
  ):
    with pytest.raises(ValueError, match=words):
      scenes.draw(config, 0, values)
  config.data.procedural.num_objects = 8
  assert scenes.factors(config)[0][2:5] == (8, 1, 8)
  config.data.name, config.data.source = "objects_room_train", "original"
  assert scenes.factors(config) == []
  with pytest.raises(ValueError, match="no generator of objects_room_train"):
    scenes.draw(config, 0, {})


def test_examples_are_those_of_the_weights_or_drawn_for_a_run(tmp_path):
  known = scenes.examples(Weights("quickstart", None))
  expected = pretrained.load_examples("quickstart")
  assert len(known) == len(expected["images"])
  np.testing.assert_array_equal(known[5]["images"][0], expected["images"][5])
  np.testing.assert_array_equal(
    known[5]["segments"][0], expected["segments"][5]
  )
  run = Weights(None, str(make_run(tmp_path / "run", "quickstart")))
  drawn = scenes.examples(run)
  assert len({x["images"].tobytes() for x in drawn}) == len(drawn) == 12


def test_data_without_a_generator_gives_prepared_examples_or_grey(
  config, monkeypatch, tmp_path
):
  monkeypatch.setattr(scenes, "factors", lambda config: [])
  run = types.SimpleNamespace(config=config)
  weights = types.SimpleNamespace(is_shipped=False, run=run)
  split = loading.load(config.data).splits["eval"]
  known = scenes.examples(weights)
  assert len(known) == len(split) == 6
  expected = split.take(np.array([4]))
  for name in ("images", "segments"):
    np.testing.assert_array_equal(known[4][name], expected[name])
  config.data.data_dir = str(tmp_path)
  # Another set of the same name is none of the run.
  (tmp_path / "tetrominoes-procedural-deadbeef-99").mkdir()
  (grey,) = scenes.examples(weights)
  assert grey["images"].shape == (1, 12, 12, 3)
  assert (grey["images"] == 128).all() and len([*tmp_path.iterdir()]) == 1
  config.data.name, config.data.source = "image_folder", "original"
  config.data.path = str(tmp_path / "gone")
  config.data.preprocessing = ConfigDict({"image_size": 12})
  (grey,) = scenes.examples(weights)
  assert grey["images"].shape == (1, 12, 12, 3)


def test_an_image_of_another_kind_differs_by_a_statistic():
  known = scenes.examples(Weights("quickstart", None))
  config = config_of("quickstart")
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
  differs = scenes.difference(known, scenes.own(config, photo))
  assert differs.startswith("its brightness is 0.5")
  white = np.full((9, 9, 3), 255, np.uint8)
  assert "theirs are" in scenes.difference(known, scenes.own(config, white))
  for batch in known:  # Enlarged, they are still of their kind.
    large = batch["images"][0].repeat(7, 0).repeat(5, 1)
    assert not scenes.difference(known, scenes.own(config, large))
  for seed in range(5):
    assert not scenes.difference(known, scenes.draw(config, seed, {}))
  assert not scenes.difference([], scenes.own(config, photo))
