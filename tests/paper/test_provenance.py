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
  count, processor = record["hardware"].split(" CPU cores, ")
  assert int(count) == os.cpu_count() and processor  # Tests run on CPUs.
  assert record["versions"] == {
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
    "numpy": importlib.metadata.version("numpy"),
  }
