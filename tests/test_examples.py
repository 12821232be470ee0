"""Tests of the examples: each runs as a script and shows what it claims."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(name="run")
def _run(tmp_path):
  """Returns a function that runs an example and returns what it prints."""
  # As after an installation, only the package itself can be imported.
  (tmp_path / "slot_attention").symlink_to(ROOT / "slot_attention")
  environment = {
    **os.environ,
    "PYTHONPATH": str(tmp_path),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
  }

  def run(name):
    script = ROOT / "examples" / f"{name}.py"
    return subprocess.run(
      [sys.executable, script],
      cwd=tmp_path,
      env=environment,
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    ).stdout

  return run


def test_every_example_is_tested():
  assert EXAMPLES == ["padding", "point_clouds", "video"]


def test_slots_that_are_passed_on_follow_the_objects(run):
  lines = re.findall(r": (\d+)% of .* ARI .* (\d\.\d+)$", run("video"), re.M)
  (passed, passed_ari), (random, random_ari) = (map(float, x) for x in lines)
  assert passed > 95 and passed_ari > 0.95
  assert random < 50 and random_ari < 0.8


def test_padding_has_no_effect_but_by_a_missing_mask(run):
  lines = re.findall(r"the slots differ by (\S+)$", run("padding"), re.M)
  other_values, no_padding, no_mask = map(float, lines)
  assert other_values == 0
  assert no_padding < 1e-4
  assert no_mask > 0.1


@pytest.mark.slow
def test_clouds_are_told_apart_without_labels(run):
  (ari,) = re.findall(r"^adjusted Rand index (\S+)$", run("point_clouds"), re.M)
  assert float(ari) > 0.9
