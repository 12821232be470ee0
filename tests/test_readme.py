"""Tests of the README: its examples run as they stand."""

from pathlib import Path
import re

import jax
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.M)
# An expression and its value: `x.shape  # (2, 3)`.
VALUE = re.compile(r"^(\S.*\.shape)  # (\([\d, ]+\))", re.M)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(number, capsys):
  example = EXAMPLES[number]
  names = {}
  with jax.numpy_rank_promotion("allow"):  # As for a user.
    exec(compile(example, f"README.md, example {number}", "exec"), names)
  for expression, value in VALUE.findall(example):
    assert eval(expression, names) == eval(value), expression
  if "adjusted Rand index" in example:  # Told apart, as it says.
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


def test_there_are_examples_with_values():
  assert len(EXAMPLES) >= 4
  assert sum(bool(VALUE.search(example)) for example in EXAMPLES) >= 3


def test_every_local_link_and_picture_is_there():
  links = re.findall(r"\]\(([^)#]+)\)", README)
  local = [link for link in links if "://" not in link]
  assert len(local) > 5
  for link in local:
    assert (Path(__file__).parents[1] / link).exists(), link


def test_every_file_that_is_named_is_there():
  names = re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json))`", README)
  assert len(names) > 1
  for name in names:
    assert (Path(__file__).parents[1] / name).exists(), name
