"""Tests of evaluations, sweeps and their pictures, on tiny models."""

import json

import numpy as np
import pytest

from slot_attention.data import loading
from slot_attention.training import (
  evaluate,
  train,
  writers,
)
from tests.data.test_originals import write_split
from tests.runs import (
  read_lines,
)


def test_a_sweep_covers_iterations_objects_and_slots(
  set_config, tmp_path, monkeypatch
):
  assert list(evaluate.SWEPT_ITERATIONS) == [*range(1, 11)]
  monkeypatch.setattr(evaluate, "SWEPT_ITERATIONS", (1, 2, 4))
  metrics = train.train(set_config, tmp_path)
  rows = evaluate.sweep_run(set_config, tmp_path)
  (as_trained,) = (
    row
    for row in rows
    if row["sweep"] == "iterations" and row["num_iterations"] == 2
  )
  for name, value in metrics.items():
    assert as_trained[name] == pytest.approx(value, abs=1e-6)

  counts = loading.load(set_config.data).splits["eval"].num_objects
  of_count = {
    row["num_objects"]: row["num_examples"]
    for row in rows
    if row["sweep"] == "objects" and row["num_iterations"] == 2
  }
  numbers, sizes = np.unique(counts, return_counts=True)
  assert of_count == dict(zip(numbers.tolist(), sizes.tolist()))
  # Trained with 4 slots for up to 5 objects: one slot too few, in all sweeps.
  assert {
    row["num_objects"]: row["num_slots"]
    for row in rows
    if row["sweep"] == "slots"
  } == {number: max(1, number - 1) for number in numbers.tolist()}
  assert len({row["loss"] for row in rows}) > 5
  (written,) = tmp_path.glob("eval_*/sweep.json")
  assert json.loads(written.read_text())["rows"] == rows
  assert written.with_name("sweep.png").exists()


def test_pictures_are_drawn_at_every_evaluation(config, tmp_path, monkeypatch):
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


def test_evaluation_takes_other_data_k_and_t(config, tmp_path):
  first = train.train(config, tmp_path)
  config.data.procedural.seed = 1
  config.model.slot_attention.num_slots = 6
  config.model.slot_attention.num_iterations = 3
  other = evaluate.evaluate_run(config, tmp_path)
  assert other["loss"] != first["loss"]


def test_evaluation_does_not_depend_on_the_batch_size(config, tmp_path):
  first = train.train(config, tmp_path)
  config.eval_batch_size = 8
  again = evaluate.evaluate_run(config, tmp_path)
  assert again == pytest.approx(first, abs=1e-5)


def test_objects_are_discovered_where_there_are_no_masks(config, tmp_path):
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
  rows = evaluate.sweep_run(config, tmp_path)
  assert len({row["loss"] for row in rows}) > 5
  assert not (folder / "sweep.png").exists()


def test_a_finished_run_is_evaluated_again_without_training(config, tmp_path):
  first = train.train(config, tmp_path)
  lines = read_lines(tmp_path)
  assert train.train(config, tmp_path) == first
  assert evaluate.evaluate_run(config, tmp_path) == first
  assert read_lines(tmp_path) == lines
