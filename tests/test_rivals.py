"""Tests that every command takes the paper's rivals as it takes its own model.

The rivals' equations are tested in tests/models.
"""

from collections.abc import Callable
import json
from typing import NamedTuple

from ml_collections import ConfigDict
import numpy as np
import PIL.Image
import pytest

import configs
from slot_attention import predict, pretrained
from slot_attention.data import datasets
from slot_attention.paper import figures
from slot_attention.training import runs, sweep, train
from tests.runs import (
  BINARY,
  SETS,
  assert_repeats,
  make_config,
  read_lines,
  use_dspn,
  use_iodine,
  use_monet,
  use_nem,
)

_DISCOVERY = {"step", "split", "loss", "mse", "fg_ari", "ari", "mbo"}
_SETS = {
  "step", "split", "loss", "ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"
}  # fmt: skip


class Rival(NamedTuple):
  """What a model has, as its run shows it."""

  use: Callable[[ConfigDict], None]
  metrics: set[str]
  picture: str
  has_iterations: bool
  figures: tuple[str, ...]
  num_slots: int = 4
  has_free_slots: bool = True


RIVALS = {
  "iodine": Rival(
    use_iodine, _DISCOVERY, "slots.png", True,
    ("figure_20", "figure_3a", "figure_3c", "figure_4"),
  ),
  "monet": Rival(
    use_monet, _DISCOVERY, "slots.png", False,
    ("figure_20", "figure_3a", "figure_4"),
  ),
  "nem": Rival(
    use_nem, _DISCOVERY, "slots.png", True,
    ("figure_20", "figure_3a", "figure_4"),
  ),
  "dspn": Rival(
    use_dspn, _SETS, "predictions.png", True, ("table_2",), 5, False
  ),
}  # fmt: skip


@pytest.fixture(
  name="run",
  params=[
    pytest.param(name, marks=[pytest.mark.slow] * (name == "iodine"))
    for name in RIVALS
  ],
  scope="module",
)
def _run(request, tmp_path_factory):
  """Returns what a rival has, its config, and the folder of a trained run."""
  folder = tmp_path_factory.mktemp("rival")
  config = make_config(folder / "data")
  rival = RIVALS[request.param]
  rival.use(config)
  with pytest.MonkeyPatch.context() as context:
    context.setitem(datasets.DATA_SETS, "sets", SETS)
    context.setitem(datasets.DATA_SETS, "binary", BINARY)
    train.train(config, folder / "run")
    yield rival, runs.load_config(folder / "run"), folder / "run"


def test_a_run_has_the_metrics_and_pictures_of_its_task(run):
  rival, _, workdir = run
  (folder,) = workdir.glob("eval_*")
  assert {path.name for path in folder.iterdir()} == {
    "metrics.json", rival.picture,
  }  # fmt: skip
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["num_slots"] == rival.num_slots
  assert ("num_iterations" in metrics) == rival.has_iterations
  line = read_lines(workdir)[-1]
  assert line.keys() == rival.metrics
  # The squared error is that of images in [-1, 1]; the loss sums over pixels.
  if "mse" in line:
    assert 0 < line["mse"] < 10 < abs(line["loss"])


def test_an_evaluation_has_the_numbers_of_the_training(run):
  _, config, workdir = run
  assert_repeats(read_lines(workdir)[-1], config, workdir)


