"""Tests of tables and figures, with training replaced if it takes long."""

import dataclasses
import errno
import gzip
import json
import os
from pathlib import Path
import re
import shutil
import threading

import numpy as np
import pytest
import scipy.stats

import configs
from slot_attention import tasks
from slot_attention.paper import (
  ablations,
  curves,
  experiments,
  kept,
  page,
  reproduce,
  rows,
  statistics,
  tables,
)
from slot_attention.paper.experiments import EXPERIMENTS
from slot_attention.paper.rows import Experiment, Row
from slot_attention.training import checkpoints, evaluate, sweep, train

ROWS = [
  pytest.param(row, id=f"{name}-{row.label}-{row.config}")
  for name, experiment in EXPERIMENTS.items()
  for row in experiment.rows
]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_config_that_makes_a_task(row):
  config = configs.load(row.config)
  for changes in (row.changes, row.evaluation):
    changed = rows.changed(config, changes)
    tasks.make_task(changed)
    # Every change has an effect, except in rows that show the default.
    defaults = ("last iteration, scale 1", "no clipping (the paper's)")
    default = row.label in defaults
    assert not changes or changed != config or default
    config = changed


def test_the_papers_tables_and_figures_are_all_there():
  figures = {f"figure{i}" for i in range(7, 20)}
  assert figures | {
    "table1", "figure2", "figure5_left", "figure5_center", "figure5_right",
    "table3", "figure21_22", "figure23", "greyscale", "binarized",
    "soft_kmeans", "attention_ari", "ablations", "stripes",
    "successors", "videos", "more_slots", "optimizers",
  } == set(EXPERIMENTS)  # fmt: skip
  assert all(experiment.place for experiment in EXPERIMENTS.values())


@pytest.mark.parametrize("is_discovery", [True, False])
def test_the_ablations_have_the_variants_of_the_figures(is_discovery):
  def of_task(rows):
    return [x for x in rows if (x.config == experiments.CLEVR6) == is_discovery]

  everything = of_task(EXPERIMENTS["ablations"].rows)
  figures = [EXPERIMENTS[f"figure{i}"] for i in range(7, 20)]
  variants = [
    row
    for figure in figures
    for row in of_task(figure.rows)
    if row.label != "default"
  ]
  found = [x for x in everything if x.label not in ("default", "Soft k-means")]
  assert len(found) == len(variants) == 17
  for row, variant in zip(found, variants):
    assert row.config == variant.config
    assert (row.changes, row.direction) == (variant.changes, variant.direction)
    assert row.direction in {*ablations.DIRECTIONS, "not stated"}
  defaults = [row.config for row in everything if row.label == "default"]
  assert len(defaults) == len(set(defaults)) == len({x.config for x in found})


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_stripes_compare_different_runs_and_share_the_default(scale):
  def directories(name):
    jobs = rows.jobs_of(EXPERIMENTS[name], scale, seeds=(0,))
    return [job.directory for job in jobs]

  stripes = directories("stripes")
  assert len({*stripes}) == len(stripes)
  # The small config clips gradients by default, the paper's does not.
  default = stripes[scale == "small"]
  assert default in directories("table1") and "default" in default.parts


def test_small_and_smoke_scales_name_configs_that_exist():
  for scale in ("small", "smoke"):
    names = {
      rows.config_name(row, scale)
      for experiment in EXPERIMENTS.values()
      for row in rows.rows_at(experiment, scale)
    }
    for name in names:
      assert tasks.make_task(configs.load(name))
  # A row may have another small config than its config has elsewhere.
  names = {
    row.label: rows.config_name(row, "small")
    for name in ("table1", "soft_kmeans")
    for row in rows.rows_at(EXPERIMENTS[name], "small")
  }
  assert names["MONet, CLEVR6"] == "monet:clevr_small"
  assert names["default"] == names["Soft k-means"] == "tetrominoes_small"
  labels = [row.label for row in rows.rows_at(EXPERIMENTS["table1"], "small")]
  assert labels == [row.label for row in EXPERIMENTS["table1"].rows]
  # Videos have a small config alone.
  videos = rows.Row("SAVi", "mesh:savi")
  assert rows.config_name(videos, "small") == "mesh:savi"
  assert rows.rows_at(EXPERIMENTS["videos"], "paper") == []


def test_adam_has_runs_of_its_own_only_at_the_small_scale():
  adam = [row for row in EXPERIMENTS["optimizers"].rows if row.label == "Adam"]
  assert len(adam) == 2
  for row in adam:
    plain = rows.config_name(row, "paper")
    assert f"adam:{plain}" == row.config
    assert configs.load(plain) == configs.load(row.config)
    small = rows.config_name(row, "small")
    assert small.startswith("adam:")
    assert configs.load(small).optimizer == "adam"


