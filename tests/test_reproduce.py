"""Tests of the tables and figures, with training replaced where it is long."""

import json
import threading

import numpy as np
import pytest

import configs
from slot_attention import evaluate, reproduce, tasks, train
from slot_attention.experiments import EXPERIMENTS, Experiment, Row

ROWS = [
  pytest.param(row, id=f"{name}-{row.label}-{row.config}")
  for name, experiment in EXPERIMENTS.items()
  for row in experiment.rows
]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_config_that_makes_a_task(row):
  config = configs.load(row.config)
  for changes in (row.changes, row.evaluation):
    changed = reproduce.changed(config, changes)
    tasks.make_task(changed)
    # A change that changes nothing would be a row that shows nothing.
    assert not changes or changed != config or "last iteration" in row.label
    config = changed


def test_the_papers_tables_and_figures_are_all_there():
  figures = {f"figure{i}" for i in range(7, 20)}
  assert figures | {
    "table1", "figure2", "figure5_left", "figure5_center", "figure5_right",
    "table3", "figure21_22", "figure23", "greyscale", "binarized",
    "soft_kmeans", "attention_ari",
  } == set(EXPERIMENTS)  # fmt: skip


def test_small_and_smoke_scales_name_configs_that_exist():
  for scale in ("small", "smoke"):
    names = {
      reproduce.config_name(row.config, scale)
      for experiment in EXPERIMENTS.values()
      for row in reproduce.rows_at(experiment, scale)
    }
    for name in names:
      assert tasks.make_task(configs.load(name))
  # No small stand-in: the row is left out, not faked.
  labels = [
    row.label for row in reproduce.rows_at(EXPERIMENTS["table1"], "small")
  ]
  assert "Slot Attention, CLEVR6" in labels
  assert "Slot Attention, Multi-dSprites" not in labels


@pytest.fixture(name="trained")
def _trained(monkeypatch):
  """Replaces training; gives the list of the runs that were trained."""
  runs = []
  lock = threading.Lock()

  def train_(config, workdir):
    with lock:
      runs.append((config.model.slot_attention["update"], config.seed))
    workdir.mkdir(parents=True)
    ari = 0.9 if config.model.slot_attention["update"] == "gru" else 0.5
    return {"loss": 0.01, "fg_ari": ari + 0.02 * config.seed}

  monkeypatch.setattr(train, "train", train_)
  return runs


@pytest.fixture(name="experiment")
def _experiment(monkeypatch):
  experiment = Experiment(
    "Update function",
    (
      Row("default", paper={"fg_ari": "98.8 ± 0.3"}),
      Row("no GRU", changes={"model.slot_attention.update": "none"}),
    ),
    others={"IODINE": {"fg_ari": "98.8 ± 0.0"}},
  )
  monkeypatch.setitem(EXPERIMENTS, "updates", experiment)
  return experiment


def run(tmp_path, seeds=(0, 1)):
  return reproduce.reproduce(
    "updates",
    scale="small",
    seeds=seeds,
    runs=tmp_path / "runs",
    results=tmp_path / "results",
    data_dir=str(tmp_path / "data"),
  )


def test_means_and_deviations_stand_beside_the_papers_numbers(
  tmp_path, trained, experiment
):
  run(tmp_path)
  folder = tmp_path / "results"
  written = json.loads((folder / "updates_small.json").read_text())
  assert written["rows"][1]["seeds"]["1"]["fg_ari"] == pytest.approx(0.52)
  assert written["rows"][1]["changes"] == {
    "model.slot_attention.update": "none"
  }
  assert "--scale=small --seeds 0 1" in written["command"]
  text = (folder / "updates_small.md").read_text()
  assert "| default | quickstart | fg_ari | 91.0 ± 1.0 | 98.8 ± 0.3 |" in text
  assert "| no GRU | quickstart | fg_ari | 51.0 ± 1.0 |" in text
  assert "| IODINE |  | fg_ari |  | 98.8 ± 0.0 |" in text
  assert "not to be compared" in text
  assert (
    "no GRU,quickstart,fg_ari,51" in (folder / "updates_small.csv").read_text()
  )
  assert (folder / "updates_small.png").stat().st_size > 5_000


