"""Errors that name the field, the value, and what it may be."""

from collections.abc import Iterable
import math
import typing
from typing import Any


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises a ValueError that names the field, its value and the choices."""
  if value not in choices:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}")


def check_type(field: str, value: Any, kind: Any) -> None:
  """Raises a ValueError unless a config's value has the type of its field.

  Args:
    field: its name.
    value: what the config says.
    kind: int, float, which must be finite, str, bool, or a tuple of these as in
      tuple[int, ...] and tuple[int, int].
  """
  if typing.get_origin(kind) is tuple:
    kinds = typing.get_args(kind)
    fits = type(value) is tuple and (
      all(type(x) is kinds[0] for x in value)
      if kinds[-1] is Ellipsis
      else tuple(map(type, value)) == kinds
    )
  else:
    fits = type(value) is kind
  if not fits:
    name = kind.__name__ if isinstance(kind, type) else kind
    raise ValueError(f"{field}={value!r} must be of type {name}")
  if kind is float and not math.isfinite(value):
    raise ValueError(f"{field}={value} must be finite")


def check_at_least(field: str, value: float, minimum: float) -> None:
  """Raises a ValueError unless `value` is at least `minimum`."""
  if value < minimum:
    raise ValueError(f"{field}={value} must be at least {minimum}")


def check_section(field: str, value: Any) -> None:
  """Raises a ValueError unless `value` has fields of its own."""
  if not hasattr(value, "keys"):
    raise ValueError(f"{field}={value!r} must be a section with fields")


def check_fields(
  section: str,
  given: Iterable[str],
  expected: Iterable[str],
  optional: Iterable[str] = (),
) -> None:
  """Raises a ValueError that names missing and unknown fields of a section."""
  given, expected = set(given), set(expected)
  unknown = given - expected - set(optional)
  problems = [f"{name} is missing" for name in sorted(expected - given)]
  problems += [f"{name} is unknown" for name in sorted(unknown)]
  if problems:
    raise ValueError(f"{section}: {', '.join(problems)}")