@pytest.fixture(name="trained")
def _trained(monkeypatch):
  """Replaces training and returns the list of trained runs."""
  runs = []
  lock = threading.Lock()

  def train_(config, workdir):
    with lock:
      runs.append((config.model.slot_attention["update"], config.seed))
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}')
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
      Row(
        "no GRU",
        changes={"model.slot_attention.update": "none"},
        direction="worse",
      ),
    ),
    place="Figure 11",
  )
  monkeypatch.setitem(EXPERIMENTS, "updates", experiment)
  return experiment


def run(tmp_path, seeds=(0, 1), **options):
  return reproduce.reproduce(
    "updates",
    scale="small",
    seeds=seeds,
    runs=tmp_path / "runs",
    results=tmp_path / "results",
    data_dir=str(tmp_path / "data"),
    **options,
  )


def test_means_and_deviations_are_written_with_the_papers_numbers(
  tmp_path, trained, experiment
):
  run(tmp_path)
  folder = tmp_path / "results"
  written = json.loads((folder / "updates_small.json").read_text())
  assert written["rows"][1]["seeds"]["1"]["fg_ari"] == pytest.approx(0.52)
  assert written["rows"][1]["changes"] == {
    "model.slot_attention.update": "none"
  }
  assert "--scale=small --seeds=0,1" in written["command"]
  text = (folder / "updates_small.md").read_text()
  assert "| row | config | loss | fg_ari |\n" in text
  loss = "0.0100 ± 0.0000 (2 seeds)"
  assert (
    f"| default | tetrominoes_small | {loss} | 91.0 ± 1.0 (2 seeds) |\n"
    "| default, in the paper |  |  | 98.8 ± 0.3 |\n"
    f"| no GRU | tetrominoes_small | {loss} | 51.0 ± 1.0 (2 seeds) |\n"
  ) in text
  assert "numbers cannot be compared with the paper's" in text
  assert (
    "| no GRU | tetrominoes_small | fg_ari | -40.0 | worse | too few seeds |"
  ) in text
  assert "No seed is above this limit." in text
  assert (
    "no GRU,tetrominoes_small,fg_ari,51"
    in (folder / "updates_small.csv").read_text()
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
      raise OSError("the disk is full")
    return working(config, workdir)

  monkeypatch.setattr(train, "train", fails)
  with pytest.raises(OSError, match="the disk is full"):
    run(tmp_path)
  monkeypatch.setattr(train, "train", working)
  run(tmp_path)
  assert sorted(trained) == [("gru", 0), ("gru", 1), ("none", 0), ("none", 1)]


def test_a_run_that_diverged_is_counted_and_named(
  tmp_path, trained, experiment, monkeypatch
):
  working = train.train

  def diverges(config, workdir):
    if config.seed == 1 or config.model.slot_attention["update"] == "none":
      workdir.mkdir(parents=True)
      raise FloatingPointError("the loss is nan")
    return working(config, workdir)

  monkeypatch.setattr(train, "train", diverges)
  for _ in range(2):  # The second time uses the finished runs.
    result = run(tmp_path, seeds=(0, 1, 2))
    monkeypatch.setattr(train, "train", None)
  assert result["rows"][1]["seeds"] == {"0": None, "1": None, "2": None}
  text = (tmp_path / "results" / "updates_small.md").read_text()
  assert (
    "| default, seed 1 diverged | tetrominoes_small |"
    " 0.0100 ± 0.0000 (2 seeds) | 92.0 ± 2.0 (2 seeds) |\n"
    "| default, in the paper |  |  | 98.8 ± 0.3 |\n" in text
  )
  assert "| no GRU, seeds 0 1 2 diverged | tetrominoes_small |  |  |\n" in text
  assert (
    "| no GRU | tetrominoes_small | fg_ari | diverged | worse | yes |" in text
  )
  assert (tmp_path / "results" / "updates_small.png").exists()


def test_processes_share_the_runs(tmp_path, trained, experiment):
  workers = [threading.Thread(target=run, args=(tmp_path,)) for _ in range(3)]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  assert sorted(trained) == [("gru", 0), ("gru", 1), ("none", 0), ("none", 1)]


def test_a_disk_without_locks_is_used(
  tmp_path, trained, experiment, monkeypatch
):
  def acquire(*_, **__):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")

  monkeypatch.setattr(reproduce.filelock.FileLock, "acquire", acquire)
  run(tmp_path)
  assert len(trained) == 4


def test_sweeps_become_curves(tmp_path, trained, experiment, monkeypatch):
  def sweep_run(config, workdir, only):
    return [
      {
        "sweep": only,
        "num_iterations": t,
        "num_slots": config.model.slot_attention.num_slots,
        "num_objects": 0,
        "num_examples": 9,
        "loss": 0.1,
        "fg_ari": 0.1 * t + 0.01 * config.seed,
      }
      for t in (1, 2)
    ]

  monkeypatch.setattr(sweep, "sweep_run", sweep_run)
  # Two rows evaluate one run.
  more = Row("more", evaluation={"model.slot_attention.num_slots": 9})
  monkeypatch.setitem(
    EXPERIMENTS,
    "updates",
    Experiment("T", (experiment.rows[0], more), sweep="iterations"),
  )
  run(tmp_path)
  folder = tmp_path / "results"
  text = (folder / "updates_small.md").read_text()
  # All points have one number of objects, so it has no column.
  titles = "| row | config | num_iterations | num_slots | loss | fg_ari |"
  assert titles in text
  numbers = "0.1000 ± 0.0000 (2 seeds) | 20.5 ± 0.5 (2 seeds) |"
  assert f"| default | tetrominoes_small | 2 | 4 | {numbers}" in text
  assert f"| more | tetrominoes_small | 2 | 9 | {numbers}" in text
  assert len(trained) == 2
  assert (folder / "updates_small.png").exists()


def test_evaluations_during_training_become_curves(
  tmp_path, experiment, monkeypatch
):
  def train_(config, workdir):
    gru = config.model.slot_attention["update"] == "gru"
    aris = (0.2, 0.6, 0.8) if gru else (0.5, 0.7 + 0.2 * config.seed, 0.7)
    lines = [{"step": 1, "split": "train", "loss": 9.0}]
    for step, ari in zip((1000, 2000, 3000), aris):
      metrics = {"loss": 0.1, "fg_ari": ari, "ari": 0.0}
      lines.append({"step": step, "split": "eval", **metrics})
    workdir.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return {"loss": 0.1, "fg_ari": aris[-1]}

  monkeypatch.setattr(train, "train", train_)
  monkeypatch.setitem(
    EXPERIMENTS, "updates", Experiment("T", experiment.rows, sweep=curves.STEPS)
  )
  result = run(tmp_path)
  text = (tmp_path / "results" / "updates_small.md").read_text()
  titles = "| row | 1,000 | 2,000 | 3,000 | reaches the end of default |"
  assert f"## fg_ari\n\n{tables._STEPS}\n\n{titles}\n" in text
  assert "| default | 20.0 | 60.0 | 80.0 | 3,000 |" in text
  assert "| no GRU | 50.0 | 80.0 | 70.0 | 1 of 2 seeds |" in text
  assert (tmp_path / "results" / "updates_small.png").exists()
  # The seeds come back from the results as they were measured.
  shutil.rmtree(tmp_path / "runs")
  assert run(tmp_path, use_kept=True)["rows"] == result["rows"]


def test_rows_are_compared_at_the_steps_of_the_first():
  def row(label, **shares):
    points = [{"step": int(step[1:]), "a": x} for step, x in shares.items()]
    return {"label": label, "seeds": {"0": points}}

  rows = [row("default", s5=0.2, s10=0.5), row("short", s2=0.4, s5=0.6)]
  assert curves.compare({"rows": rows}, "a") == [
    ["row", "5", "10", "reaches the end of default"],
    ["default", "20.0", "50.0", "10"],
    ["short", "60.0", "", "5"],
  ]


def test_what_is_finished_is_shown_without_training(
  tmp_path, trained, experiment
):
  with pytest.raises(ValueError, match="no run of updates .* is finished"):
    run(tmp_path, only_finished=True)
  run(tmp_path, seeds=(0,))
  rows = run(tmp_path, seeds=(0, 1), only_finished=True)["rows"]
  assert len(trained) == 2
  assert [[*row["seeds"]] for row in rows] == [["0"], ["0"]]


def test_only_some_rows_are_trained(tmp_path, trained, experiment):
  with pytest.raises(
    ValueError, match="label contains 'GUR': they are .'default'"
  ):
    run(tmp_path, only_rows="GUR")
  result = run(tmp_path, only_rows="GRU")
  assert trained == [("none", 0), ("none", 1)]
  assert [row["label"] for row in result["rows"]] == ["no GRU"]
  assert result["command"].endswith(" --rows=GRU")
  # Of the other rows, finished runs are used.
  run(tmp_path, seeds=(0,))
  result = run(tmp_path, only_rows="no GRU")
  assert trained[2:] == [("gru", 0)]
  assert [[*row["seeds"]] for row in result["rows"]] == [["0"], ["0", "1"]]
  assert result["command"].endswith(" --rows='no GRU'")


def test_kept_runs_are_used_on_another_machine(
  tmp_path, trained, experiment, monkeypatch, capsys
):
  first = run(tmp_path)
  folder = (
    tmp_path / "results" / "runs" / "small" / "tetrominoes_small" / "default"
  )
  curve = gzip.decompress((folder / "1" / "metrics.jsonl.gz").read_bytes())
  assert json.loads(curve) == {"step": 1, "loss": 0.5}
  shutil.rmtree(tmp_path / "runs")
  again = run(tmp_path, use_kept=True)
  assert len(trained) == 4
  assert again["rows"] == first["rows"]
  assert again["command"].endswith(" --kept")
  arguments = ["--list", "--scale=small", "--seeds=0,1", "--kept"]
  folders = [f"--runs={tmp_path}", f"--results={tmp_path / 'results'}"]
  reproduce.main([*arguments, *folders])
  assert "4 runs done, 0 missing" in capsys.readouterr().out
  # Another experiment may need an evaluation that was not kept.
  more = Row("more", evaluation={"model.slot_attention.num_slots": 9})
  monkeypatch.setitem(EXPERIMENTS, "updates", Experiment("T", (more,)))
  monkeypatch.setattr(
    evaluate, "evaluate_run", lambda *_: {"loss": 1.0, "fg_ari": 0.3}
  )
  run(tmp_path, use_kept=True)
  assert len(trained) == 6
  shutil.rmtree(tmp_path / "runs")
  (row,) = run(tmp_path, use_kept=True)["rows"]
  assert row["seeds"]["1"] == {"loss": 1.0, "fg_ari": 0.3}
  # A changed evaluation is not taken for the kept one.
  other = dataclasses.replace(
    more, evaluation={"model.slot_attention.num_slots": 8}
  )
  monkeypatch.setitem(EXPERIMENTS, "updates", Experiment("T", (other,)))
  with pytest.raises(ValueError, match="num_slots': 9}, and not .* 8}. Delete"):
    run(tmp_path, use_kept=True)
  # Files of earlier versions do not say how they were evaluated.
  for path in folder.parent.glob("*/*/reproduce_*.json"):
    path.write_text(json.dumps(json.loads(path.read_text())["measured"]))
  (row,) = run(tmp_path, use_kept=True)["rows"]
  assert row["seeds"]["1"] == {"loss": 1.0, "fg_ari": 0.3}
  assert len(trained) == 6
  run(tmp_path)
  assert len(trained) == 8


def test_an_experiment_that_does_not_exist_at_a_scale_is_refused(tmp_path):
  with pytest.raises(ValueError, match="nothing of videos exists"):
    reproduce.reproduce(
      "videos",
      scale="paper",
      seeds=[0],
      runs=tmp_path,
      results=tmp_path,
      data_dir=str(tmp_path),
    )


def test_the_list_counts_what_is_done_and_missing(
  tmp_path, trained, experiment, capsys
):
  run(tmp_path, seeds=(0,))
  arguments = ["--list", "--scale=small", "--seeds=0,1"]
  reproduce.main([*arguments, f"--runs={tmp_path / 'runs'}"])
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if line.startswith("updates")]
  assert "2 runs done, 2 missing" in line
  # The same runs count for every experiment that needs them.
  (line,) = [line for line in lines if line.startswith("figure11")]
  assert "2 runs done" in line
  reproduce.main(["--list", f"--runs={tmp_path / 'runs'}"])
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if line.startswith("videos")]
  assert "not at --scale=paper" in line


