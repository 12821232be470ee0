"""What the parts of a page ask of it."""

from collections.abc import Callable
from typing import Any, Protocol

from nicegui import events, ui

from slot_attention.explore.state import Canvas, State
from slot_attention.explore.view import View


def set_class(element: ui.element, name: str, is_on: bool) -> None:
  """Gives an element a CSS class, or takes it away."""
  element.classes(add=name if is_on else "", remove="" if is_on else name)


class Visit(Protocol):
  """One visit of the page.

  Attributes:
    view: what is shown; None before the first answer.
    wanted: what is to be shown.
  """

  view: View | None
  wanted: State

  async def change(self, **fields: Any) -> None:
    """Changes fields of the state, and shows the result.

    While an answer is computed, later wishes wait, and only the last one of
    them is answered.
    """

  async def edit(
    self, change: Callable[[Canvas, Canvas], tuple[Canvas, Canvas]]
  ) -> None:
    """Changes the canvases.

    Args:
      change: from both canvases to both new ones; a ValueError that it raises
        is shown.
    """

  async def open(self, pretrained: str | None, workdir: str | None) -> None:
    """Opens other weights, or a run, on their first example."""

  async def upload(self, event: events.UploadEventArguments) -> None:
    """Takes an image of the visitor."""

  def hover(self, image: int, slot: int | None) -> None:
    """Highlights a slot on the images; None highlights no slot."""

  def complain(self, error: Exception | str) -> None:
    """Shows an error as one sentence."""
