"""Tests of the parameters from which a run starts."""

import shutil

from flax import traverse_util
import jax
import numpy as np
import pytest

from slot_attention import pretrained, tasks, validation
from slot_attention.training import initial, runs, train
from tests.runs import make_config, use_adaptive_invariant


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
  """Returns the config and the folder of a trained run."""
  folder = tmp_path_factory.mktemp("initial")
  config = make_config(folder / "data")
  train.train(config, folder / "run")
  return config, folder / "run"


def flat(params):
  return traverse_util.flatten_dict(jax.device_get(params), sep="/")


def test_a_run_starts_from_another_one_and_goes_on_without_it(run, tmp_path):
  config, source = run
  config = config.copy_and_resolve_references()
  config.seed = 1
  config.learning_rate = 0.0
  config.num_steps = config.checkpoint_every
  shutil.copytree(source, tmp_path / "source")
  config.initial_params = str(tmp_path / "source")
  train.train(config, tmp_path / "run")
  expected = flat(runs.load(source).params)
  for name, value in flat(runs.load(tmp_path / "run").params).items():
    np.testing.assert_array_equal(value, expected[name])
  shutil.rmtree(tmp_path / "source")
  config.num_steps *= 2
  train.train(config, tmp_path / "run")
  assert runs.load(tmp_path / "run").step == config.num_steps


def test_parts_that_the_other_run_lacks_stay_random(run):
  config, source = run
  config = config.copy_and_resolve_references()
  use_adaptive_invariant(config)
  config.model.encoder.kernel_size = 1
  task = tasks.make_task(validation.checked(config))
  shape = runs.load(source).task.image_shape
  random = flat(task.init(jax.random.key(3), shape))
  started = flat(
    initial.start_from(
      initial.read(str(source)), traverse_util.unflatten_dict(random, sep="/")
    )
  )
  assert started.keys() == random.keys()
  expected = flat(runs.load(source).params)
  taken = {
    name
    for name, x in random.items()
    if name in expected and expected[name].shape == x.shape
  }
  assert any("gru" in name for name in taken)
  for name in ("slot_selector/mlp/dense_0/kernel", "encoder/conv_0/kernel"):
    assert name in random and name not in taken
  for name, value in started.items():
    source_of = expected if name in taken else random
    np.testing.assert_array_equal(value, source_of[name], name)


def test_weights_of_the_package_are_found_by_name():
  loaded = pretrained.load("quickstart").params
  zeros = jax.tree.map(np.zeros_like, loaded)
  started = flat(initial.start_from(initial.read("quickstart"), zeros))
  for name, value in flat(loaded).items():
    np.testing.assert_array_equal(started[name], value)
  assert initial.start_from(initial.read(""), zeros) is zeros


def test_a_start_that_cannot_work_says_why(run, tmp_path):
  _, source = run
  with pytest.raises(ValueError, match="'nowhere' is neither .* quickstart, "):
    initial.read("nowhere")
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ValueError, match="the folder of a run with a checkpoint"):
    initial.read(str(tmp_path))
  with pytest.raises(ValueError, match="has the name and shape of one of this"):
    initial.start_from(initial.read(str(source)), {"other": np.zeros(3)})
