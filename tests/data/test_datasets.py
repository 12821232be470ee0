"""Tests of the check of a config's data section."""

import pytest

import configs
from slot_attention.data import datasets, loading
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
  ],
)
def test_bad_data_fields_are_named(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    datasets.check_data(section(tmp_path, **fields))


def test_a_missing_field_is_named(tmp_path):
  data = section(tmp_path)
  del data["grayscale"]
  with pytest.raises(ValueError, match="config.data: grayscale is missing"):
    datasets.check_data(data)


@pytest.mark.parametrize(
  "name", sorted(set(configs.names()) - {"smoke", "slot_mlp"})
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
  ):
    data = section(tmp_path, **fields)
    assert datasets.image_shape(data) == loading.load(data).image_shape