def test_the_results_of_a_table_are_those_of_its_figure(capsys):
  """Both tables have an evaluation beside that of the training."""
  flags = ["--list", "--scale=small", "--kept", "--seeds=0", "--runs=none"]
  reproduce.main([*flags, f"--results={RESULTS}"])
  lines = capsys.readouterr().out.splitlines()
  for name in ("table3 ", "figure5_left "):
    (line,) = [line for line in lines if line.startswith(name)]
    assert " 3 runs done, 0 missing" in line


@pytest.mark.parametrize("scale, seeds", [("smoke", 2), ("small", 3)])
def test_without_seeds_there_are_as_many_as_the_scale_has(
  tmp_path, capsys, scale, seeds
):
  reproduce.main(["--list", f"--scale={scale}", f"--runs={tmp_path}"])
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if line.startswith("figure11 ")]
  assert (
    f"0 runs done, {4 * seeds} missing" in line
  )  # Two rows for each of two tasks.


def make_result(*rows):
  """Makes a result of rows with a list of metrics, one for each seed."""
  result = {
    "rows": [
      {
        "label": label,
        "config": "quickstart",
        "paper": {},
        "direction": direction,
        "seeds": {str(seed): metrics for seed, metrics in enumerate(seeds)},
      }
      for label, direction, seeds in rows
    ]
  }
  result["table"] = statistics.make_table(result)
  return result


