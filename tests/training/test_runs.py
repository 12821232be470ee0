"""Tests of a run's folder."""

import dataclasses
import json

import jax
import numpy as np
import PIL.Image
import pytest

from slot_attention import predict, tasks
from slot_attention.data import datasets, loading
from slot_attention.paper import figures
from slot_attention.training import (
  checkpoints,
  evaluate,
  runs,
  train,
  writers,
)


def test_load_run_gives_config_task_and_params(config, finished_run, tmp_path):
  finished_run(tmp_path)
  run = runs.load(tmp_path)
  assert run.config == config  # With tuples, which JSON does not have.
  assert run.step == 6
  data = loading.load(config.data)
  outputs = run.task.apply(
    run.params,
    tasks.normalize(
      {
        "example_ids": np.arange(2),
        **data.splits["eval"].take(np.arange(2)),
      }
    ),
    jax.random.key(0),
    num_slots=5,
  )
  assert outputs["masks"].shape == (2, 5, 12, 12, 1)


def test_another_config_in_the_same_workdir_is_refused(
  config, finished_run, tmp_path
):
  finished_run(tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  config.seed = 1
  config.model.encoder.features = (4,)
  with pytest.raises(ValueError) as error:
    train.train(config, tmp_path)
  message = str(error.value)
  assert "model.encoder.features was (5,), is now (4,)" in message
  assert "seed was 0, is now 1" in message
  assert "another --workdir" in message
  after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert before == after


def test_processes_may_find_the_original_in_different_places(
  config, finished_run, tmp_path
):
  finished_run(tmp_path)
  config.data.path = "elsewhere.tfrecords"
  runs.claim(tmp_path, config)


def test_a_run_that_goes_on_with_other_data_warns(
  config, finished_run, tmp_path, caplog
):
  finished_run(tmp_path)
  # As if an option were newer than the run.
  path = tmp_path / "data.json"
  description = json.loads(path.read_text())
  del description["procedural"]["background"]
  path.write_text(json.dumps(description))
  config.num_steps = 8
  train.train(config, tmp_path)
  assert "has changed" not in caplog.text
  config.num_steps = 9
  version = datasets.DATA_SETS["tetrominoes"].generator_version
  changed = dataclasses.replace(
    datasets.DATA_SETS["tetrominoes"], generator_version=version + 1
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATA_SETS, "tetrominoes", changed)
    train.train(config, tmp_path)
  assert "The data has changed since the earlier steps of" in caplog.text
  assert "(version)" in caplog.text


def test_an_evaluation_on_data_that_has_changed_warns(
  config, finished_run, tmp_path, caplog
):
  finished_run(tmp_path)
  path = tmp_path / "data.json"
  description = json.loads(path.read_text())
  path.write_text(json.dumps({**description, "version": 99}))
  evaluate.evaluate_run(config, tmp_path)
  assert "has changed since the training of" in caplog.text
  assert "(version)" in caplog.text
  caplog.clear()
  config.data.procedural.seed = 1  # Asked for.
  evaluate.evaluate_run(config, tmp_path)
  assert "has changed" not in caplog.text


def test_saving_leaves_signals_to_the_loop(
  config, finished_run, tmp_path, monkeypatch
):
  """Orbax would tell JAX a step where the loop tells it a dispatch."""

  def fail(step):
    raise AssertionError(step)

  assert checkpoints.ocp.utils.reached_preemption
  monkeypatch.setattr(checkpoints.ocp.utils, "reached_preemption", fail)
  finished_run(tmp_path)
  config.num_steps = 7
  train.train(config, tmp_path)
  assert (tmp_path / "checkpoints" / "7").is_dir()


def test_pictures_of_a_run_do_not_become_training_images(config, tmp_path):
  config.data.name, config.data.path = "image_folder", str(tmp_path)
  with pytest.raises(ValueError, match="holds --workdir=.* choose another"):
    runs.claim(tmp_path / "runs" / "a", config)
  assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [predict, figures])
def test_pictures_of_a_command_do_not_become_training_images(
  command, config, finished_run, tmp_path
):
  photos, workdir = tmp_path / "photos", tmp_path / "run"
  photos.mkdir()
  photo = photos / "a.png"
  PIL.Image.new("RGB", (8, 8)).save(photo)
  finished_run(workdir)
  image_size = datasets.image_shape(config.data)[0]
  config.data.name, config.data.path = "image_folder", str(photos)
  config.data.source, config.data.procedural = "original", {}
  config.data.preprocessing = {"image_size": image_size}
  runs.save_config(workdir, config)
  arguments = [f"--workdir={workdir}", f"--to={photos / 'out'}"]
  with pytest.raises(ValueError, match="holds --to=.* choose another"):
    command.main([*arguments, *[str(photo)] * (command is predict)])
  assert [*photos.iterdir()] == [photo]


def test_a_model_that_does_not_fit_the_checkpoint_names_the_parameter(
  config, finished_run, tmp_path
):
  finished_run(tmp_path)
  config.model.slot_attention.mlp_hidden_size = 8
  with pytest.raises(ValueError) as error:
    evaluate.evaluate_run(config, tmp_path)
  assert (
    "slot_attention/mlp/dense_0/kernel is saved as (8, 7), the config needs"
    " (8, 8)" in str(error.value)
  )
  # A run whose own config was changed is not used, either.
  runs.save_config(tmp_path, config)
  with pytest.raises(ValueError, match=r"is saved as \(8, 7\)"):
    runs.load(tmp_path)


def test_loading_without_a_run_fails(tmp_path, config):
  with pytest.raises(ValueError, match="there is no run in"):
    runs.load(tmp_path)
  runs.save_config(tmp_path, config)
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    runs.load(tmp_path)
  for damaged in ("{", "[]"):
    (tmp_path / "config.json").write_text(damaged)
    with pytest.raises(ValueError, match="config.json is damaged"):
      runs.load(tmp_path)


def test_a_damaged_line_of_metrics_is_named(tmp_path):
  path = tmp_path / writers.METRICS_FILE
  path.write_text('{"step": 1}\n\0\0\n{"step"')
  with pytest.raises(ValueError, match="metrics.jsonl has a damaged line"):
    writers.read(tmp_path)
  with pytest.raises(ValueError, match="metrics.jsonl has a damaged line"):
    writers.MetricWriter(tmp_path, 1).__enter__()


def test_processes_that_do_not_share_the_workdir_are_refused(
  config, tmp_path, monkeypatch
):
  monkeypatch.setattr(runs.parallel, "is_first_process", lambda: False)
  monkeypatch.setattr(runs.time, "sleep", lambda _: None)
  with pytest.raises(ValueError, match="do not share the workdir"):
    runs.save_config(tmp_path, config)


def test_a_workdir_that_cannot_be_written_is_named(config, tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(OSError, match="workdir .*file/run cannot be written"):
    train.train(config, tmp_path / "file" / "run")
  assert (tmp_path / "file").read_text() == "in the way"
