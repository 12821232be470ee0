"""Tests of the progress bars."""

from slot_attention.progress import progress_bar


def test_the_rate_leaves_out_the_time_that_the_first_step_compiles(capsys):
  with progress_bar(total=5, initial=1, desc="training", unit="step") as bar:
    clock = [100.0]
    bar.start_t = bar.last_print_t = 0.0
    bar._time = lambda: clock[0]
    bar.update()
    clock[0] = 101.0
    bar.update()
    assert bar.format_dict["elapsed"] == 1.0
  assert "3/5" in capsys.readouterr().err


def test_a_log_file_has_few_lines(capsys):
  with progress_bar(total=100, desc="training", unit="step") as bar:
    for step in range(100):
      bar.update()
      bar.set_postfix(loss=step)
  output = capsys.readouterr().err
  assert output.count("\r") <= 3 and "loss=99" in output


def test_a_bar_that_is_not_shown_prints_nothing(capsys):
  """As in every process but the first."""
  with progress_bar(total=5, desc="training", unit="step", disable=True) as bar:
    bar.update()
    bar.update()
  assert not capsys.readouterr().err