def test_the_standard_deviation_is_over_seeds_in_percent():
  result = make_result(("x", "", [{"attn_ari": 0.1}, {"attn_ari": 0.3}]))
  (line,) = result["table"]
  assert np.allclose([line["mean"], line["std"]], [20, 10])


def test_stripes_are_named_and_a_second_mean_leaves_them_out():
  good = [{"loss": x, "fg_ari": 0.9} for x in (0.010, 0.015, 0.029)]
  bad = {"loss": 0.046, "fg_ari": 0.1}
  result = make_result(("x", "", [good[0], bad, *good[1:], good[1]]))
  line = result["table"][1]
  assert line["stripes"] == "1" and line["num_seeds"] == 5
  assert line["mean"] == pytest.approx(74)
  assert line["mean_without_stripes"] == pytest.approx(90)
  assert tables.without_stripes(line) == "90.0 ± 0.0, without seed 1"
  rows = tables._measured(result, "")
  assert rows[0].endswith("| loss | fg_ari |")
  assert rows[2].endswith(" | 74.0 ± 32.0 |")
  assert rows[3].startswith("| x, without seed 1 |")
  assert rows[3].endswith(" | 90.0 ± 0.0 |")
  # The number of seeds that are left is named if it is small.
  (_, line) = make_result(("x", "", [good[0], bad, good[1]]))["table"]
  assert tables.without_stripes(line) == "90.0 ± 0.0 (2 seeds), without seed 1"
  # Two seeds are too few to tell, and set prediction has no stripes.
  for seeds in ([good[0], bad], [{"loss": x, "ap_1": 0.5} for x in (1, 1, 9)]):
    table = make_result(("x", "", seeds))["table"]
    assert not any(line["stripes"] for line in table)


