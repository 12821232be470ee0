"""Tests of evaluations and their pictures, on tiny models."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest

from slot_attention.training import (
  evaluate,
  sweep,
  train,
  writers,
)
from tests.data.test_originals import write_split
from tests.runs import read_lines


def test_pictures_are_drawn_at_every_evaluation(
  config, tmp_path, monkeypatch, with_pictures
):
  drawn = []

  def record(self, step, pictures):
    drawn.append((step, [path.name for path in pictures]))
    assert all(path.exists() for path in pictures)

  monkeypatch.setattr(writers.MetricWriter, "write_pictures", record)
  monkeypatch.setattr(
    writers, "show_run", lambda _, step, pictures, __: record(0, step, pictures)
  )
  train.train(config, tmp_path)
  names = ["slots.png", "attention.png", "curves.png"]
  assert drawn == [(3, names), (6, names)]


def test_evaluation_can_change_data_k_and_t(config, finished_run, tmp_path):
  losses = {finished_run(tmp_path)["loss"]}
  for field, value in (
    ("data.procedural.seed", 1),
    ("model.slot_attention.num_slots", 6),
    ("model.slot_attention.num_iterations", 3),
  ):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    losses.add(evaluate.evaluate_run(changed, tmp_path)["loss"])
  assert len(losses) == 4


def test_every_evaluation_has_a_folder_and_says_what_it_evaluated(
  config, finished_run, tmp_path, capsys, with_pictures
):
  def metrics_of(folder):
    return json.loads((tmp_path / folder / "metrics.json").read_text())

  finished_run(tmp_path)
  first = metrics_of("eval_tetrominoes_procedural")
  assert (first["num_slots"], first["num_iterations"]) == (4, 2)
  assert first["changed"] == {}
  config.model.slot_attention.num_slots = 6
  config.eval_batch_size = 8  # It does not affect the results.
  evaluate.evaluate_run(config, tmp_path)
  name = "eval_tetrominoes_procedural,slot_attention.num_slots=6"
  assert metrics_of(name)["changed"] == {"model.slot_attention.num_slots": 6}
  assert metrics_of(name)["num_slots"] == 6
  assert "num_slots=6, num_iterations=2" in capsys.readouterr().out
  assert (tmp_path / name / "slots.png").exists()
  assert metrics_of("eval_tetrominoes_procedural") == first

  # Many changes give a short name, which differs for other changes.
  for seed in (1, 2):
    config.data.procedural = ConfigDict(
      {"seed": seed, "num_objects": 2, "image_size": 12, "block_size": 1,
       "min_gap": 1, "distinct_colors": True, "background": 99}
    )  # fmt: skip
    evaluate.evaluate_run(config, tmp_path)
  folders = [x.name for x in tmp_path.glob("eval_*")]
  assert len(folders) == 4 and max(map(len, folders)) < 120
  # So do changes whose characters a name of a file cannot have.
  names = set()
  for path in ("a b", "a_b", "a/b", "\u00e4" * 99):
    config.data.path = path
    names.add(evaluate.folder_of(tmp_path, config).name)
  assert len(names) == 4 and max(map(len, names)) < 120


def test_evaluation_does_not_depend_on_the_batch_size(
  config, finished_run, tmp_path
):
  first = finished_run(tmp_path)
  config.eval_batch_size = 8
  again = evaluate.evaluate_run(config, tmp_path)
  assert again == pytest.approx(first, abs=1e-5)


def test_object_discovery_works_without_masks(
  config, tmp_path, short_sweeps, with_pictures
):
  write_split(tmp_path / "CLEVR_v1.0", "val", 24, size=(240, 320))
  config.data.name = "clevr"
  config.data.source = "original"
  config.data.path = str(tmp_path / "CLEVR_v1.0")
  config.data.max_objects = 10
  config.data.preprocessing = {"crop": True, "image_size": 12}
  metrics = train.train(config, tmp_path)
  assert metrics.keys() == {"loss"} and np.isfinite(metrics["loss"])
  (folder,) = tmp_path.glob("eval_*")
  assert (folder / "slots.png").exists()
  assert (tmp_path / "curves.png").exists()
  rows = sweep.sweep_run(config, tmp_path)
  assert len({row["loss"] for row in rows}) > 2
  assert not (folder / "sweep.png").exists()


def test_a_line_that_was_cut_off_does_not_hinder_evaluation(
  config, finished_run, tmp_path
):
  metrics = finished_run(tmp_path)
  lines = writers.read(tmp_path)
  with (tmp_path / writers.METRICS_FILE).open("a") as file:
    file.write('{"step": 9, "spl')
  assert writers.read(tmp_path) == lines
  assert evaluate.evaluate_run(config, tmp_path) == pytest.approx(metrics)


def test_a_finished_run_is_evaluated_again_without_training(
  config, finished_run, tmp_path
):
  first = finished_run(tmp_path)
  lines = read_lines(tmp_path)
  assert train.train(config, tmp_path) == first
  assert evaluate.evaluate_run(config, tmp_path) == first
  assert read_lines(tmp_path) == lines
