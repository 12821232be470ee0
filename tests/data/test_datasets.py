"""Tests of the check of a config's data section."""

import dataclasses
import hashlib

import numpy as np
import pytest

import configs
from slot_attention.data import clevr_scenes, datasets, loading
from tests.data.test_loading import section


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"name": "mnist"}, "data.name='mnist' is not one of tetrominoes, multi"),
    ({"source": "web"}, "data.source='web' is not one of procedural, original"),
    ({"num_train": -1}, "data.num_train=-1 must be at least 0"),
    ({"num_eval": 0}, "data.num_eval=0 must be at least 1"),
    ({"num_eval": 7}, "data.num_examples=26 must be at least .* = 27"),
    ({"num_examples": "26"}, "data.num_examples='26' must be of type int"),
    ({"colour": 1}, "config.data: colour is unknown"),
    ({"preprocessing": {"crop": True}}, "data.preprocessing: crop is unknown"),
    ({"procedural": {"size": 3}}, "procedural: seed is missing, size is unk"),
    ({"name": "objects_room_train"}, "exists only as an original"),
    ({"max_objects": 2}, "data.max_objects=2 leaves no image: .* least 3"),
  ],
)
def test_bad_data_fields_are_named(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    datasets.check_data(section(tmp_path, **fields))


@pytest.mark.parametrize("name", ["multi_dsprites_colored_on_colored", "clevr"])
def test_the_fewest_objects_that_are_drawn_are_known(name):
  data_set = datasets.DATA_SETS[name]
  options = {key: x.default for key, x in data_set.options.items()}
  assert data_set.fewest_objects(options) == {"clevr": 3}.get(name, 1)
  fixed = {"num_sprites": 4, "min_objects": 4}
  assert data_set.fewest_objects({**options, **fixed}) == 4


def test_a_missing_field_is_named(tmp_path):
  data = section(tmp_path)
  del data["grayscale"]
  with pytest.raises(ValueError, match="config.data: grayscale is missing"):
    datasets.check_data(data)


@pytest.mark.parametrize(
  "name",
  sorted(
    set(configs.names())
    - {
      "smoke",
      "slot_mlp",
      "iodine",
      "monet",
      "nem",
      "dspn",
      "invariant",
      "mesh",
      "adaslot",
    }
  ),
)
def test_every_config_has_a_data_section_that_is_known(name):
  data = configs.load(name).data
  datasets.check_data(data)
  assert data.max_objects <= datasets.DATA_SETS[data.name].max_objects


def test_the_image_shape_is_that_of_the_images(tmp_path):
  for fields in (
    {},
    {"procedural": {"seed": 0}},
    {"grayscale": True},
    {"name": "multi_dsprites_binarized", "procedural": {"seed": 0}},
    {"name": "moving_sprites", "procedural": {"seed": 0}},
    {
      "name": "moving_sprites",
      "procedural": {"seed": 0, "image_size": 16, "num_frames": 3},
      "grayscale": True,
    },
  ):
    data = section(tmp_path, **fields)
    assert datasets.image_shape(data) == loading.load(data).image_shape


def digest_of(arrays):
  digest = hashlib.sha256()
  for name in sorted(arrays):
    digest.update(np.ascontiguousarray(arrays[name]).data)
  return digest.hexdigest()[:16]


# Version and digest of the first chunk, with seed 0.
FIRST_CHUNKS = {
  "tetrominoes": (1, "371e5fa7c4dc4eab"),
  "multi_dsprites_binarized": (1, "dae3df92fba4acab"),
  "multi_dsprites_colored_on_grayscale": (1, "c47c053d165f3c86"),
  "multi_dsprites_colored_on_colored": (1, "b3d6f070e1177b43"),
  "moving_sprites": (1, "1a172612e0556871"),
}
# Version, digest of the targets, and mean of each of the first images.
FIRST_SCENES = {
  "clevr_with_masks": (
    1,
    "0eb1d8f4fede4c7e",
    [103.22, 115.82, 103.74, 111.66],
  ),
  "clevr": (1, "0eb1d8f4fede4c7e", [107.58, 117.02, 107.66, 115.76]),
}


def test_every_procedural_data_set_has_a_version_and_a_digest():
  assert {*FIRST_CHUNKS, *FIRST_SCENES} == {
    name for name, x in datasets.DATA_SETS.items() if x.generate is not None
  }


@pytest.mark.parametrize("name", FIRST_CHUNKS)
def test_a_changed_generator_has_a_new_version(name):
  data_set = datasets.DATA_SETS[name]
  drawn = data_set.generate(0, seed=0, **data_set.fixed)
  version = data_set.generator_version
  assert (version, digest_of(drawn)) == FIRST_CHUNKS[name], (
    "the generator draws something else: raise its generator_version in"
    " slot_attention/data/datasets.py, and write version and digest here"
  )


@pytest.mark.parametrize("name", FIRST_SCENES)
def test_a_changed_renderer_has_a_new_version(name, monkeypatch):
  monkeypatch.setattr(clevr_scenes, "CHUNK_SIZE", 4)
  data_set = datasets.DATA_SETS[name]
  options = {**data_set.preprocessing, "image_size": 24, "samples": 1}
  drawn = data_set.generate(0, seed=0, **options)
  version, digest, means = FIRST_SCENES[name]
  assert version == data_set.generator_version
  assert digest_of({"targets": drawn["targets"]}) == digest
  # Rounding may differ between processors.
  here = drawn["images"].mean((1, 2, 3))
  np.testing.assert_allclose(here, means, atol=0.3)


def test_data_of_another_version_is_prepared_again(tmp_path, monkeypatch):
  data = section(tmp_path)
  first = loading.prepare(data)
  assert loading.prepare(data) == first
  raised = dataclasses.replace(
    datasets.DATA_SETS["tetrominoes"], generator_version=2
  )
  monkeypatch.setitem(datasets.DATA_SETS, "tetrominoes", raised)
  assert loading.prepare(data) != first
