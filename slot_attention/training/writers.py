"""Writes the metrics of a run as JSON lines and for TensorBoard."""

from collections.abc import Callable, Sequence
import contextlib
import functools
import json
import os
from pathlib import Path
import time
from typing import Any

from absl import logging
from flax import traverse_util
import ml_collections

from slot_attention import files, parallel

# The file in the folder of a run that has its metrics.
METRICS_FILE = "metrics.jsonl"

# A function of step, split and metrics.
OnMetrics = Callable[[int, str, dict[str, float]], None]


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl and to TensorBoard event files.

  The event files are written only if TensorFlow is installed. Each line of
  metrics.jsonl is a JSON object with "step", "split" and the metrics. It does
  not contain times, so that a resumed run writes the same lines as a run
  without interruption; only TensorBoard shows the speed. Lines after `step`,
  for which there is no checkpoint, are removed at the start. Only the first
  process writes. The writer is a context, which closes the files.

  Raises:
    OSError: if a file cannot be written. The error names the file.
  """

  def __init__(
    self, workdir: Path, step: int, on_metrics: OnMetrics | None = None
  ):
    """Opens the files.

    Args:
      workdir: folder of the run.
      step: number of updates of the checkpoint from which the run continues.
      on_metrics: called with every line.
    """
    self._on_metrics = on_metrics
    self._workdir = workdir
    self._path = workdir / METRICS_FILE
    self._file = None
    self._last = None  # Step and time of the last call of `write_speed`.
    if parallel.is_first_process():
      with self._errors_of_the_disk():
        self._keep_until(step)
        self._file = self._path.open("a")

  @functools.cached_property
  def _tensorboard(self):
    # TensorFlow takes seconds to import, and the first step need not wait.
    return _open_tensorboard(self._workdir) if self._file else None

  def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
    """Writes the metrics after `step` updates."""
    if not self._file:
      return
    if self._on_metrics:
      self._on_metrics(step, split, metrics)
    line = {"step": step, "split": split, **metrics}
    with self._errors_of_the_disk():
      self._file.write(json.dumps(line) + "\n")
      self._file.flush()
    if self._tensorboard:
      self._tensorboard.write_scalars(
        step, {f"{split}/{name}": value for name, value in metrics.items()}
      )
      self._tensorboard.flush()

  def write_speed(self, step: int, batch_size: int) -> None:
    """Writes the speed since the last call for TensorBoard.

    Args:
      step: number of updates.
      batch_size: number of examples in an update, over all devices.
    """
    now = time.monotonic()
    if self._tensorboard and self._last:
      last_step, last_time = self._last
      rate = (step - last_step) / (now - last_time)
      self._tensorboard.write_scalars(
        step,
        {
          "speed/steps_per_second": rate,
          "speed/examples_per_second": rate * batch_size,
        },
      )
    self._last = (step, now)

  def write_pictures(self, step: int, pictures: Sequence[Path]) -> None:
    """Writes PNG files, drawn after `step` updates, for TensorBoard."""
    if self._tensorboard:
      _write_pictures(self._tensorboard, step, pictures)
      self._tensorboard.flush()

  def sync(self) -> None:
    """Waits until the lines are on the disk and survive a power failure."""
    if self._file:
      with self._errors_of_the_disk():
        os.fsync(self._file.fileno())

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_) -> None:
    if self._file:
      # Closing would fail again for data that could not be written.
      with contextlib.suppress(OSError):
        self._file.close()
    if self.__dict__.get("_tensorboard"):  # It has been used.
      self._tensorboard.close()

  @contextlib.contextmanager
  def _errors_of_the_disk(self):
    try:
      yield
    except OSError as error:
      raise OSError(
        f"{self._path} cannot be written ({error.strerror}); the same command"
        " goes on from the newest checkpoint"
      ) from error

  def _keep_until(self, step):
    if not self._path.exists():
      return
    kept = [
      line for line, values in _lines(self._path) if values["step"] <= step
    ]
    files.write(self._path, "".join(kept))


def read(workdir: Path) -> list[dict[str, Any]]:
  """Reads the lines of a run's metrics.jsonl; [] if it has none.

  A last line that is incomplete, since the process died, is left out.
  """
  path = workdir / METRICS_FILE
  return [values for _, values in _lines(path)] if path.exists() else []


def _lines(path):
  """Reads the complete lines of metrics.jsonl, and the values of each.

  The last line is incomplete if the process died while writing it.
  """
  lines = [
    line
    for line in path.read_text().splitlines(keepends=True)
    if line.endswith("\n")
  ]
  try:
    return [(line, json.loads(line)) for line in lines]
  except ValueError as error:
    raise ValueError(f"{path} has a damaged line: {error}") from error


def show_run(
  workdir: Path,
  step: int,
  pictures: Sequence[Path],
  config: ml_collections.ConfigDict,
) -> None:
  """Writes pictures and the config of a run for TensorBoard.

  Without TensorFlow it does nothing. Do not call it while a `MetricWriter` is
  open for the run, because TensorBoard follows only the newest file of a
  folder.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint.
    pictures: PNG files.
    config: config of the run. TensorBoard lists its fields as hyper-parameters.
  """
  tensorboard = _open_tensorboard(workdir)
  if not tensorboard:
    return
  _write_pictures(tensorboard, step, pictures)
  fields = traverse_util.flatten_dict(config.to_dict(), sep=".")
  tensorboard.write_hparams(
    {
      name: value if isinstance(value, bool | int | float | str) else str(value)
      for name, value in fields.items()
    }
  )
  tensorboard.close()


def _open_tensorboard(workdir):
  try:
    from clu import metric_writers
  except ImportError:
    logging.info("No TensorBoard files: TensorFlow is not installed.")
    return None
  return metric_writers.SummaryWriter(str(workdir / "tensorboard"))


def _write_pictures(tensorboard, step, pictures):
  import matplotlib.image

  tensorboard.write_images(
    step,
    {path.stem: matplotlib.image.imread(path)[..., :3] for path in pictures},
  )
