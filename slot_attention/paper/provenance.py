"""Describes how a number was measured, for every record in results/."""

from collections.abc import Iterable
import datetime
import importlib.metadata
import os
from pathlib import Path
import platform
import re
import shlex
import sys

import jax


def command(module: str) -> str:
  """Returns the command line of this process, which runs `python -m module`."""
  return shlex.join(["python", "-m", module, *sys.argv[1:]])


def provenance(
  packages: Iterable[str] = ("jax", "flax", "optax"),
) -> dict[str, str | dict[str, str]]:
  """Returns date, hardware, and the versions of Python and of packages."""
  return {
    "date": datetime.date.today().isoformat(),
    "hardware": _hardware(),
    "versions": {
      "python": platform.python_version(),
      **{package: importlib.metadata.version(package) for package in packages},
    },
  }


def num_cores() -> int:
  """Returns the number of CPU cores that this process may use."""
  # macOS does not tell which cores these are.
  affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))
  return len(affinity(0))


def _hardware():
  devices = jax.devices()
  if devices[0].platform == "cpu":
    cores = num_cores()
    return f"{cores} CPU core{'s' * (cores > 1)}, {_processor()}"
  return f"{len(devices)} x {devices[0].device_kind}"


def _processor():
  """Returns the name of the CPU, or of its architecture if it has no name."""
  information = Path("/proc/cpuinfo")
  text = information.read_text() if information.exists() else ""
  name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
  return name[1] if name else platform.machine()
