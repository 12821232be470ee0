"""Errors that name the field, the value, and what it may be."""

from collections.abc import Iterable, Sequence
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
    kind: int, float, str, bool, or a tuple as in tuple[int, int],
      tuple[int, ...], and Sequence[int], which is the same.

  Raises:
    ValueError: also for an int of more than 32 bits and a float that is not
      finite.
  """
  values = value if type(value) is tuple else (value,)
  kinds = typing.get_args(kind)
  if not kinds:
    fits = type(value) is kind
  elif kinds[1:] in ((), (Ellipsis,)):
    fits = type(value) is tuple and all(type(x) is kinds[0] for x in value)
  else:
    fits = type(value) is tuple and tuple(map(type, value)) == kinds
  if not fits:
    name = str(kind) if kinds else kind.__name__
    raise ValueError(f"{field}={value!r} must be of type {name}")
  for number in values:
    if type(number) is int and abs(number) >= 2**31:
      raise ValueError(f"{field}={value} must be below 2**31")
    if type(number) is float and not math.isfinite(number):
      raise ValueError(f"{field}={value} must be finite")


def check_at_least(
  field: str, value: float | Sequence[float], minimum: float
) -> None:
  """Raises a ValueError unless `value`, or all of it, is at least `minimum`."""
  values = value if isinstance(value, Sequence) else (value,)
  if any(x < minimum for x in values):
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
