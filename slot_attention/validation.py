"""Errors that name the field, the value, and what it may be."""

from collections.abc import Iterable


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises a ValueError that names the field, its value and the choices."""
  if value not in choices:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}")


def check_at_least(field: str, value: int, minimum: int) -> None:
  """Raises a ValueError unless `value` is at least `minimum`."""
  if value < minimum:
    raise ValueError(f"{field}={value} must be at least {minimum}")


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
