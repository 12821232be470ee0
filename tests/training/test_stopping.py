"""Tests of the reasons to stop a run before its last step."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from slot_attention.training import (
  stopping,
  train,
)
from tests.runs import (
  assert_equal_trees,
  final_state,
  read_lines,
)


def test_sigterm_saves_and_the_run_goes_on_from_there(
  config, finished_run, tmp_path, monkeypatch
):
  finished_run(tmp_path / "whole")
  make_train_step = train.make_train_step
  steps = []

  def interrupt_after_five(*args):
    step = make_train_step(*args)

    def counted(state, batch):
      steps.append(1)
      if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      return step(state, batch)

    return counted

  monkeypatch.setattr(train, "make_train_step", interrupt_after_five)
  with pytest.raises(
    stopping.InterruptedRunError, match="SIGTERM: step 5 of 6 is saved"
  ):
    train.train(config, tmp_path / "parts")
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  final_state(tmp_path / "parts", 5)
  train.train(config, tmp_path / "parts")
  assert len(steps) == 6
  assert read_lines(tmp_path / "parts") == read_lines(tmp_path / "whole")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "parts", 6)
  )


def test_the_host_is_at_most_one_dispatch_ahead(config, tmp_path, monkeypatch):
  """Otherwise a run would stop only after all steps that wait."""
  config.log_every = config.eval_every = config.checkpoint_every = 6
  make_train_step = train.make_train_step
  losses = []

  @jax.jit
  def take_time(x):
    return jax.lax.fori_loop(0, 100, lambda _, y: jnp.tanh(y @ y), x)[0, 0]

  def make_slow_step(*args):
    step = make_train_step(*args)

    def slow_step(state, batch):
      assert all(loss.is_ready() for loss in losses[:-1])
      state, loss = step(state, batch)
      losses.append(loss + 0 * take_time(jnp.ones((400, 400))))
      return state, losses[-1]

    return slow_step

  monkeypatch.setattr(train, "make_train_step", make_slow_step)
  train.train(config, tmp_path)
  assert len(losses) == 6


def test_max_minutes_saves_and_ends_cleanly(config, tmp_path):
  config.max_minutes = 1e-6
  assert train.train(config, tmp_path) is None
  final_state(tmp_path, 1)
  config.max_minutes = 0.0
  assert train.train(config, tmp_path) is not None
  final_state(tmp_path, 6)
