"""Tests of the loop, on tiny models."""

import json
import shutil

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from slot_attention import parallel, tasks
from slot_attention.data import batches, loading
from slot_attention.training import (
  evaluate,
  optimizers,
  runs,
  sweep,
  train,
)
from tests.runs import (
  USE_MODEL,
  assert_equal_trees,
  final_state,
  read_lines,
  use_adaptive_invariant,
  use_savi,
  use_slot_attention,
  use_slot_mlp,
)


def test_a_run_writes_all_documented_files(config, tmp_path, with_pictures):
  metrics = train.train(config, tmp_path / "run")
  assert set(metrics) == {"loss", "fg_ari", "ari", "mbo"}
  lines = read_lines(tmp_path / "run")
  assert [(line["step"], line["split"]) for line in lines] == [
    (2, "train"), (3, "eval"), (4, "train"), (6, "train"), (6, "eval"),
  ]  # fmt: skip
  assert lines[0]["learning_rate"] == pytest.approx(1e-2 * 0.5 * 0.5**0.1)
  assert lines[-1]["fg_ari"] == metrics["fg_ari"]
  folder = tmp_path / "run" / "eval_tetrominoes_procedural"
  for name in ("slots.png", "attention.png"):
    assert (folder / name).read_bytes().startswith(b"\x89PNG")
  result = json.loads((folder / "metrics.json").read_text())
  assert result["num_examples"] == 6
  assert result["fg_ari"] == metrics["fg_ari"]


def test_training_lowers_the_loss_on_data_not_trained_on(config, tmp_path):
  config.num_steps = 60
  config.eval_every = 60
  config.checkpoint_every = 60
  with config.unlocked():
    before = config.copy_and_resolve_references()
  before.num_steps = before.warmup_steps = 1  # The first step has rate 0.
  untrained = train.train(before, tmp_path / "before")
  trained = train.train(config, tmp_path / "after")
  assert trained["loss"] < 0.7 * untrained["loss"]


APS = {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}


def test_set_prediction_trains_in_the_same_loop(
  set_config, tmp_path, with_pictures
):
  metrics = train.train(set_config, tmp_path)
  assert set(metrics) == {"loss", "attn_ari"} | APS
  assert list(tmp_path.glob("eval_*/attention.png"))
  assert list(tmp_path.glob("eval_*/predictions.png"))


def test_the_slot_mlp_predicts_sets(set_config, tmp_path):
  use_slot_mlp(set_config)
  metrics = train.train(set_config, tmp_path)
  assert set(metrics) == {"loss"} | APS
  set_config.loss.use_all_iterations = True
  with pytest.raises(ValueError, match="the Slot MLP has no iterations"):
    train.train(set_config, tmp_path)
  with pytest.raises(ValueError, match="this model cannot be swept"):
    sweep.sweep_run(runs.load_config(tmp_path), tmp_path)


def test_the_slot_mlp_trains_in_the_same_loop(config, tmp_path, with_pictures):
  del config.model.slot_attention
  config.model.slot_mlp = ConfigDict(
    {
      "num_slots": 4,
      "slot_size": 8,
      "hidden_sizes": (9,),
      "slot_mlp_sizes": (7, 8),
      "grid_size": 4,
    }
  )
  assert np.isfinite(train.train(config, tmp_path)["loss"])
  assert not list(tmp_path.glob("eval_*/attention.png"))


def losses_on(num_devices, config, monkeypatch):
  """Returns the losses of five steps and the evaluation after them.

  Parameters are not compared. Some of them, for example the bias of the
  decoder's alpha logits, do not affect the outputs, so that their gradients are
  only rounding errors, which Adam scales to steps of full size.
  """
  devices = jax.local_devices()[:num_devices]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(jax, "local_device_count", lambda: num_devices)
  task = tasks.make_task(config)
  data = loading.load(config.data)
  optimizer = optimizers.make_optimizer(optax.constant_schedule(1e-2), 0.0)
  params = task.init(jax.random.key(0), data.image_shape)
  state = parallel.replicate(
    train.TrainState(jnp.int32(0), params, optimizer.init(params))
  )
  step = train.make_train_step(task, optimizer, jax.random.key(1))
  losses = []
  feeder = batches.Feeder(data.splits["train"], "host")
  for batch in feeder.train_batches(range(5), batch_size=8, seed=0):
    state, loss = step(state, batch)
    losses.append(float(loss[0, 0]))
  evaluation = evaluate.make_evaluator(
    task, data.splits["eval"], batch_size=4, placement="host"
  )(state.params)
  return losses, evaluation


