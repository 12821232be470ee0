"""Errors that name the field, the value, and what it may be."""


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises a ValueError that names the field, its value and the choices."""
  if value not in choices:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}")


def check_at_least(field: str, value: int, minimum: int) -> None:
  """Raises a ValueError unless `value` is at least `minimum`."""
  if value < minimum:
    raise ValueError(f"{field}={value} must be at least {minimum}")
