"""Tests of what is said before training at the paper's scale."""

import pytest

import configs
from slot_attention.paper import plan, reproduce
from slot_attention.training import train


@pytest.mark.slow
def test_a_step_is_measured_and_scaled_to_the_batch():
  config = configs.load("smoke:clevr_set_prediction")
  config.batch_size = 64
  seconds = plan.seconds_per_step(config)
  assert 0 < seconds < 60
  config.batch_size = 64_000
  config.optimizer = "muon"
  assert plan.seconds_per_step(config) > 50 * seconds


def test_the_papers_scale_says_what_it_takes_and_waits_for_yes(
  tmp_path, monkeypatch, capsys
):
  measured = []
  monkeypatch.setattr(
    plan, "seconds_per_step", lambda config: measured.append(config) or 0.36
  )
  trained = []

  def train_(config, workdir):
    trained.append(config)
    workdir.mkdir(parents=True)
    return {"loss": 1.0}

  monkeypatch.setattr(train, "train", train_)
  (tmp_path / "results").mkdir()
  arguments = [
    "soft_kmeans", "--seeds=0,1", f"--runs={tmp_path}",
    f"--results={tmp_path / 'results'}",
  ]  # fmt: skip
  reproduce.main(arguments)
  printed = capsys.readouterr().out
  assert "4 runs are missing" in printed and "about 200 hours" in printed
  assert printed.count("500,000 steps of 64, about 50.0 hours") == 4
  assert printed.strip().endswith("Nothing is trained yet: add --yes.")
  assert len(measured) == 2  # Two rows; a seed changes nothing.
  assert not trained and not list(tmp_path.glob("results/*"))
  reproduce.main([*arguments, "--yes"])
  assert len(trained) == 4
  assert list(tmp_path.glob("results/soft_kmeans_paper.json"))
  # What is finished is not trained again.
  jobs = plan.missing_jobs("table1", "paper", (0, 2), tmp_path)
  names = {str(job.directory) for job in jobs}
  assert "paper/clevr6_object_discovery/default/0" not in names
  assert "paper/clevr6_object_discovery/default/2" in names
  jobs = plan.missing_jobs("table1", "paper", (0,), tmp_path, None, "MONet")
  assert {job.row.label.partition(",")[0] for job in jobs} == {"MONet"}


def test_a_kept_run_without_the_sweep_of_a_figure_needs_training(tmp_path):
  folder = tmp_path / "kept/paper/clevr_set_prediction/default/0"
  folder.mkdir(parents=True)
  trained = folder / "trained.json"
  trained.write_text('{"metrics": {"loss": 1}}')

  def missing(name, **places):
    places = {"runs": tmp_path / "runs", "kept": tmp_path / "kept", **places}
    return [
      x.config.seed for x in plan.missing_jobs(name, "paper", [0], **places)
    ]

  assert missing("figure5_center") == [0]
  # With its parameters, the run can be swept.
  assert missing("figure5_center", runs=tmp_path / "kept", kept=None) == []
  (folder / "reproduce_figure5_center_Slot_Attention.json").write_text("[]")
  assert missing("figure5_center") == []
  assert missing("figure5_center", kept=None) == [0]