@pytest.mark.parametrize(
  "use_model",
  [
    pytest.param(
      use_model,
      marks=[pytest.mark.slow] * (use_model is not use_slot_attention),
    )
    for use_model in USE_MODEL
  ],
)
def test_one_device_and_four_give_the_same_numbers(
  config, monkeypatch, use_model
):
  use_model(config)
  with monkeypatch.context() as context:
    losses_1, evaluation_1 = losses_on(1, config, context)
  with monkeypatch.context() as context:
    losses_4, evaluation_4 = losses_on(4, config, context)
  assert losses_1[-1] < losses_1[0]
  np.testing.assert_allclose(losses_1, losses_4, rtol=1e-5)
  assert evaluation_1 == pytest.approx(evaluation_4, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
  "use_model, optimizer",
  [
    (use_slot_attention, "adam"),
    pytest.param(use_slot_attention, "muon", marks=pytest.mark.slow),
    # Its training draws noise.
    pytest.param(use_adaptive_invariant, "adam", marks=pytest.mark.slow),
    pytest.param(use_savi, "muon", marks=pytest.mark.slow),
  ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
  config, tmp_path, monkeypatch, use_model, optimizer
):
  use_model(config)
  config.optimizer = optimizer
  monkeypatch.setattr(optimizers, "MIN_MUON_SIZE", 4)  # The model is tiny.
  train.train(config, tmp_path / "whole")
  config.num_steps = 3
  train.train(config, tmp_path / "parts")
  config.num_steps = 6
  train.train(config, tmp_path / "parts")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "parts", 6)
  )
  # Only the shorter run logs its last step, 3.
  parts = [
    line
    for line in read_lines(tmp_path / "parts")
    if (line["step"], line["split"]) != (3, "train")
  ]
  assert parts == read_lines(tmp_path / "whole")


def test_work_after_the_last_checkpoint_is_done_again(
  config, finished_run, tmp_path
):
  finished_run(tmp_path / "whole")
  config.checkpoint_every = 4
  train.train(config, tmp_path / "killed")
  # The files look as if a kill came after step 4, while writing a line.
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
  with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 6, "spl')
  train.train(config, tmp_path / "killed")
  assert read_lines(tmp_path / "killed") == read_lines(tmp_path / "whole")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "killed", 6)
  )


def test_steps_of_one_dispatch_train_as_single_steps(config, tmp_path):
  config.log_every = config.checkpoint_every = config.eval_every = 3
  train.train(config, tmp_path / "apart")
  config.steps_per_dispatch = 3
  train.train(config, tmp_path / "together")
  apart, together = (
    read_lines(tmp_path / name) for name in ("apart", "together")
  )
  assert [line["step"] for line in together] == [3, 3, 6, 6]
  for a, b in zip(apart, together, strict=True):
    assert a.pop("split") == b.pop("split")
    assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def test_a_run_goes_on_with_dispatches_that_divide_its_steps(config, tmp_path):
  config.log_every = config.checkpoint_every = config.eval_every = 3
  config.steps_per_dispatch = 3
  train.train(config, tmp_path / "whole")
  config.num_steps = 3
  train.train(config, tmp_path / "cut")

  def go_on(steps_per_dispatch):
    every = 2 * steps_per_dispatch
    config.update(
      num_steps=12, steps_per_dispatch=steps_per_dispatch,
      log_every=every, checkpoint_every=every, eval_every=every,
    )  # fmt: skip
    train.train(config, tmp_path / "cut")

  before = (tmp_path / "cut" / "config.json").read_text()
  with pytest.raises(ValueError, match="=2 does not divide the 3 steps"):
    go_on(2)
  assert (tmp_path / "cut" / "config.json").read_text() == before
  go_on(1)
  whole, cut = (
    [line for line in read_lines(tmp_path / name) if line["step"] == 6]
    for name in ("whole", "cut")
  )
  for a, b in zip(whole, cut, strict=True):
    assert a.pop("split") == b.pop("split")
    assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def test_the_newest_checkpoints_are_kept_and_every_line_of_metrics_is_sent(
  config, tmp_path
):
  config.checkpoint_every = 1
  lines = []

  def send(step, split, metrics):
    lines.append({"step": step, "split": split, **metrics})

  train.train(config, tmp_path, on_metrics=send)
  assert lines == read_lines(tmp_path)
  steps = [path.name for path in (tmp_path / "checkpoints").iterdir()]
  assert sorted(steps) == ["5", "6"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
  config, tmp_path
):
  # The first update has rate 0, so step 2 still has the initial parameters. The
  # second update makes the loss of step 3 NaN.
  config.learning_rate = 1e30
  config.log_every = 6
  config.eval_every = 6
  with pytest.raises(FloatingPointError) as error:
    train.train(config, tmp_path)
  assert "is not finite at step 3. Try a lower learning_rate" in str(
    error.value
  )
  assert f"no checkpoint yet, so {tmp_path} can be used again" in str(
    error.value
  )
  # The advice can be followed.
  config.learning_rate = 1e-3
  train.train(config, tmp_path)
  assert [line["step"] for line in read_lines(tmp_path)] == [6, 6]