def test_a_sweep_covers_what_the_model_has(run, monkeypatch, short_sweeps):
  rival, config, workdir = run
  monkeypatch.setattr(sweep, "SWEPT_MANY_ITERATIONS", (4,))
  rows = sweep.sweep_run(config, workdir)
  iterations = {
    row["num_iterations"]: row["loss"]
    for row in rows
    if row["sweep"] == "iterations"
  }
  # SWEPT_ITERATIONS ends at 1 here, so that T = 2 is swept further.
  assert list(iterations) == ([1, 2, 4] if rival.has_iterations else [0])
  assert len(set(iterations.values())) == len(iterations)
  slots = [row for row in rows if row["sweep"] == "slots"]
  if rival.has_free_slots:
    (slots,) = slots  # Every image has three objects.
    assert (slots["num_objects"], slots["num_slots"]) == (3, 4)
  else:
    assert not slots
  more = {x["num_slots"]: x["loss"] for x in rows if x["sweep"] == "more_slots"}
  assert list(more) == ([4, 5] if rival.has_free_slots else [])
  assert len(set(more.values())) == len(more)
  # Each of the two sweeps is a curve.
  pictures = list(workdir.glob("eval_*/sweep.png"))
  assert len(pictures) == (rival.has_iterations or rival.has_free_slots)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["iodine"], indirect=True)
def test_a_sweep_has_no_fewer_slots_than_the_model_takes(run, monkeypatch):
  _, config, workdir = run
  trained = runs.load_config(workdir)
  trained.data.max_objects = 6  # Two more than slots.
  monkeypatch.setattr(sweep.runs, "load_config", lambda _: trained)
  (row,) = sweep.sweep_run(config, workdir, "slots")
  assert (row["num_objects"], row["num_slots"]) == (3, 2)


def test_figures_are_those_that_the_model_has(run, tmp_path):
  rival, _, workdir = run
  figures.main([f"--workdir={workdir}", f"--to={tmp_path}", "--num_images=1"])
  names = sorted(path.stem for path in tmp_path.iterdir())
  assert names == sorted(rival.figures)


def test_your_own_images_are_taken(run, tmp_path):
  rival, config, workdir = run
  image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  arguments = [f"--workdir={workdir}", f"--to={tmp_path}/out"]
  arguments.append(str(tmp_path / "a.png"))
  more = ["--num_slots=5"] if rival.has_free_slots else []
  predict.main([*arguments, *more])
  if "fg_ari" in rival.metrics:
    channels = datasets.image_shape(config.data)[-1]
    with np.load(tmp_path / "out/a/outputs.npz") as outputs:
      assert outputs["masks"].shape == (5, 12, 12, 1)
      assert outputs["recons"].shape == (5, 12, 12, channels)
    segments = np.asarray(PIL.Image.open(tmp_path / "out/a/segments.png"))
    assert segments.shape == (30, 40)
  else:
    objects = json.loads((tmp_path / "out/a/predictions.json").read_text())
    assert len(objects) <= rival.num_slots
  if rival.has_iterations:
    predict.main([*arguments, "--num_iterations=3"])
  else:
    with pytest.raises(ValueError, match="MONet has no num_iterations"):
      predict.main([*arguments, "--num_iterations=5"])
  if not rival.has_free_slots:
    with pytest.raises(ValueError, match="DSPN has no num_slots"):
      predict.main([*arguments, "--num_slots=6"])


def test_weights_are_exported_and_loaded(run, tmp_path, monkeypatch):
  rival, _, workdir = run
  monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
  card = pretrained.export(
    workdir, tmp_path / "rival", trained_by="x", hardware="y", date="2026-01-02"
  )
  assert card["evaluation"]["num_slots"] == rival.num_slots
  assert pretrained.load("rival").step == 6


@pytest.mark.parametrize(
  "name",
  [
    "iodine:tetrominoes_small",
    "monet:tetrominoes_small",
    "slot_mlp:tetrominoes_small",
    "iodine:multi_dsprites_small",
    "monet:multi_dsprites_small",
    "slot_mlp:multi_dsprites_small",
    "iodine:clevr_small",
    "monet:clevr_small",
    "slot_mlp:clevr_small",
    "slot_mlp:clevr_set_prediction_small",
    "dspn:clevr_set_prediction_small",
    "nem:multi_dsprites_binarized_small",
  ],
)
def test_a_rival_has_its_own_optimizer_on_the_small_sets(name):
  assert configs.load(name.partition(":")[2]).optimizer == "muon"
  assert configs.load(name).optimizer == "adam"