def test_with_another_loss_the_squared_error_tells_of_stripes():
  """A negative log likelihood may be negative, and its ratios say nothing."""
  seeds = [
    {"loss": loss, "mse": mse, "fg_ari": 0.5}
    for loss, mse in ((-900.0, 0.01), (-1000.0, 0.01), (-100.0, 0.04))
  ]
  result = make_result(("x", "", seeds))
  assert {line["stripes"] for line in result["table"]} == {"2"}
  (mse,) = [line for line in result["table"] if line["metric"] == "mse"]
  assert mse["mean"] == pytest.approx(0.02)
  assert tables.here(mse) == "0.0200 ± 0.0141"
  assert tables.here({**mse, "num_seeds": 2}) == "0.0200 ± 0.0141 (2 seeds)"
  assert tables.here({**mse, "num_seeds": 1}) == "0.0200 (1 seed)"


def test_each_task_has_a_table_of_its_own_metrics():
  discovery = {"loss": 0.25, "fg_ari": 0.9}
  rows = [("x", "", [discovery]), ("y", "", [{"ap_1": 0.4}])]
  assert "##" not in "".join(tables._measured(make_result(rows[1]), ""))
  result = make_result(*rows, ("z", "", [None]))
  for row, config in zip(result["rows"], ("tetrominoes", "sets", "sets")):
    row["config"] = config
  result["table"] = statistics.make_table(result)
  assert tables._measured(result, "") == [
    "## Object discovery",
    "",
    "| row | config | loss | fg_ari |",
    "|---|---|---|---|",
    "| x | tetrominoes | 0.2500 (1 seed) | 90.0 (1 seed) |",
    "",
    "## Set prediction",
    "",
    "| row | config | ap_1 |",
    "|---|---|---|",
    "| y | sets | 40.0 (1 seed) |",
    "| z, seed 0 diverged | sets |  |",
  ]


