"""Tests of the checks of values."""

from collections.abc import Sequence
import math

import pytest

from slot_attention import checks


@pytest.mark.parametrize(
  "value, kind",
  [
    (1, int),
    (True, bool),
    (0.5, float),
    ("a", str),
    ((), tuple[int, ...]),
    ((1, 2, 3), tuple[int, ...]),
    ((1, 2, 3), Sequence[int]),
    ((1, 2), tuple[int, int]),
  ],
)
def test_a_value_of_its_type_passes(value, kind):
  checks.check_type("field", value, kind)


@pytest.mark.parametrize(
  "value, kind, words",
  [
    (True, int, "field=True must be of type int"),
    (1, float, "field=1 must be of type float"),
    (None, str, "field=None must be of type str"),
    ([1], tuple[int, ...], r"must be of type tuple\[int, ...\]"),
    ((1, 2, 3), tuple[int, int], r"must be of type tuple\[int, int\]"),
    ((1, 2.0), tuple[int, ...], "must be of type"),
    (2**31, int, r"must be below 2\*\*31"),
    (math.nan, float, "field=nan must be finite"),
    ((0.5, math.inf), tuple[float, float], "must be finite"),
  ],
)
def test_any_other_value_is_named(value, kind, words):
  with pytest.raises(ValueError, match=words):
    checks.check_type("field", value, kind)


def test_fields_of_a_section_are_missing_unknown_or_mistyped():
  types = {"size": int, "name": str, "inner": None}
  good = {"size": 1, "name": "a", "inner": {}}
  checks.check_section("config.outer", good, types)
  checks.check_section("config.outer", {"size": 1}, types, ("name", "inner"))
  for section, words in (
    (3, "config.outer=3 must be a section with fields"),
    ({"size": 1}, "config.outer: inner is missing, name is missing"),
    ({**good, "sise": 2}, r"config.outer: sise is unknown \(did you mean size"),
    ({**good, "size": "1"}, "^outer.size='1' must be of type int"),
    ({**good, "inner": 1}, "^outer.inner=1 must be a section with fields"),
  ):
    with pytest.raises(ValueError, match=words):
      checks.check_section("config.outer", section, types)


def test_choices_and_least_values_are_named():
  checks.check_choice("update", "gru", ("gru", "none"))
  with pytest.raises(ValueError, match="update='lstm' is not one of gru, none"):
    checks.check_choice("update", "lstm", ("gru", "none"))
  checks.check_at_least("sizes", (2, 3), 2)
  with pytest.raises(ValueError, match=r"sizes=\(2, 1\) must be at least 2"):
    checks.check_at_least("sizes", (2, 1), 2)
