"""Stops a run before its last step, after a signal or a time limit."""

from pathlib import Path
import signal
import time

from absl import logging
import jax

from slot_attention import parallel


class InterruptedRunError(KeyboardInterrupt):
  """A signal stopped the run before its last step, and its state is saved."""


class Stopper:
  """Tells the loop to stop after SIGTERM, SIGINT or the time limit.

  It is a context, in which it catches the signals. A second SIGINT interrupts
  immediately. If there are several processes, JAX catches SIGTERM instead, see
  `parallel.agree_to_stop`.
  """

  def __init__(self, start: float, max_minutes: float):
    """Sets the time limit.

    Args:
      start: start of the run, a value of `time.monotonic`.
      max_minutes: number of minutes that the run may take; 0 for no limit.
    """
    self._start, self._max_minutes = start, max_minutes
    self._is_out_of_time = False
    self._signals = []
    self._handlers = {}

  def must_stop(self, dispatch: int) -> bool:
    """Returns whether all processes stop after this dispatch.

    Args:
      dispatch: number of finished dispatches. It grows by one with each call.
    """
    minutes = (time.monotonic() - self._start) / 60
    self._is_out_of_time = 0 < self._max_minutes <= minutes
    return parallel.agree_to_stop(
      self._is_out_of_time or bool(self._signals), dispatch
    )

  def explain(self, step: int, num_steps: int, workdir: Path) -> None:
    """Reports why the run stopped before its last step.

    If the time limit stopped it, the reason is logged.

    Args:
      step: number of finished steps.
      num_steps: number of steps of the whole run.
      workdir: folder of the run.

    Raises:
      InterruptedRunError: if a signal stopped it.
    """
    message = (
      f"step {step} of {num_steps} is saved in {workdir}; the same command goes"
      " on from there"
    )
    if not parallel.any_process(self._is_out_of_time):
      # If JAX has caught SIGTERM, `_signals` is empty.
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
    logging.warning(
      "%s: the run finishes this step and saves it.%s",
      self._signals[-1].name,
      " A second one ends it at once." if number == signal.SIGINT else "",
    )