def test_the_first_and_the_last_day_are_named_and_every_processor():
  result = {"date": "2026-01-02", "hardware": "1 x GPU"}
  assert tables.origin(result) == "2026-01-02, 1 x GPU"
  result = {
    "date": "2026-01-02 and 2026-01-03 and 2026-02-01",
    "hardware": "1 x GPU and 2 CPU cores",
  }
  assert (
    tables.origin(result) == "2026-01-02 to 2026-02-01, 1 x GPU; or 2 CPU cores"
  )


def test_bars_compare_variants_in_one_metric_and_name_a_second_default():
  rows = [
    {
      "label": label,
      "config": config,
      "direction": direction,
      "seeds": {"0": {"ap_1": 0.2, "ap_inf": 0.5, "loss": 1.0}, "1": None},
    }
    for label, config, direction in (
      ("default", "a", ""),
      ("no GRU", "a", "worse"),
      ("default", "b", ""),
    )
  ]
  bars = {"default": [20], "no GRU": [20], "default, b": [20]}
  assert tables._bars({"rows": rows}) == {"ap_1": bars}
  assert tables._bars({"rows": rows[:1]}) == {
    "ap_1": {"default": [20]},
    "ap_inf": {"default": [50]},
  }


def test_losses_of_good_seeds_are_far_from_the_limit_of_stripes():
  quickstart = json.loads((RESULTS / "quickstart.json").read_text())
  losses = [seed["loss"] for seed in quickstart["seeds"]]
  assert max(losses) < 2 * np.median(losses)
  assert statistics.STRIPES_FACTOR > 2


def test_a_seed_of_a_sweep_is_stripes_or_diverged_at_all_points():
  def sweep(scale):
    return [
      {"num_iterations": t, "loss": scale / t, "fg_ari": t / 10} for t in (1, 2)
    ]

  seeds = [sweep(0.1), sweep(0.1), sweep(0.11), None, sweep(0.4)]
  table = make_result(("x", "", seeds))["table"]
  assert [line["num_iterations"] for line in table] == [1, 1, 2, 2]
  for line in table:
    assert (line["stripes"], line["diverged"]) == ("4", "3")
    assert line["num_seeds"] == 4


WIDE, NARROW = (0.89, 0.90, 0.91), (0.899, 0.900, 0.901)


@pytest.mark.parametrize(
  ("metric", "default", "shares", "direction", "agrees"),
  [
    ("fg_ari", WIDE, (0.70, 0.71, 0.72), "worse", "yes"),
    ("fg_ari", WIDE, (0.70, 0.71, 0.72), "slightly worse", "yes"),
    ("fg_ari", WIDE, (0.70, 0.71, 0.72), "equal", "no"),
    ("fg_ari", WIDE, (0.70, 0.71, 0.72), "slightly better", "no"),
    ("fg_ari", WIDE, (0.70, 0.71, 0.72), "not stated", ""),
    ("fg_ari", WIDE, (0.96, 0.97, 0.97), "slightly better", "yes"),
    ("fg_ari", WIDE, (0.96, 0.97, 0.97), "worse", "no"),
    ("fg_ari", WIDE, WIDE, "worse", "not separable"),
    ("fg_ari", WIDE, WIDE, "equal", "not separable"),
    ("fg_ari", NARROW, NARROW, "worse", "equal within 2 points"),
    ("fg_ari", NARROW, NARROW, "equal", "yes"),
    ("ap_1", WIDE, (0.70, 0.71, 0.72), "worse", "yes"),
  ],
)
def test_differences_are_compared_with_the_papers(
  metric, default, shares, direction, agrees
):
  rows = [
    (label, x, [{"loss": 0.1, metric: share} for share in seeds])
    for label, x, seeds in (
      ("default", "", default),
      ("variant", direction, shares),
    )
  ]
  (line,) = statistics.make_differences(make_result(*rows))
  assert (line["metric"], line["agrees"]) == (metric, agrees)
  # Welch's t interval, written out.
  variances = np.var(shares, ddof=1) / 3, np.var(default, ddof=1) / 3
  freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
  half = scipy.stats.t.ppf(0.975, freedom) * sum(variances) ** 0.5
  difference = np.mean(shares) - np.mean(default)
  expected = 100 * np.array([difference - half, difference + half])
  np.testing.assert_allclose(line["interval"], expected)
  # A variant that diverged is worse, if enough seeds did.
  failed = [rows[0], ("variant", direction, [None] * 3)]
  (line,) = statistics.make_differences(make_result(*failed))
  worse = {"worse": "yes", "slightly worse": "yes", "not stated": ""}
  assert line["agrees"] == worse.get(direction, "no")
  failed = [rows[0], ("variant", direction, [None])]
  (line,) = statistics.make_differences(make_result(*failed))
  assert line["agrees"] == (agrees and "too few seeds")
  # Two seeds say little of the scatter.
  few = [(label, x, seeds[:2]) for label, x, seeds in rows]
  (line,) = statistics.make_differences(make_result(*few))
  assert line["interval"] is None and line["difference"] is not None
  assert line["agrees"] == (agrees and "too few seeds")


