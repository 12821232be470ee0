"""Tests of what TensorBoard shows of a run."""

import numpy as np
import pytest

from slot_attention.training import checkpoints, evaluate
from tests.runs import make_run


def test_a_run_without_history_is_evaluated_and_shown_in_tensorboard(tmp_path):
  """As a converted one is."""
  pytest.importorskip("tensorflow")
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.plugins.hparams import plugin_data_pb2

  workdir = make_run(tmp_path / "run", "quickstart")
  evaluate.evaluate_run(workdir, checkpoints.load_config(workdir))
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
