"""Tests of opening the data set that a config describes."""

import dataclasses
import sys

import numpy as np
import pytest

from slot_attention.data import datasets, loading, multi_object_records


def section(data_dir, **fields):
  """Makes the data section of a config."""
  return {
    "name": "tetrominoes",
    "source": "procedural",
    "path": "",
    "data_dir": str(data_dir),
    "num_examples": 26,
    "num_train": 20,
    "num_eval": 6,
    "max_objects": 3,
    "grayscale": False,
    "preprocessing": {},
    "procedural": {"seed": 0, "image_size": 20, "block_size": 3},
    **fields,
  }


def everything(split):
  return split.take(np.arange(len(split)))


def folders(data_dir):
  return sorted(path.name for path in data_dir.iterdir())


def test_every_description_of_data_is_prepared_once(tmp_path):
  data = loading.load(section(tmp_path))
  assert everything(data.splits["train"])["images"].shape == (20, 20, 20, 3)
  assert everything(data.splits["eval"])["segments"].shape == (6, 20, 20)
  (first,) = tmp_path.iterdir()
  changed = first.stat().st_mtime_ns
  loading.load(section(tmp_path))
  assert folders(tmp_path) == [first.name]
  assert first.stat().st_mtime_ns == changed
  other = section(tmp_path)["procedural"] | {"seed": 1}
  loading.load(section(tmp_path, procedural=other))
  assert len(folders(tmp_path)) == 2


def test_a_larger_set_is_used_and_has_the_same_examples(tmp_path):
  small = loading.load(section(tmp_path / "small"))
  loading.load(section(tmp_path / "large", num_examples=1_200))
  large = loading.load(section(tmp_path / "large"))
  assert len(folders(tmp_path / "large")) == 1
  for split in ("train", "eval"):
    np.testing.assert_array_equal(
      everything(small.splits[split])["images"],
      everything(large.splits[split])["images"],
    )


def test_options_that_are_left_out_have_the_generators_defaults(tmp_path):
  loading.load(section(tmp_path))
  explicit = {**section(tmp_path)["procedural"], "min_gap": 0, "background": 0}
  loading.load(section(tmp_path, procedural=explicit))
  assert len(folders(tmp_path)) == 1


def test_a_new_option_leaves_the_names_of_prepared_sets(tmp_path, monkeypatch):
  loading.load(section(tmp_path))

  def generate(
    chunk, *, seed, image_size: int = 35, block_size: int = 5, new: bool = False
  ):
    del image_size, block_size
    pytest.fail(f"drew chunk {chunk} with seed={seed}, new={new}")

  changed = dataclasses.replace(
    datasets.DATA_SETS["tetrominoes"],
    generate=generate,
    check_options=lambda **_: None,
  )
  monkeypatch.setitem(datasets.DATA_SETS, "tetrominoes", changed)
  loading.load(section(tmp_path))
  assert len(folders(tmp_path)) == 1


def test_images_with_more_objects_are_left_out_of_both_splits(
  tmp_path, monkeypatch
):
  num_objects = np.random.default_rng(0).integers(3, 11, 100)
  is_object = np.arange(10) < num_objects[:, None]
  targets = np.repeat(is_object[..., None], 19, -1).astype(np.float32)

  def generate(chunk, *, seed):
    examples = np.arange(chunk * 20, (chunk + 1) * 20, dtype=np.uint8)
    return {
      "images": np.broadcast_to(examples[:, None, None, None], (20, 2, 2, 3)),
      "targets": targets[examples],
    }

  monkeypatch.setitem(
    datasets.DATA_SETS,
    "scenes",
    datasets.DataSet((2, 2, 3), 10, 60, 100, generate=generate, chunk_size=20),
  )
  data = section(
    tmp_path,
    name="scenes",
    num_examples=100,
    num_train=60,
    num_eval=15,
    max_objects=6,
    procedural={"seed": 0},
  )
  splits = loading.load(data).splits
  few = np.flatnonzero(num_objects <= 6)
  assert 20 < np.count_nonzero(few < 60) < 40  # The test is not vacuous.
  train, evaluation = everything(splits["train"]), everything(splits["eval"])
  np.testing.assert_array_equal(train["images"][:, 0, 0, 0], few[few < 60])
  np.testing.assert_array_equal(
    evaluation["images"][:, 0, 0, 0], few[few >= 60][:15]
  )
  # Rows of targets that are padding in all images are removed.
  assert train["targets"].shape[1:] == (6, 19)
  np.testing.assert_array_equal(
    train["targets"][..., -1].sum(1), num_objects[few[few < 60]]
  )
  with pytest.raises(ValueError, match="only .* data.num_eval=39 needs"):
    loading.load({**data, "num_eval": 39})
  everyone = loading.load({**data, "max_objects": 10, "num_eval": 40}).splits
  assert len(everyone["train"]) == 60 and len(everyone["eval"]) == 40


def test_grayscale_turns_color_into_one_channel(tmp_path):
  color = loading.load(section(tmp_path))
  gray = loading.load(section(tmp_path, grayscale=True))
  assert color.image_shape == (20, 20, 3) and gray.image_shape == (20, 20, 1)
  assert len(folders(tmp_path)) == 1
  with pytest.raises(ValueError, match="grayscale=True: .* has no colours"):
    datasets.check_data(
      section(
        tmp_path,
        name="multi_dsprites_binarized",
        grayscale=True,
        procedural={"seed": 0},
      )
    )


def test_too_few_images_with_few_enough_objects_are_counted(tmp_path):
  with pytest.raises(
    ValueError, match="only 0 after the first 20 have at most"
  ):
    loading.load(section(tmp_path, max_objects=2))


def test_a_missing_tensorflow_is_named_before_anything_is_downloaded(
  tmp_path, monkeypatch
):
  def download(*_):
    raise AssertionError("the download has started")

  monkeypatch.setitem(sys.modules, "tensorflow", None)
  monkeypatch.setattr(multi_object_records, "download", download)
  data = section(tmp_path, source="original")
  with pytest.raises(ImportError, match="needs TensorFlow: pip install"):
    loading.prepare(data)