def test_finished_runs_are_not_repeated_and_more_seeds_are_added(
  tmp_path, trained, experiment
):
  run(tmp_path)
  assert sorted(trained) == [("gru", 0), ("gru", 1), ("none", 0), ("none", 1)]
  run(tmp_path)
  assert len(trained) == 4
  run(tmp_path, seeds=(0, 1, 2))
  assert trained[4:] == [("gru", 2), ("none", 2)]


def test_a_run_that_failed_is_tried_again(
  tmp_path, trained, experiment, monkeypatch
):
  working = train.train

  def fails(config, workdir):
    if config.seed == 1:
      raise FloatingPointError("the loss is nan")
    return working(config, workdir)

  monkeypatch.setattr(train, "train", fails)
  with pytest.raises(FloatingPointError):
    run(tmp_path)
  monkeypatch.setattr(train, "train", working)
  run(tmp_path)
  assert sorted(trained) == [("gru", 0), ("gru", 1), ("none", 0), ("none", 1)]


def test_processes_share_the_runs(tmp_path, trained, experiment):
  workers = [threading.Thread(target=run, args=(tmp_path,)) for _ in range(3)]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  assert sorted(trained) == [("gru", 0), ("gru", 1), ("none", 0), ("none", 1)]


def test_sweeps_become_curves(tmp_path, trained, experiment, monkeypatch):
  def sweep(workdir, config):
    return [
      {
        "sweep": name,
        "num_iterations": t,
        "num_slots": 4,
        "num_objects": 0,
        "num_examples": 9,
        "loss": 0.1,
        "fg_ari": 0.1 * t + 0.01 * config.seed,
      }
      for name in ("iterations", "objects")
      for t in (1, 2)
    ]

  monkeypatch.setattr(evaluate, "sweep_run", sweep)
  monkeypatch.setitem(
    EXPERIMENTS,
    "updates",
    Experiment("T", experiment.rows[:1], sweep="iterations"),
  )
  run(tmp_path)
  folder = tmp_path / "results"
  text = (folder / "updates_small.md").read_text()
  assert "| default | quickstart | 2 | 4 | 0 | fg_ari | 20.5 ± 0.5 |" in text
  assert (folder / "updates_small.png").exists()


def test_an_experiment_that_does_not_exist_at_a_scale_is_refused(tmp_path):
  with pytest.raises(ValueError, match="nothing of binarized exists"):
    reproduce.reproduce(
      "binarized",
      scale="small",
      seeds=[0],
      runs=tmp_path,
      results=tmp_path,
      data_dir="",
    )


def test_the_list_counts_what_is_done_and_missing(
  tmp_path, trained, experiment, capsys
):
  run(tmp_path, seeds=(0,))
  arguments = ["--list", "--scale=small", "--seeds", "0", "1"]
  reproduce.main([*arguments, f"--runs={tmp_path / 'runs'}"])
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if line.startswith("updates")]
  assert "2 runs done, 2 missing" in line
  # The same runs count for every experiment that needs them.
  (line,) = [line for line in lines if line.startswith("figure11")]
  assert "2 runs done" in line
  (line,) = [line for line in lines if line.startswith("greyscale")]
  assert "not at --scale=small" in line


def test_the_standard_deviation_is_over_seeds_in_percent():
  result = {
    "rows": [
      {
        "label": "x",
        "config": "y",
        "paper": {},
        "seeds": {str(i): {"fg_ari": v} for i, v in enumerate((0.1, 0.3))},
      }
    ]
  }
  (line,) = reproduce._table(result)
  assert np.allclose([line["mean"], line["std"]], [20, 10])
