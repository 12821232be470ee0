"""Tests that every command takes the successors as it takes Slot Attention.

Their equations are tested in tests/models; resuming and devices in
tests/training.
"""

from ml_collections import ConfigDict
import numpy as np
import PIL.Image
import pytest

from slot_attention import predict, pretrained, tasks
from slot_attention.explore.weights import Weights
from slot_attention.paper import figures
from slot_attention.training import checkpoints, evaluate, runs, sweep, train
from tests.runs import (
  USE_SUCCESSOR,
  assert_repeats,
  make_config,
  read_lines,
  use_invariant,
  use_mesh,
  use_savi,
)


@pytest.fixture(name="run", params=USE_SUCCESSOR, scope="module")
def _run(request, tmp_path_factory):
  """Returns the config and the folder of a trained run."""
  folder = tmp_path_factory.mktemp("successor")
  config = make_config(folder / "data")
  request.param(config)
  train.train(config, folder / "run")
  return runs.load_config(folder / "run"), folder / "run"


def test_a_run_has_the_metrics_and_pictures_of_object_discovery(run):
  config, workdir = run
  (folder,) = workdir.glob("eval_*")
  assert {path.name for path in folder.iterdir()} == {
    "metrics.json", "slots.png", "attention.png",
  }  # fmt: skip
  line = read_lines(workdir)[-1]
  names = {"step", "split", "loss", "fg_ari", "ari", "mbo"}
  if config.task == "adaptive_object_discovery":
    names |= {"mse", "kept_slots"}
    # The loss has 0.1 times the share of the four slots that are kept.
    share = line["kept_slots"] / 4
    assert line["loss"] == pytest.approx(line["mse"] + 0.1 * share, abs=1e-5)
  assert line.keys() == names


def test_an_evaluation_has_the_numbers_of_the_training(run):
  config, workdir = run
  assert_repeats(read_lines(workdir)[-1], config, workdir)
  if "invariant_slot_attention" in config.model:  # It learns K vectors.
    config = config.copy_and_resolve_references()
    tasks.slots_section(config).num_slots = 3
    with pytest.raises(checkpoints.MisfitError, match="slots_init is saved"):
      evaluate.evaluate_run(config, workdir)


def test_a_sweep_has_iterations_and_slots(run, short_sweeps):
  config, workdir = run
  rows = sweep.sweep_run(config, workdir)
  swept = [x["num_iterations"] for x in rows if x["sweep"] == "iterations"]
  assert swept == [1, 2]
  if "invariant_slot_attention" not in config.model:
    more = [x["loss"] for x in rows if x["sweep"] == "more_slots"]
    assert len(set(more)) == 2


def test_figures_and_your_own_images(run, tmp_path):
  config, workdir = run
  image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  arguments = [f"--workdir={workdir}", f"--to={tmp_path}/out"]
  predict.main(
    [*arguments, str(tmp_path / "a.png"), "--num_slots=3", "--num_iterations=4"]
  )
  with np.load(tmp_path / "out/a/outputs.npz") as outputs:
    assert outputs["masks"].shape == (3, 12, 12, 1)
    assert outputs["attn"].shape == (4, 36, 3)
  figures.main([f"--workdir={workdir}", f"--to={tmp_path}", "--num_images=1"])
  names = {path.name for path in tmp_path.glob("figure_*")}
  # Learned initial slots cannot be more than they were in training.
  drawn = {"20", "3a", "3b", "3c", "4"}
  if "invariant_slot_attention" in config.model:
    drawn.remove("20")
  assert names == {f"figure_{x}.png" for x in drawn}


@pytest.mark.slow
@pytest.mark.parametrize("use_successor", [use_invariant, use_mesh])
def test_sets_are_predicted_as_well(
  set_config, tmp_path, with_pictures, use_successor
):
  set_config.model.decoder = ConfigDict()
  use_successor(set_config)
  del set_config.model[
    "decoder" if use_successor is use_mesh else "invariant_decoder"
  ]
  set_config.loss.use_all_iterations = True
  metrics = train.train(set_config, tmp_path)
  assert {"loss", "attn_ari", "ap_0.25"} < set(metrics)
  assert list(tmp_path.glob("eval_*/predictions.png"))


def test_weights_are_exported_and_loaded(run, tmp_path, monkeypatch):
  _, workdir = run
  monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
  card = pretrained.export(
    workdir, tmp_path / "x", trained_by="x", hardware="y", date="2026-01-02"
  )
  assert card["evaluation"]["num_slots"] == 4
  assert pretrained.load("x").step == 6


@pytest.fixture(name="video_run", scope="module")
def _video_run(tmp_path_factory):
  """Returns the config and the folder of a trained run of SAVi."""
  folder = tmp_path_factory.mktemp("savi")
  config = make_config(folder / "data")
  use_savi(config)
  train.train(config, folder / "run")
  return runs.load_config(folder / "run"), folder / "run"


@pytest.mark.slow
def test_a_run_of_videos_has_the_metrics_and_pictures_of_images(video_run):
  config, workdir = video_run
  assert read_lines(workdir)[-1].keys() == {
    "step", "split", "loss", "fg_ari", "ari", "mbo",
  }  # fmt: skip
  (folder,) = workdir.glob("eval_*")
  pictures = {path.stem: path for path in folder.glob("*.png")}
  assert pictures.keys() == {"slots", "attention"}
  # A row for each of three frames of four videos; image, reconstruction, masks
  # and four slots beside each other.
  with PIL.Image.open(pictures["slots"]) as picture:
    width, height = picture.size
  assert height / width == pytest.approx(12 / 7, rel=0.15)
  line = read_lines(workdir)[-1]
  assert_repeats(line, config, workdir)
  config = config.copy_and_resolve_references()
  config.model.slot_attention.num_slots = 3
  config.data.procedural.num_frames = 2
  assert evaluate.evaluate_run(config, workdir)["loss"] != line["loss"]


def test_a_sweep_of_videos_has_iterations_objects_and_slots(
  video_run, monkeypatch, short_sweeps
):
  config, workdir = video_run
  monkeypatch.setattr(sweep, "SWEPT_ITERATIONS", (1, 3))
  rows = sweep.sweep_run(config, workdir)
  places = {
    (x["sweep"], x["num_iterations"], x["num_slots"], x["num_objects"])
    for x in rows
  }
  assert places == {
    *(("iterations", t, 4, 0) for t in (1, 3)),
    *(("objects", t, 4, n) for t in (1, 3) for n in (2, 3)),
    *(("slots", 1, n + 1, n) for n in (2, 3)),
    *(("more_slots", 1, k, 0) for k in (4, 5)),
  }


def test_commands_of_single_images_refuse_a_run_of_videos(
  video_run, tmp_path, monkeypatch
):
  _, workdir = video_run
  PIL.Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
  flags = [f"--workdir={workdir}", f"--to={tmp_path / 'out'}"]
  for command in (
    lambda: predict.main([*flags, str(tmp_path / "a.png")]),
    lambda: figures.main(flags),
    lambda: Weights(None, str(workdir)),
  ):
    with pytest.raises(ValueError, match="takes videos, and this command sing"):
      command()
  assert not (tmp_path / "out").exists()
  # Its weights can be kept, with whole videos as examples.
  monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
  pretrained.export(
    workdir, tmp_path / "x", trained_by="x", hardware="y", date="2026-01-02"
  )
  assert pretrained.load("x").step == 6
  examples = pretrained.load_examples("x")
  assert examples["images"].shape == (6, 3, 16, 16, 3)
  with pytest.raises(ValueError, match="x takes videos"):
    pretrained.load_any(None, "x")
