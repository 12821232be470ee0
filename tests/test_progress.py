"""Tests of the progress bars."""

import time

from slot_attention.progress import progress_bar


def test_the_rate_leaves_out_the_time_that_the_first_step_compiles(capsys):
  with progress_bar(total=5, initial=1, desc="training", unit="step") as bar:
    time.sleep(1.0)
    bar.update()
    time.sleep(0.1)
    bar.update()
    elapsed = bar.format_dict["elapsed"]
    assert 0.1 <= elapsed < 0.9
  assert "3/5" in capsys.readouterr().err


def test_a_bar_that_is_not_shown_counts_nothing(capsys):
  """As in every process but the first."""
  with progress_bar(total=5, desc="training", unit="step", disable=True) as bar:
    bar.update()
    bar.update()
  assert not capsys.readouterr().err
