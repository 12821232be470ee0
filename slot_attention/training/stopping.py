"""When a run stops before its last step: after a signal, or out of time."""

from pathlib import Path
import signal
import time

from absl import logging
import jax

from slot_attention import parallel


class InterruptedRunError(KeyboardInterrupt):
  """A signal ended the run before its last step; the state is saved."""


class Stopper:
  """Watches the clock, SIGTERM and SIGINT, for the loop to end after its step.

  It is a context, since it catches the signals. A second SIGINT interrupts at
  once. Where there are many processes, JAX catches SIGTERM instead: see
  `parallel.agree_to_stop`.
  """

  def __init__(self, start: float, max_minutes: float):
    """Starts to watch.

    Args:
      start: of the run, as `time.monotonic` told it.
      max_minutes: that the run may take; 0 for no limit.
    """
    self._start, self._max_minutes = start, max_minutes
    self._is_out_of_time = False
    self._signals = []
    self._handlers = {}

  def must_stop(self, dispatch: int) -> bool:
    """Whether all processes stop after this dispatch.

    Args:
      dispatch: the number of dispatches that are done, one more at each call.
    """
    minutes = (time.monotonic() - self._start) / 60
    self._is_out_of_time = 0 < self._max_minutes <= minutes
    return parallel.agree_to_stop(
      self._is_out_of_time or bool(self._signals), dispatch
    )

  def explain(self, step: int, num_steps: int, workdir: Path) -> None:
    """Says why the run has stopped before its last step.

    Raises:
      InterruptedRunError: if it was a signal.
    """
    message = (
      f"step {step} of {num_steps} is saved in {workdir}; the same command goes"
      " on from there"
    )
    if not parallel.any_process(self._is_out_of_time):
      # Where JAX catches SIGTERM, it does not say so.
      name = (self._signals or [signal.SIGTERM])[0].name
      raise InterruptedRunError(f"{name}: {message}")
    logging.info("max_minutes=%g: %s.", self._max_minutes, message)

  def __enter__(self) -> "Stopper":
    numbers = [signal.SIGINT]
    if jax.process_count() == 1:
      numbers.append(signal.SIGTERM)
    for number in numbers:
      self._handlers[number] = signal.signal(number, self._catch)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)

  def _catch(self, number, _):
    if self._signals and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._signals.append(signal.Signals(number))