def test_seeds_that_were_evaluated_at_other_points_are_not_averaged():
  for steps in ((10, 20), (10,)):
    points = [[{"step": s, "loss": 0.1} for s in x] for x in ((10, 30), steps)]
    with pytest.raises(ValueError, match="evaluated at different points"):
      make_result(("x", "", points))


def test_metrics_that_a_seed_lacks_are_left_out():
  """Runs of earlier versions have fewer."""
  now, before = {"loss": 0.1, "fg_ari": 0.9, "mbo": 0.5}, {"loss": 0.1}
  result = make_result(("a", "", [now, before]), ("b", "", [before]))
  table = statistics.make_table(result)
  assert {line["metric"] for line in table} == {"loss"}
  panels = tables._bars(result)
  assert panels["mbo"] == {"a": [50.0]}


def test_values_without_scatter_are_compared_as_they_are():
  def compare(share):
    rows = (
      (label, direction, [{"loss": 0.1, "ap_1": x}] * 3)
      for label, direction, x in (("default", "", 0.0), ("x", "worse", share))
    )
    (line,) = statistics.make_differences(make_result(*rows))
    return line["interval"], line["agrees"]

  assert compare(0.0) == ([0.0, 0.0], "equal within 2 points")
  assert compare(0.5) == ([50.0, 50.0], "no")


def test_every_run_keeps_its_date_hardware_and_versions(
  tmp_path, trained, experiment, monkeypatch
):
  given = os.environ["XLA_FLAGS"].split()  # Those of the tests.
  monkeypatch.setenv("XLA_FLAGS", "\n  ".join(given))
  run(tmp_path, seeds=(0,))
  here = kept.provenance()
  versions = {**here["versions"], "jax": "9.9"}
  there = {"date": "2099-01-01", "hardware": "1 x GPU", "versions": versions}
  monkeypatch.setattr(kept, "provenance", lambda: there)
  result = run(tmp_path)
  assert result["date"] == f"{here['date']} and 2099-01-01"
  assert "1 x GPU" in result["hardware"] and "CPU" in result["hardware"]
  assert result["versions"]["jax"] == f"{here['versions']['jax']} and 9.9"
  assert result["versions"]["python"] == here["versions"]["python"]
  # Runs of before the flags were recorded are named as such.
  for trained_file in tmp_path.glob("*/small/**/1/trained.json"):
    content = json.loads(trained_file.read_text())
    assert content.pop("xla_flags") == " ".join(given)
    trained_file.write_text(json.dumps(content))
  flags = run(tmp_path)["xla_flags"]
  assert flags == f"{' '.join(given)} and not recorded"
  text = (tmp_path / "results" / "updates_small.md").read_text()
  assert f"XLA_FLAGS: {' '.join(given)}; or not recorded" in text


@pytest.mark.parametrize("folder", ["runs", "results/runs"])
def test_a_run_of_another_config_is_not_taken_for_this_one(
  tmp_path, trained, experiment, folder
):
  run(tmp_path)
  if folder == "results/runs":  # Only what was kept is left.
    shutil.rmtree(tmp_path / "runs")
  path = tmp_path / folder / "small/tetrominoes_small/default/0/trained.json"
  content = json.loads(path.read_text())
  fields = content["config"]
  num_steps = fields["num_steps"]
  assert num_steps == configs.load("tetrominoes_small").num_steps
  assert "data.data_dir" not in fields
  # A field that configs have got since then changes nothing, unless it has
  # another value than its default.
  for name in ("optimizer_epsilon", "data.procedural.background"):
    del fields[name]
  path.write_text(json.dumps(content))
  run(tmp_path, use_kept=True)
  fields["num_steps"] = 9
  path.write_text(json.dumps(content))
  message = f"default/0 was .* num_steps was 9, is now {num_steps}. Delete"
  with pytest.raises(ValueError, match=message):
    run(tmp_path, use_kept=True)
  assert len(trained) == 4


