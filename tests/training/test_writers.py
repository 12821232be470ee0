"""Tests of the files for TensorBoard."""

import matplotlib.image
import numpy as np
import pytest

from slot_attention.training import (
  evaluate,
  runs,
  writers,
)
from tests.runs import (
  make_run,
  read_lines,
)


def test_a_run_without_history_is_evaluated_and_shown_in_tensorboard(
  tmp_path, with_pictures
):
  """Converted runs have no history."""
  pytest.importorskip("tensorflow")
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.plugins.hparams import plugin_data_pb2

  workdir = make_run(tmp_path / "run", "quickstart")
  evaluate.evaluate_run(runs.load_config(workdir), workdir)
  events = event_accumulator.EventAccumulator(str(workdir / "tensorboard"))
  events.Reload()
  for name in ("slots", "attention"):
    (event,) = events.Tensors(name)
    width, height, png = event.tensor_proto.string_val
    assert event.step == 3 and png.startswith(b"\x89PNG")
    assert min(int(width), int(height)) > 100
  metadata = events.SummaryMetadata("_hparams_/session_start_info")
  data = plugin_data_pb2.HParamsPluginData.FromString(
    metadata.plugin_data.content
  )
  shown = data.session_start_info.hparams
  assert shown["batch_size"].number_value == 8
  assert shown["model.encoder.strides"].string_value == "(1, 1, 1, 1)"
  assert np.isclose(shown["model.slot_attention.epsilon"].number_value, 1e-8)


def test_metrics_go_to_tensorboard_if_tensorflow_is_installed(tmp_path):
  pytest.importorskip("tensorflow")
  with writers.MetricWriter(tmp_path, 0) as writer:
    writer.write(3, "train", {"loss": 0.25})
    writer.write_speed(3, batch_size=8)
    writer.write_speed(5, batch_size=8)
    picture = np.full((4, 6, 3), 0.5)
    matplotlib.image.imsave(tmp_path / "slots.png", picture)
    writer.write_pictures(3, [tmp_path / "slots.png"])
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
  events.Reload()
  (scalar,) = events.Tensors("train/loss")
  (shown,) = events.Tensors("slots")
  assert scalar.step == shown.step == 3
  steps, examples = (
    events.Tensors(f"speed/{name}_per_second") for name in ("steps", "examples")
  )
  assert [event.step for event in steps] == [5]
  rates = [
    tensor_util.make_ndarray(x[0].tensor_proto) for x in (steps, examples)
  ]
  assert rates[0] > 0 and rates[1] == pytest.approx(8 * rates[0])
  assert shown.tensor_proto.string_val[:2] == [b"6", b"4"]
  assert read_lines(tmp_path)[0] == {"step": 3, "split": "train", "loss": 0.25}


def test_a_function_gets_every_line_of_metrics(tmp_path):
  lines = []
  with writers.MetricWriter(
    tmp_path, 0, lambda *line: lines.append(line)
  ) as writer:
    writer.write(2, "train", {"loss": 0.5})
    writer.write(2, "eval", {"loss": 0.25, "fg_ari": 1.0})
  assert lines == [
    (line.pop("step"), line.pop("split"), line) for line in read_lines(tmp_path)
  ]
  assert len(lines) == 2
