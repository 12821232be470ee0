"""Tests that every command takes the paper's rivals as it takes its own model.

The rivals' equations are tested in tests/models.
"""

import json

import numpy as np
import PIL.Image
import pytest

from slot_attention import predict, pretrained
from slot_attention.paper import figures
from slot_attention.training import evaluate, runs, sweep, train
from tests.runs import read_lines, use_iodine, use_monet


@pytest.fixture(name="run", params=[use_iodine, use_monet], scope="module")
def _run(request, tmp_path_factory):
  """Returns the config and the folder of a trained run."""
  from tests.runs import make_config

  folder = tmp_path_factory.mktemp("rival")
  config = make_config(folder / "data")
  request.param(config)
  train.train(config, folder / "run")
  return runs.load_config(folder / "run"), folder / "run"


def has_iterations(config):
  return config.task == "iodine"


def test_a_run_has_the_metrics_and_pictures_of_object_discovery(run):
  config, workdir = run
  (folder,) = workdir.glob("eval_*")
  assert {path.name for path in folder.iterdir()} == {
    "metrics.json", "slots.png",
  }  # fmt: skip
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["num_slots"] == 4
  assert ("num_iterations" in metrics) == has_iterations(config)
  line = read_lines(workdir)[-1]
  assert line.keys() == {
    "step",
    "split",
    "loss",
    "mse",
    "fg_ari",
    "ari",
    "mbo",
  }
  # The squared error is that of images in [-1, 1]; the loss sums over pixels.
  assert 0 < line["mse"] < 10 < abs(line["loss"])


def test_an_evaluation_repeats_itself_and_may_have_more_slots(run):
  config, workdir = run
  first = evaluate.evaluate_run(config, workdir)
  assert evaluate.evaluate_run(config, workdir) == first
  section = "refinement" if has_iterations(config) else "attention"
  config = config.copy_and_resolve_references()
  config.model[section].num_slots = 6
  assert evaluate.evaluate_run(config, workdir)["loss"] != first["loss"]


def test_a_sweep_covers_what_the_model_has(run, monkeypatch):
  config, workdir = run
  monkeypatch.setattr(sweep, "SWEPT_ITERATIONS", (1, 2))
  # Images have three objects each, so that only IODINE has a curve.
  rows = sweep.sweep_run(config, workdir)
  iterations = [
    row["num_iterations"] for row in rows if row["sweep"] == "iterations"
  ]
  assert iterations == ([1, 2] if has_iterations(config) else [0])
  (slots,) = [row for row in rows if row["sweep"] == "slots"]
  assert (slots["num_objects"], slots["num_slots"]) == (3, 4)
  pictures = list(workdir.glob("eval_*/sweep.png"))
  assert len(pictures) == has_iterations(config)


def test_figures_are_those_that_the_model_has(run, tmp_path):
  config, workdir = run
  figures.main([f"--workdir={workdir}", f"--to={tmp_path}", "--num_images=1"])
  names = [path.name for path in sorted(tmp_path.iterdir())]
  has = ("20", "3a", "3c", "4") if has_iterations(config) else ("20", "3a", "4")
  assert names == [f"figure_{x}.png" for x in has]


def test_your_own_images_are_segmented(run, tmp_path):
  config, workdir = run
  image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  arguments = [f"--workdir={workdir}", f"--to={tmp_path}/out"]
  arguments.append(str(tmp_path / "a.png"))
  predict.main([*arguments, "--num_slots=5"])
  with np.load(tmp_path / "out/a/outputs.npz") as outputs:
    assert outputs["masks"].shape == (5, 12, 12, 1)
  segments = np.asarray(PIL.Image.open(tmp_path / "out/a/segments.png"))
  assert segments.shape == (30, 40)
  if not has_iterations(config):
    with pytest.raises(ValueError, match="MONet has no num_iterations"):
      predict.main([*arguments, "--num_iterations=5"])


def test_weights_are_exported_and_loaded(run, tmp_path, monkeypatch):
  _, workdir = run
  monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
  card = pretrained.export(
    workdir, tmp_path / "rival", command="x", hardware="y", date="2026-01-02"
  )
  assert card["evaluation"]["num_slots"] == 4
  assert pretrained.load("rival").step == 6
