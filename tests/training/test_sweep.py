"""Tests of sweeps over iterations, objects and slots."""

import dataclasses
import json

import matplotlib.image
import numpy as np
import pytest

from slot_attention.data import loading, store
from slot_attention.training import evaluate, sweep, train


def test_learned_slots_are_swept_as_far_as_they_were_learned(
  set_config, tmp_path
):
  set_config.model.slot_attention.slot_init = "queries"
  most = set_config.data.max_objects
  set_config.data.max_objects = 3  # One of the 4 slots is spare.
  set_config.data.num_eval = 4
  train.train(set_config, tmp_path)
  set_config.data.max_objects = most
  rows = sweep.sweep_run(set_config, tmp_path, "slots")
  counts = set(
    loading.load(set_config.data).splits["eval"].num_objects.tolist()
  )
  assert [row["num_objects"] for row in rows] == sorted(counts - {4, 5})
  assert rows and max(counts) > 3
  assert sweep.sweep_run(set_config, tmp_path, "more_slots") == []


def test_images_with_unknown_objects_are_swept_over_t_and_k(
  config, finished_run, tmp_path, monkeypatch, short_sweeps
):
  finished_run(tmp_path)
  monkeypatch.setattr(store.Split, "knows_objects", False)
  rows = sweep.sweep_run(config, tmp_path)
  assert {row["sweep"] for row in rows} == {"iterations", "more_slots"}


@pytest.mark.slow
def test_a_sweep_covers_iterations_objects_and_slots(
  set_config, tmp_path, monkeypatch, capsys
):
  assert list(sweep.SWEPT_ITERATIONS) == [*range(1, 11)]
  assert sweep.SWEPT_MORE_SLOTS == (0, 1, 2, 4, 8)
  monkeypatch.setattr(sweep, "SWEPT_MORE_SLOTS", (0, 1, 4))
  # The two iterations of the run are in the sweep, whatever else is.
  monkeypatch.setattr(sweep, "SWEPT_ITERATIONS", (1, 4))
  metrics = train.train(set_config, tmp_path)
  splits, make_measurer = [], evaluate.make_measurer
  monkeypatch.setattr(
    sweep.evaluate,
    "make_measurer",
    lambda task, split, **kwargs: (
      splits.append(split) or make_measurer(task, split, **kwargs)
    ),
  )
  rows = sweep.sweep_run(set_config, tmp_path)
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
  # The run has 4 slots for up to 5 objects, one too few. So have the sweeps.
  assert {
    row["num_objects"]: row["num_slots"]
    for row in rows
    if row["sweep"] == "slots"
  } == {number: max(1, number - 1) for number in numbers.tolist()}
  # Padding would take a slot from an object.
  for number, split in zip(numbers.tolist(), splits[1:], strict=True):
    targets = split.take(np.arange(len(split)))["targets"]
    assert targets.shape[1] == number and (targets[..., -1] == 1).all()
  more = [row["num_slots"] for row in rows if row["sweep"] == "more_slots"]
  assert more == [4, 5, 8]
  assert len({row["loss"] for row in rows}) > 5
  (written,) = tmp_path.glob("eval_*/sweep.json")
  assert json.loads(written.read_text())["rows"] == rows
  width = matplotlib.image.imread(written.with_name("sweep.png")).shape[1]
  printed = capsys.readouterr().out
  assert f"{rows[0]['loss']:.4f}" in printed and "num_iterations" in printed

  written.unlink()
  for name in ("iterations", "objects", "slots", "more_slots"):
    of_sweep = [row for row in rows if row["sweep"] == name]
    assert sweep.sweep_run(set_config, tmp_path, name) == of_sweep != []
  assert not written.exists()

  # If all images have the same number of objects, only T and K have curves.
  same = np.flatnonzero(counts == numbers[0])
  monkeypatch.setattr(
    sweep.evaluate, "load", lambda *args, load=evaluate.load: only(load(*args))
  )

  def only(loaded):
    task, data, params, step = loaded
    split = data.splits["eval"]
    part = dataclasses.replace(split, examples=split.examples[same])
    return task, dataclasses.replace(data, splits={"eval": part}), params, step

  sweep.sweep_run(set_config, tmp_path)
  narrow = matplotlib.image.imread(written.with_name("sweep.png")).shape[1]
  assert narrow < 0.7 * width
