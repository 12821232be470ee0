"""Metrics of a run: JSON lines always, TensorBoard where TensorFlow is."""

import json
import os
from pathlib import Path

from absl import logging


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl and to TensorBoard event files.

  Each line is one JSON object: "step", "split", and the metrics. It holds
  nothing that depends on the clock, so that a resumed run writes the lines of
  an undisturbed one. Lines after `step`, from work that no checkpoint kept,
  are taken out at the start. Used as a context, which closes the files.
  """

  def __init__(self, workdir: Path, step: int):
    self._path = workdir / "metrics.jsonl"
    self._keep_until(step)
    self._file = self._path.open("a")
    self._tensorboard = _tensorboard(workdir)

  def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
    """Writes metrics after `step` updates."""
    line = {"step": step, "split": split, **metrics}
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    if self._tensorboard:
      self._tensorboard.write_scalars(
        step, {f"{split}/{name}": value for name, value in metrics.items()}
      )
      self._tensorboard.flush()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_) -> None:
    self._file.close()
    if self._tensorboard:
      self._tensorboard.close()

  def _keep_until(self, step):
    if not self._path.exists():
      return
    kept = [
      line
      for line in self._path.read_text().splitlines(keepends=True)
      # A line without its end was being written when the process died.
      if line.endswith("\n") and json.loads(line)["step"] <= step
    ]
    partial = self._path.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, self._path)


def _tensorboard(workdir):
  try:
    from clu import metric_writers
  except ImportError:
    logging.info("No TensorBoard files: TensorFlow is not installed.")
    return None
  return metric_writers.SummaryWriter(str(workdir / "tensorboard"))
