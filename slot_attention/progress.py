"""Progress bars with rate and remaining time."""

import sys

import tqdm


class _Bar(tqdm.tqdm):
  """Measures the rate from the second update on: the first one compiles."""

  def update(self, n=1):
    if not self.disable and self.n == self.initial:
      self.unpause()
    return super().update(n)

  def set_postfix(self, **values):
    """Shows values from the next update on, so it draws no line of its own."""
    super().set_postfix(refresh=False, **values)


def progress_bar(
  *, total: int, desc: str, unit: str, initial: int = 0, disable: bool = False
) -> tqdm.tqdm:
  """Returns a tqdm bar on standard error.

  It updates every 0.1 s on a terminal and every 10 s otherwise, so that a log
  file has few lines.
  """
  return _Bar(
    total=total,
    initial=initial,
    desc=desc,
    unit=unit,
    disable=disable,
    mininterval=0.1 if sys.stderr.isatty() else 10,
    dynamic_ncols=True,
  )
