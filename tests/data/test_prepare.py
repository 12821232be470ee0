"""Tests of the way from a config's data section to an opened data set."""

import importlib
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from slot_attention.data import datasets, loading, store

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[2] / "configs").glob("*.py")
  if path.stem not in ("__init__", "smoke", "slot_mlp")
)


def section(data_dir, **fields):
  """A config's data section."""
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


def test_data_is_prepared_once_and_each_description_apart(tmp_path):
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


def test_a_larger_set_serves_as_well_and_gives_the_same_examples(tmp_path):
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
    datasets.DataSet(10, 60, 100, generate=generate, chunk_size=20),
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
  assert 20 < np.count_nonzero(few < 60) < 40  # Not vacuous.
  train, evaluation = everything(splits["train"]), everything(splits["eval"])
  np.testing.assert_array_equal(train["images"][:, 0, 0, 0], few[few < 60])
  np.testing.assert_array_equal(
    evaluation["images"][:, 0, 0, 0], few[few >= 60][:15]
  )
  # The padding that no image needs is gone, and no object with it.
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
    loading.load(
      section(
        tmp_path,
        name="multi_dsprites_binarized",
        grayscale=True,
        procedural={"seed": 0},
      )
    )


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"name": "mnist"}, "data.name='mnist' is not one of tetrominoes, multi"),
    ({"source": "web"}, "data.source='web' is not one of procedural, original"),
    ({"num_train": -1}, "data.num_train=-1 must be at least 0"),
    ({"num_eval": 0}, "data.num_eval=0 must be at least 1"),
    ({"num_eval": 7}, "data.num_examples=26 must be at least .* = 27"),
    ({"max_objects": 2}, "only 0 after the first 20 have at most"),
    ({"colour": 1}, "config.data: colour is unknown"),
    ({"preprocessing": {"crop": True}}, "data.preprocessing: crop is unknown"),
    ({"procedural": {"size": 3}}, "procedural: seed is missing, size is unk"),
    ({"name": "objects_room_train"}, "exists only as an original"),
  ],
)
def test_bad_data_fields_are_named(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    loading.load(section(tmp_path, **fields))


def test_a_missing_field_is_named(tmp_path):
  data = section(tmp_path)
  del data["grayscale"]
  with pytest.raises(ValueError, match="config.data: grayscale is missing"):
    loading.load(data)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_a_data_section_that_is_known(name):
  data = importlib.import_module(f"configs.{name}").get_config().data
  data_set = datasets.DATA_SETS[data.name]
  assert set(data) == set(section(""))
  assert set(data.preprocessing) == set(data_set.preprocessing)
  assert data.num_train + data.num_eval <= data.num_examples
  assert data.max_objects <= data_set.max_objects


def command(*arguments):
  return [sys.executable, "-m", "slot_attention.data.prepare", *arguments]


def run(*arguments):
  return subprocess.run(
    command(*arguments), capture_output=True, text=True, check=False
  )


def test_the_command_prepares_what_a_config_needs(tmp_path):
  where = f"--config.data.data_dir={tmp_path}"
  result = run("--config=configs/smoke.py:quickstart", where)
  assert result.returncode == 0, result.stderr
  assert "first 32 (training)" in result.stdout
  assert list(tmp_path.glob("*/examples.png"))
  config = importlib.import_module("configs.smoke").get_config("quickstart")
  (prepared,) = tmp_path.iterdir()
  changed = prepared.stat().st_mtime_ns
  loading.load({**config.data, "data_dir": str(tmp_path)})
  assert prepared.stat().st_mtime_ns == changed


def test_the_command_shares_the_work_lists_it_and_checks_it(tmp_path):
  where = f"--data_dir={tmp_path}"
  arguments = ["tetrominoes", "--num_examples=2500", where]
  for shard in ("2/3", "0/3"):
    result = run(*arguments, f"--shard={shard}")
    assert "This part is done" in result.stdout, result.stderr
  result = run(*arguments, "--shard=1/3")
  assert "first 2,500 (training)" in result.stdout, result.stderr
  assert "2,500 examples" in run("--list", where).stdout
  assert "ok" in run("--check", where).stdout

  (directory,) = tmp_path.iterdir()
  whole = store.read(
    loading.prepare(
      section(tmp_path / "whole", num_examples=2_500, procedural={"seed": 0})
    )
  )
  shared = store.read(directory)
  np.testing.assert_array_equal(shared.arrays["images"], whole.arrays["images"])
  images = directory / "images.npy"
  images.write_bytes(images.read_bytes()[:-1])
  result = run("--check", where)
  assert result.returncode == 1 and "is damaged" in result.stdout


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([], "give one name of a data set"),
    (["mnist"], "name='mnist' is not one of tetrominoes"),
    (["tetrominoes", "--shard=3/3"], "--shard=3/3 must be like 3/16"),
    (["tetrominoes", "--source=web"], "source='web' is not one of"),
    (["tetrominoes", "--speed=9"], "Unknown command line flag 'speed'"),
    (
      ["tetrominoes", "--source=original", "--path=nowhere.tfrecords"],
      "nowhere.tfrecords",
    ),
    (
      ["clevr", "--source=original", "--path=nowhere"],
      "nowhere",
    ),
  ],
)
def test_the_command_ends_with_one_message(tmp_path, arguments, words):
  result = run(*arguments, f"--data_dir={tmp_path}")
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith("error: ")
  assert words in result.stderr.splitlines()[-1]
  assert "Traceback" not in result.stderr
  assert not list(tmp_path.glob("[!.]*"))
