"""A card for every slot: its name, what it paints, and its attention."""

import functools

from nicegui import html, ui

from slot_attention.explore import pictures
from slot_attention.explore.state import slot_name, toggle
from slot_attention.explore.view import Seen, View
from slot_attention.explore.visit import Visit, set_class


class Cards:
  """The slots of one image, and those that were taken into it."""

  def __init__(self, page: Visit, image: int):
    """Makes an empty row of cards.

    Args:
      page: their page.
      image: 0, or 1 for the second image.
    """
    self._page = page
    self._own = image
    self._cards: dict[tuple[int, int], _Card] = {}
    with html.div() as self._outside:
      self._row = html.div().classes("sa-slots")

  def show(self, view: View, seen: Seen) -> None:
    """Shows the slots of an image and of its canvas."""
    places = {(self._own, k) for k in range(view.state.slots)}
    places |= {(x.image, x.slot) for x in seen.canvas}
    order = sorted(places, key=lambda x: (x[0] != self._own, *x))
    if list(self._cards) != order:
      self._row.clear()
      with self._row:
        self._cards = {x: _Card(self._page, view, *x) for x in order}
    pieces = {(x.image, x.slot): i for i, x in enumerate(seen.canvas)}
    for place, card in self._cards.items():
      card.show(view, seen, pieces.get(place), self._own)


class _Card:
  """One card."""

  def __init__(self, page, view, image, slot):
    name = slot_name(image, slot)
    color = pictures.slot_color(view.state.slots, image, slot)
    self._place = image, slot
    self._card = html.div().classes("sa-slot")
    self._card.style(f"--slot: {pictures.to_css(color)}")
    self._card.props(f"role=button tabindex=0 data-slot={name}")
    act = functools.partial(click, page, image, slot)
    self._card.on("click", act, args=[]).on("keydown.enter", act, args=[])
    show = functools.partial(page.hover, image, slot)
    self._card.on("mouseenter", show, args=[]).on("focus", show, args=[])
    hide = functools.partial(page.hover, image, None)
    self._card.on("mouseleave", hide, args=[]).on("blur", hide, args=[])
    with self._card:
      with html.div().classes("sa-name"):
        html.span().classes("sa-dot")
        html.span(name)
        self._what = ui.label().classes("sa-what")
      self._paint = html.img().classes("sa-pixels")
      self._paint.props["alt"] = f"what slot {name} paints"
      self._attention = html.img().classes("sa-pixels")
      self._attention.props["alt"] = f"attention of slot {name}"

  def show(self, view, seen, index, own):
    """Shows the slot; `index` is its place on the canvas, or None."""
    image, slot = self._place
    source = view.second if image else view.first
    is_off = index is None
    set_class(self._card, "sa-off", is_off)
    self._card.props["aria-pressed"] = str(not is_off).lower()
    self._what.text = _what(view, seen, index, self._place, own)
    if index is not None:
      picture = pictures.cut_out(seen, index)
      self._paint.props["src"] = pictures.to_uri(picture)
    elif source is not None:
      picture = pictures.cut_out_alone(source, slot)
      self._paint.props["src"] = pictures.to_uri(picture)
    has_attention = source is not None and "attn" in source.outputs
    self._attention.visible = has_attention
    if has_attention:
      brightness = pictures.attention(view, source)[slot]
      color = pictures.slot_color(view.state.slots, image, slot)
      picture = pictures.tint(brightness, color)
      self._attention.props["src"] = pictures.to_uri(picture)


def _what(view, seen, index, place, own):
  """Says in a word what became of a slot."""
  other = view.first if own else view.second
  is_elsewhere = other is not None and pictures.is_painted(other, *place)
  if index is None:
    return "swapped" if is_elsewhere else "removed"
  piece = seen.canvas[index]
  if piece.amount:
    return f"{piece.amount:.0%} {slot_name(piece.to_image, piece.to_slot)}"
  if place[0] != own:
    return "taken"
  return "taken" if own and is_elsewhere else ""


async def click(page: Visit, image: int, slot: int) -> None:
  """Removes a slot from the image, or puts it there."""
  view = page.view
  if view is None:
    return
  if view.first.slots is None:
    page.complain("the slots of this model cannot be painted alone")
    return
  await page.edit(lambda canvas, second: (toggle(canvas, image, slot), second))
