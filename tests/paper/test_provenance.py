"""Tests of the description that every record has."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys

from slot_attention.paper.provenance import command, provenance


def test_the_command_can_be_pasted_into_a_shell(monkeypatch):
  arguments = ["--output=a folder/x", "--names=jax,jax oneDNN"]
  monkeypatch.setattr(sys, "argv", ["x.py", *arguments])
  words = shlex.split(command("benchmarks.steps"))
  assert words == ["python", "-m", "benchmarks.steps", *arguments]


def test_provenance_names_date_hardware_and_versions():
  record = provenance(["jax", "numpy"])
  assert datetime.date.fromisoformat(record["date"])
  cores, processor = record["hardware"].split(", ", 1)
  assert int(cores.split()[0]) == len(os.sched_getaffinity(0)) and processor
  assert record["versions"] == {
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
    "numpy": importlib.metadata.version("numpy"),
  }
