"""The worker processes in which `benchmarks.steps` times training steps.

Every framework runs in its own process, which may have another Python. All
workers are started first, and each one waits for requests, so that they can
take turns. This file is imported by all of them and imports no framework.

A worker reads its specification, one line of JSON with
  config: name of the config, for `configs.load`;
  changes: dict from dotted names of fields to their changes, which the entries
    below already contain;
  model: the section of the config, as nested dicts;
  image_shape: [H, W, C];
  batch_size: number of images B;
  max_objects: number of targets M;
  optimizer: "adam" or, for this project's worker alone, "muon";
  learning_rate: learning rate of Adam, which is constant;
  max_grad_norm: largest global norm of the gradients, 0 for no clipping;
  precision: "float32", or "bfloat16" (float32 parameters, bfloat16 compute);
  compile: whether the framework compiles the whole step.
It answers {"ready": seconds to start, "versions": ..., "works": names}. It
answers each request {"work": name, "steps": n} by {"seconds": mean time of a
step, "loss": last loss, "peak_bytes": memory used so far}.
"""

from collections.abc import Callable, Mapping
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

# Does n steps, waits until they are done, and returns the last loss.
Work = Callable[[int], float]
# Returns the largest memory that was used on the device so far, in bytes.
PeakBytes = Callable[[], int]

# The paper's variant of the model, which all contenders implement.
_VARIANT = {
  "use_position_embedding": True,
  "input_scale": 1.0,
  "epsilon_place": "attention",
  "aggregation": "weighted_mean",
  "softmax_axis": "slots",
  "update": "gru",
  "use_layer_norm": True,
  "use_projections": True,
  "temperature": "sqrt_d",
  "slot_init": "shared",
  "gradient": "unrolled",
}


def check_variant(model: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a specification's model is the paper's."""
  fields = {k: v for section in model.values() for k, v in section.items()}
  is_variant = _VARIANT.items() <= fields.items()
  if not (is_variant and fields["mlp_hidden_size"]):
    raise ValueError(
      "the benchmarks have only Slot Attention with a residual MLP and with"
      f" {_VARIANT}, not {model}"
    )


def check_optimizer(specification: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a specification's optimiser is Adam."""
  optimizer = specification["optimizer"]
  if optimizer != "adam":
    raise ValueError(f"PyTorch and Keras train with Adam, not with {optimizer}")


def peak_host_bytes() -> int:
  """Returns the largest memory of this process so far, for use on a CPU."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(
  make: Callable[
    [dict[str, Any]], tuple[Mapping[str, Work], dict[str, str], PeakBytes]
  ],
) -> None:
  """Runs a worker until its standard input ends.

  Args:
    make: function of the specification, which returns a dict from the name of
      a work ("training", "inference", ...) to its function, the versions of
      what it uses, and a function of its memory.
  """
  # Answers go to standard output. Everything that libraries print there goes to
  # standard error instead.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def answer(**fields):
    answers.write(json.dumps(fields) + "\n")
    answers.flush()

  start = time.perf_counter()
  works, versions, peak_bytes = make(json.loads(sys.stdin.readline()))
  answer(ready=time.perf_counter() - start, versions=versions, works=[*works])
  for line in sys.stdin:
    request = json.loads(line)
    start = time.perf_counter()
    loss = works[request["work"]](request["steps"])
    seconds = (time.perf_counter() - start) / request["steps"]
    answer(seconds=seconds, loss=loss, peak_bytes=peak_bytes())


def has_package(python: str, package: str) -> bool:
  """Returns whether a Python interpreter has a package."""
  code = f"import importlib.util as u; exit(u.find_spec({package!r}) is None)"
  return not subprocess.run([python, "-c", code], check=False).returncode


class Worker:
  """A process that runs `serve`."""

  def __init__(
    self,
    python: str,
    module: str,
    specification: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
  ):
    """Starts `python -m module` and waits until it is ready.

    Args:
      python: path of the Python interpreter.
      module: module that calls `serve`.
      specification: see the top of this file.
      environment: variables that this process does not have.
    """
    self._process = subprocess.Popen(
      [python, "-m", module],
      env={**os.environ, **(environment or {})},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    ready = self._ask(specification)
    self.versions = ready["versions"]
    self.works = ready["works"]

  def measure(self, work: str, steps: int) -> dict[str, float]:
    """Does some steps and returns the answer, see the top of this file."""
    return self._ask({"work": work, "steps": steps})

  def stop(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def _ask(self, request):
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      with contextlib.suppress(BrokenPipeError):
        self.stop()
      raise RuntimeError(
        f"{' '.join(self._process.args)} has ended; its error is above"
      )
    return json.loads(line)
