"""Checks values. Every error names the field, the value and the choices."""

from collections.abc import Collection, Mapping, Sequence
import difflib
import math
import typing
from typing import Any


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
  """Raises a ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}")


def check_at_least(
  field: str, value: float | Sequence[float], minimum: float
) -> None:
  """Raises a ValueError if `value`, or any part of it, is below `minimum`."""
  values = value if isinstance(value, Sequence) else (value,)
  if any(x < minimum for x in values):
    raise ValueError(f"{field}={value} must be at least {minimum}")


def check_type(field: str, value: Any, kind: Any) -> None:
  """Raises a ValueError unless `value` has the type of its field.

  Args:
    field: its name.
    value: what the config says.
    kind: int, float, str, bool, or a tuple of these, as tuple[int, int],
      tuple[int, ...], or Sequence[int], which means the same as the latter.

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


def check_section(
  name: str,
  section: Any,
  types: Mapping[str, Any],
  optional: Collection[str] = (),
) -> None:
  """Raises a ValueError unless a section has its fields, each of its type.

  Args:
    name: of the section, for example "config.data".
    section: what the config has in its place.
    types: the type of every field; None for a field that is itself a section.
    optional: fields that the section may leave out.
  """
  if not hasattr(section, "keys"):
    raise ValueError(f"{name}={section!r} must be a section with fields")
  given = set(section.keys())
  problems = [
    f"{field} is missing" for field in sorted({*types} - given - {*optional})
  ]
  problems += [
    f"{field} is unknown{nearest(field, types)}"
    for field in sorted(given - {*types})
  ]
  if problems:
    raise ValueError(f"{name}: {', '.join(problems)}")
  # A field is named as on the command line, without the leading "config.".
  prefix = f"{name}.".removeprefix("config.")
  for field, kind in types.items():
    if field not in given:
      continue
    if kind is not None:
      check_type(f"{prefix}{field}", section[field], kind)
    elif not hasattr(section[field], "keys"):
      raise ValueError(
        f"{prefix}{field}={section[field]!r} must be a section with fields"
      )


def format_shape(shape: Sequence[int]) -> str:
  """Returns a shape as text, for example 35x35x3."""
  return "x".join(map(str, shape))


def nearest(name: str, names: Collection[str]) -> str:
  """Returns " (did you mean ...?)" for a similar name, or an empty string."""
  similar = difflib.get_close_matches(name, names, n=1)
  return f" (did you mean {similar[0]}?)" if similar else ""
