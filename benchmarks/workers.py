"""How `benchmarks.steps` talks with the processes whose steps it times.

Every framework runs in a process of its own, if need be of another Python. All
are started first; each then waits until it is asked, so that they can take
turns. This file must be importable without any of the frameworks.

A worker gets its specification as one line of JSON: a dict of
  config: the experiment, a name that `configs.load` takes;
  changes: of its fields, by dotted name, which the other entries contain;
  model: the config's section of that name, as nested dicts;
  image_shape: [H, W, C]; batch_size: B; max_objects: M;
  learning_rate; max_grad_norm: 0 for no clipping;
  precision: "float32" or "bfloat16" (float32 parameters, bfloat16 compute);
  compile: whether the framework may compile the whole step.
It answers {"ready": seconds to start, "versions": ..., "works": names}, and
then each {"work": name, "steps": n} with {"seconds": of a step on average,
"loss": of the last, "peak_bytes": of memory so far}.
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
# The most memory that was in use on the device.
PeakBytes = Callable[[], int]

# The variant of the model that all contenders are, the paper's.
_VARIANT = {
  "use_position_embedding": True,
  "epsilon_place": "attention",
  "aggregation": "weighted_mean",
  "softmax_axis": "slots",
  "update": "gru",
  "use_layer_norm": True,
  "use_projections": True,
  "temperature": "sqrt_d",
  "slot_init": "shared",
}


def check_variant(model: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a specification's model is the paper's."""
  fields = {k: v for section in model.values() for k, v in section.items()}
  is_variant = _VARIANT.items() <= fields.items()
  if not (is_variant and fields["mlp_hidden_size"]):
    raise ValueError(
      "only Slot Attention with a residual MLP and with"
      f" {_VARIANT} is written here, not {model}"
    )


def peak_host_bytes() -> int:
  """The most memory that this process had, for those that have no device."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(
  make: Callable[
    [dict[str, Any]], tuple[Mapping[str, Work], dict[str, str], PeakBytes]
  ],
) -> None:
  """Runs a worker until its standard input ends.

  Args:
    make: from a specification to work by name ("training", "inference", ...),
      the versions of what it uses, and its memory.
  """
  # Answers go where print went; what libraries print goes to standard error.
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
  """Whether a Python has a package."""
  code = f"import importlib.util as u; exit(u.find_spec({package!r}) is None)"
  return not subprocess.run([python, "-c", code], check=False).returncode


class Worker:
  """A process that answers as `serve` does."""

  def __init__(
    self, python: str, module: str, specification: Mapping[str, Any]
  ):
    """Starts `python -m module` and waits until it is ready.

    Args:
      python: path of the interpreter.
      module: that serves.
      specification: see above.
    """
    self._process = subprocess.Popen(
      [python, "-m", module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    ready = self._ask(specification)
    self.versions = ready["versions"]
    self.works = ready["works"]

  def measure(self, work: str, steps: int) -> dict[str, float]:
    """Does some steps and returns seconds of one, last loss, peak_bytes."""
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
      raise RuntimeError(f"{' '.join(self._process.args)} ended, see above")
    return json.loads(line)