@pytest.mark.parametrize(
  "then, message",
  [
    ({"muon_kernels": None}, "muon_kernels was all, is now dense"),
    ({"num_steps": None}, "num_steps was None, is now"),
    ({"model.decoder.gone": 1}, "model.decoder.gone was 1, is now None"),
  ],
)
def test_fields_that_only_one_of_two_configs_has_are_compared(
  tmp_path, then, message
):
  config = configs.load("tetrominoes_small")
  trained_with = {**kept.fields(config), **then}
  for name in [name for name, value in then.items() if value is None]:
    del trained_with[name]
  content = {"metrics": {}, "config": trained_with}
  (tmp_path / "trained.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    kept.check(tmp_path, config)


def test_a_run_of_another_config_replaces_nothing_that_is_kept(
  tmp_path, trained, experiment
):
  run(tmp_path)
  path = "small/tetrominoes_small/default/0/trained.json"
  content = (tmp_path / "runs" / path).read_text()
  stale = json.loads(content)
  stale["config"]["num_steps"] = 9
  (tmp_path / "runs" / path).write_text(json.dumps(stale))
  with pytest.raises(ValueError, match="num_steps was 9"):
    run(tmp_path, use_kept=True)
  assert (tmp_path / "results/runs" / path).read_text() == content


def test_a_new_run_leaves_nothing_of_the_kept_one(
  tmp_path, trained, experiment
):
  run(tmp_path)
  folder = tmp_path / "results/runs/small/tetrominoes_small/default/0"
  other = folder / "reproduce_other_default.json"
  other.write_text("[]")
  run(tmp_path)  # It is the same run, so that its sweep stays.
  assert other.exists()
  shutil.rmtree(tmp_path / "runs")
  run(tmp_path)
  assert not other.exists() and (folder / "trained.json").exists()


def test_the_time_of_an_interrupted_run_is_not_taken_for_the_whole(
  tmp_path, trained, experiment, monkeypatch, capsys
):
  monkeypatch.setattr(checkpoints, "has_any", lambda workdir: True)
  run(tmp_path)
  files = [*tmp_path.glob("results/runs/**/trained.json")]
  assert {json.loads(x.read_text())["seconds"] for x in files} == {None}
  reproduce.main(
    ["--list", "--kept", f"--results={tmp_path / 'results'}", "--scale=small"]
  )
  (line,) = re.findall("updates .*", capsys.readouterr().out)
  assert "runs done" in line and "s a run" not in line


RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_of_the_results_is_up_to_date():
  text = (RESULTS / "README.md").read_text()
  assert text == page.render(RESULTS), (
    "run python -m slot_attention.paper.reproduce --page"
  )
  for link in re.findall(r"\]\(([^)]+)\)", text):
    assert (RESULTS / link).exists(), link


def test_the_page_shows_what_is_measured_at_which_scale(
  tmp_path, trained, experiment
):
  run(tmp_path, seeds=(0, 1, 2))
  folder = tmp_path / "results"
  (folder / "steps.json").write_text(
    json.dumps(
      {"command": "python -m x", "date": "2026-01-02", "device": "y", "seed": 3}
    )
  )
  (folder / "steps_gpu.json").write_text("{}")
  for name in ("steps.png", "steps_2.png", "steps_gpu.png"):
    (folder / name).touch()
  reproduce.main(["--page", f"--results={folder}"])
  text = (folder / "README.md").read_text()
  assert "| Figure 11 | Update function | not yet | [updates_small](" in text
  assert (
    "| Figure 11 | default | fg_ari | 98.8 ± 0.3 | not yet | 92.0 ±" in text
  )
  assert "- [updates_small](updates_small.md), fg_ari: 1 yes" in text
  assert (
    "| no GRU | tetrominoes_small | fg_ari | -40.0 (-44.5 to -35.5) | worse"
    " | yes |"
  ) in (folder / "updates_small.md").read_text()
  assert (
    "`python -m x`, 2026-01-02, y, jax not recorded, seed 3,"
    " [steps](steps.png), [steps_2](steps_2.png)\n" in text
  )


def test_the_page_names_the_rows_and_configs_that_are_missing(tmp_path):
  record = json.loads((RESULTS / "ablations_small.json").read_text())
  record["rows"] = [
    row
    for row in record["rows"]
    if row["config"] == "tetrominoes_small"
    and row["label"] != "Update function: no GRU"
  ]
  (tmp_path / "ablations_small.json").write_text(json.dumps(record))
  text = page.render(tmp_path)
  link = "see [ablations_small](ablations_small.md)"
  sets = "clevr_set_prediction_small not yet"
  assert f"| Residual MLP | not yet | {link}; {sets} |" in text
  gru = "no GRU on tetrominoes_small not yet"
  assert f"| Update function | not yet | {link}; {gru}; {sets}" in text
  assert f"; Update function: {gru}" in text
