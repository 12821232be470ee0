"""Progress bars: rate and time left on a terminal, a few lines in a log."""

import sys

import tqdm


def progress_bar(
  *, total: int, desc: str, unit: str, initial: int = 0, disable: bool = False
) -> tqdm.tqdm:
  """A tqdm bar on standard error; every 10 s where that is no terminal."""
  return tqdm.tqdm(
    total=total,
    initial=initial,
    desc=desc,
    unit=unit,
    disable=disable,
    mininterval=0.1 if sys.stderr.isatty() else 10,
    dynamic_ncols=True,
  )
