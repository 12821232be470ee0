"""Tests of the weights that come with the package."""

import json

import jax
import numpy as np
import pytest

from slot_attention import parallel, pretrained, tasks
from slot_attention.data import datasets, loading, store, tetrominoes
from slot_attention.training import checkpoints, evaluate, runs, train
from tests.runs import make_run

ORIGIN = {
  "trained_by": "python main.py",
  "hardware": "none",
  "date": "2026-11-22",
}


def load_without_newer_fields(name, workdir):
  """Loads the config of shipped weights as if it were older than some fields.

  Fields that are added later have defaults, so old configs lack them.
  """
  config = json.loads((pretrained.WEIGHTS / name / "config.json").read_text())
  for section in config["model"].values():
    for field, default in (
      ("temperature", "sqrt_d"),
      ("remat_chunk_size", 0),
      ("use_position_embedding", True),
      ("input_scale", 1.0),
    ):
      if section.get(field) == default:
        del section[field]
  (workdir / "config.json").write_text(json.dumps(config))
  return runs.load_config(workdir)


@pytest.mark.parametrize("name", pretrained.names())
def test_the_config_of_shipped_weights_needs_no_newer_fields(name, tmp_path):
  config = load_without_newer_fields(name, tmp_path)
  assert config == pretrained.load(name).config


def test_the_config_of_shipped_weights_trains(tmp_path):
  config = load_without_newer_fields("quickstart", tmp_path)
  config.update(
    batch_size=4, num_steps=1, steps_per_dispatch=1, log_every=1, eval_every=1,
    checkpoint_every=1, eval_batch_size=4,
  )  # fmt: skip
  config.data.update(
    data_dir=str(tmp_path / "data"), num_examples=12, num_train=8, num_eval=4
  )
  metrics = train.train(config, tmp_path / "run")
  assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_weights_fit_their_config_and_are_not_fresh(name):
  run = pretrained.load(name)
  shape = datasets.image_shape(run.config.data)
  checkpoints.check_fit(run.params, run.task, shape)
  batch = tasks.normalize(pretrained.load_examples(name))
  assert batch["images"].shape[1:] == shape
  losses = []
  for params in (run.params, run.task.init(jax.random.key(0), shape)):
    outputs = jax.jit(run.task.apply)(params, batch, jax.random.key(0))
    losses.append(float(run.task.loss(outputs, batch).mean()))
  trained, fresh = losses
  card = pretrained.load_card(name)
  assert trained < fresh / 2
  assert trained < 2 * card["evaluation"]["metrics"]["loss"]
  assert run.step == card["training"]["steps"]


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_files_are_small_and_not_pickled(name):
  for path in (pretrained.WEIGHTS / name).iterdir():
    assert path.stat().st_size < 1_000_000
    if path.suffix == ".npz":
      with np.load(path, allow_pickle=False) as file:
        assert all(file[key].dtype.kind in "fiu" for key in file)


def test_the_quickstart_scores_what_its_card_says():
  run = pretrained.load("quickstart")
  card = pretrained.load_card("quickstart")
  data = card["data"]
  # The examples after the training examples are drawn again.
  first = data["num_train"] // tetrominoes.CHUNK_SIZE
  assert first * tetrominoes.CHUNK_SIZE == data["num_train"]
  drawn = tetrominoes.generate(first, **data["procedural"])
  examples = pretrained.load_examples("quickstart")
  count = len(examples["images"])
  np.testing.assert_array_equal(drawn["images"][:count], examples["images"])
  measure = evaluate.make_evaluator(
    run.task,
    store.Split(drawn, np.arange(data["num_eval"])),
    batch_size=64,
    placement="device",
  )
  metrics = measure(parallel.replicate(run.params))
  expected = card["evaluation"]["metrics"]
  assert metrics["fg_ari"] == pytest.approx(expected["fg_ari"], abs=0.002)
  assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.parametrize("dtype", pretrained.DTYPES)
def test_what_is_exported_is_evaluated_and_loaded(
  tmp_path, monkeypatch, dtype, capsys
):
  workdir = make_run(tmp_path / "run", "quickstart")
  monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
  pretrained.main(
    [
      "--export=mine",
      f"--workdir={workdir}",
      f"--to={tmp_path}/weights",
      f"--dtype={dtype}",
      f"--command={ORIGIN['trained_by']}",
      f"--hardware={ORIGIN['hardware']}",
      f"--date={ORIGIN['date']}",
    ]
  )
  run, loaded = runs.load(workdir), pretrained.load("mine")
  assert loaded.config == run.config and loaded.step == run.step
  with pytest.raises(ValueError, match="mine has weights already"):
    pretrained.export(workdir, tmp_path / "weights" / "mine", **ORIGIN)
  tolerance = {"float32": 0, "float16": 1e-3}[dtype]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-7),
    loaded.params,
    run.params,
  )
  card = pretrained.load_card("mine")
  assert card["parameters"] == sum(x.size for x in jax.tree.leaves(run.params))
  pretrained.main([])
  printed = capsys.readouterr().out
  assert f"{card['evaluation']['metrics']['loss']:.4f}" in printed
  measure = evaluate.make_evaluator(
    run.task,
    loading.load(run.config.data).splits["eval"],
    batch_size=8,
    placement="host",
  )
  of_run = measure(parallel.replicate(run.params))
  of_card = card["evaluation"]["metrics"]
  if dtype == "float32":
    assert of_run == pytest.approx(of_card)
  else:  # The card is about the stored parameters.
    assert of_run["loss"] != of_card["loss"]


def test_bad_exports_say_what_is_wrong(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="also needs --workdir, --command"):
    pretrained.main(["--export=mine"])
  with pytest.raises(ValueError, match="--to is for --export=NAME"):
    pretrained.main([f"--to={tmp_path}"])
  with pytest.raises(
    ValueError, match="no weights called 'mine': .*quickstart"
  ):
    pretrained.load("mine")
  workdir = make_run(tmp_path / "run", "quickstart")
  monkeypatch.setattr(pretrained, "_MAX_BYTES", 1000)
  with pytest.raises(ValueError, match="more than 1,000; try --dtype=float16"):
    pretrained.export(workdir, tmp_path / "mine", **ORIGIN)
  assert not (tmp_path / "mine" / "params.npz").exists()
  monkeypatch.setattr(parallel, "num_devices", lambda: 3)
  with pytest.raises(ValueError, match="not a multiple of the 3 devices"):
    pretrained.export(workdir, tmp_path / "other", **ORIGIN)
  assert not (tmp_path / "other").exists()
  with pytest.raises(ValueError, match="'today' is not a date as YYYY-MM-DD"):
    pretrained.export(workdir, tmp_path / "mine", **{**ORIGIN, "date": "today"})


def test_cards_say_where_weights_come_from():
  for name in pretrained.names():
    card = json.loads((pretrained.WEIGHTS / name / "card.json").read_text())
    training = card["training"]
    assert training["command"].startswith("python ") and training["hardware"]
    assert card["evaluation"]["examples"] >= 320
