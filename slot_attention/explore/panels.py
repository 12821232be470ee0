"""The right side of the page: what the model sees, slots, building blocks."""

import functools

from nicegui import html, ui

from slot_attention.explore import cards, controls, pictures
from slot_attention.explore.state import (
  Image,
  interpolate,
  slot_name,
  swap,
)
from slot_attention.explore.view import View
from slot_attention.explore.visit import Visit, set_class

_STEP_SECONDS = 0.7  # Of the animation.
# Without any of these outputs, only the last iteration can be shown.
_PER_ITERATION = ("attn", "slots_per_iteration", "predictions_per_iteration")


class Panel:
  """Everything that a view of these weights, K and T needs."""

  def __init__(self, page: Visit, view: View):
    self._page = page
    self._key = _key(view)
    self._playing = None
    has_painting = view.first.painting is not None
    with html.section().classes("sa-card"):
      with html.div().classes("sa-title"):
        html.h2("What the model sees")
        label = "foreground ARI" if has_painting else "ARI of the attention"
        html.span(label).classes("sa-help")
        self._ari = ui.label().classes("sa-number").props("data-name=ari")
      with html.div().classes("sa-figures"):
        self._image = figure("Image", "image")
        if has_painting:
          self._recon = figure("Reconstruction", "reconstruction")
          self._masks = figure("Masks", "masks")
          if view.first.slots is not None:
            self._masks.classes("sa-click")
          click = "(e) => emit([e.offsetX / e.target.clientWidth,"
          click += " e.offsetY / e.target.clientHeight])"
          self._masks.on("click", self._click_masks, js_handler=click)
        if "attn" in view.first.outputs:
          self._attention = figure("Attention of all slots", "attention")
        if "slots_per_iteration" in view.first.outputs:
          with html.div().classes("sa-figure sa-trajectory"):
            html.figcaption("Trajectory of the slots")
            self._trajectory = ui.html(sanitize=False)
      self._has_time = any(x in view.first.outputs for x in _PER_ITERATION)
      if self._has_time:
        self._build_time(view)
    if view.weights.is_set_prediction:
      with html.section().classes("sa-card"):
        html.h2("Predicted objects")
        html.p(
          "Each row is a slot. Red is wrong: a class, a distance d above 0.5,"
          " or a confidence on the wrong side of 0.5. Move over a row to see"
          " where its slot looks."
        ).classes("sa-help")
        self._table = ui.html(sanitize=False).classes("sa-table")
        self._table.props("data-name=table")
        row = "(e) => { const row = e.target.closest('tr[data-slot]');"
        row += " emit(row ? Number(row.dataset.slot) : 0); }"
        self._table.on("mouseover", self._hover_row, js_handler=row)
        self._table.on("mouseleave", lambda: page.hover(0, None), args=[])
    with html.section().classes("sa-card") as self._blocks:
      html.h2("Slots as building blocks")
      if view.first.slots is None:
        html.p(_why_no_blocks(view)).props("data-name=no-blocks")
        if has_painting:
          self._cards = cards.Cards(page, 0)
      else:
        self._build_blocks()

  def fits(self, view: View) -> bool:
    """Returns whether this panel can show a view."""
    return self._key == _key(view)

  def show(self, view: View, known: list) -> None:
    """Shows a view.

    Args:
      view: it fits.
      known: the examples of its weights.
    """
    first = view.first
    self._image.props["src"] = pictures.to_uri(pictures.photo(first))
    if first.painting is not None:
      recon, masks = pictures.reconstruction(first), pictures.masks(view, first)
      self._recon.props["src"] = pictures.to_uri(recon)
      self._masks.props["src"] = pictures.to_uri(masks)
      self._cards.show(view, first)
    if "attn" in first.outputs:
      picture = pictures.all_attention(view, first)
      self._attention.props["src"] = pictures.to_uri(picture)
    if "slots_per_iteration" in first.outputs:
      self._trajectory.content = pictures.trajectory(view)
    self._ari.text = pictures.score(view)
    if self._has_time:
      self._time.value = view.state.t
      self._time_text.text = f"t = {view.state.t} of {view.state.iterations}"
    if view.weights.is_set_prediction:
      self._table.content = pictures.table(view)
    if first.slots is not None:
      self._show_blocks(view, known)

  def highlight(self, view: View, image: int, slot: int | None) -> None:
    """Shows where a slot is, on the images that have it."""
    shown = [(view.first, self._image)]
    if view.second is not None and view.first.slots is not None:
      shown.append((view.second, self._second_image))
    for i, (seen, element) in enumerate(shown):
      if slot is None:
        picture = pictures.photo(seen)
      elif i == image or pictures.is_painted(seen, image, slot):
        picture = pictures.highlight(view, seen, image, slot)
      else:
        continue
      element.props["src"] = pictures.to_uri(picture)

  def _build_time(self, view):
    with html.div().classes("sa-time"):
      self._play = ui.button(icon="play_arrow", on_click=self._turn_play)
      self._play.props("flat dense round data-name=play")
      self._play.props["aria-label"] = "Play the iterations"
      self._time = ui.slider(min=1, max=view.state.iterations, step=1)
      self._time.props("markers snap data-name=t").props["aria-label"] = (
        "iteration t"
      )
      self._time.on(
        "change", lambda: self._page.change(t=int(self._time.value))
      )
      self._time_text = ui.label().props("data-name=t-text")
    html.p(
      "Everything is shown after iteration t; the last one is what the model"
      " returns."
    ).classes("sa-help")

  async def _turn_play(self):
    if self._playing is None:
      self._playing = ui.timer(_STEP_SECONDS, self._step)
    else:
      self._playing.cancel()
      self._playing = None
    icon = "play_arrow" if self._playing is None else "pause"
    self._play.props["icon"] = icon

  async def _step(self):
    state = self._page.wanted
    if state.iterations:
      await self._page.change(t=state.t % state.iterations + 1)

  async def _click_masks(self, event):
    view = self._page.view
    if view is not None and view.first.slots is not None:
      piece = pictures.winner(view.first, *event.args)
      await cards.click(self._page, piece.image, piece.slot)

  def _hover_row(self, event):
    self._page.hover(0, event.args - 1 if event.args else None)

  def _build_blocks(self):
    page = self._page
    html.p(
      "Click a slot, or its pixels in the masks, to remove it or to bring it"
      " back. Choose a second image, and click its slots to take them into this"
      " one."
    ).classes("sa-help")
    self._cards = cards.Cards(page, 0)
    with html.div().classes("sa-tools"):
      html.span("Second image").classes("sa-help")
      self._thumbs = html.div().classes("sa-thumbs").style("flex: 1")
    with html.div() as self._second:
      with html.div().classes("sa-figures sa-small q-my-md"):
        self._second_image = figure("Second image", "second-image")
        self._second_recon = figure("Reconstruction", "second-reconstruction")
        self._second_masks = figure("Masks", "second-masks")
      self._second_cards = cards.Cards(page, 1)
      with html.div().classes("sa-tools"):
        self._mine = ui.select({}, label="this image's slot")
        self._theirs = ui.select({}, label="second image's slot")
        for select, name in ((self._mine, "mine"), (self._theirs, "theirs")):
          select.props(f"dense outlined options-dense data-name={name}")
          select.style("width: 165px")
          select.on_value_change(self._show_amount)
        ui.button("Swap", on_click=self._swap).props(
          "outline dense no-caps padding='4px 14px' data-name=swap"
        )
        html.span("Interpolate").classes("sa-help")
        self._amount = ui.slider(min=0, max=1, step=0.05, value=0)
        self._amount.props("data-name=amount").props["aria-label"] = (
          "how far the slot is moved to that of the second image"
        )
        self._amount.on("update:model-value", self._interpolate, throttle=0.05)
    with html.div().classes("sa-tools"):
      ui.button("All slots back", icon="undo", on_click=self._reset).props(
        "flat dense no-caps data-name=reset"
      )
      ui.button("No second image", icon="close", on_click=self._close).props(
        "flat dense no-caps data-name=no-second"
      ).bind_visibility_from(self._second)
    self._chosen = []

  def _show_blocks(self, view, known):
    if not self._chosen and known:
      with self._thumbs:
        self._chosen = controls.thumbnails(known, "second", self._choose)
    for i, image in enumerate(self._chosen):
      set_class(image, "sa-chosen", view.state.second == Image("example", i))
    self._second.visible = view.second is not None
    if view.second is None:
      return
    second = view.second
    for element, picture in (
      (self._second_image, pictures.photo(second)),
      (self._second_recon, pictures.reconstruction(second)),
      (self._second_masks, pictures.masks(view, second)),
    ):
      element.props["src"] = pictures.to_uri(picture)
    self._second_cards.show(view, second)
    for image, select in enumerate((self._mine, self._theirs)):
      options = {k: slot_name(image, k) for k in range(view.state.slots)}
      if select.options != options:
        select.set_options(options, value=0)
    self._show_amount()

  def _show_amount(self):
    """Shows how far the two slots that are selected are interpolated."""
    view = self._page.view
    ends = (0, self._mine.value, 1, self._theirs.value)
    canvas = () if view is None else view.first.canvas
    self._amount.value = sum(x.amount for x in canvas if x[:4] == ends)

  async def _choose(self, image):
    await self._page.change(second=image, canvas=None, second_canvas=None)

  async def _swap(self):
    await self._page.edit(
      functools.partial(swap, slot=self._mine.value, other=self._theirs.value)
    )

  async def _interpolate(self, event):
    slots = {"slot": self._mine.value, "other": self._theirs.value}
    move = functools.partial(interpolate, **slots, amount=round(event.args, 2))
    await self._page.edit(lambda canvas, second: (move(canvas), second))

  async def _reset(self):
    await self._page.change(canvas=None, second_canvas=None)

  async def _close(self):
    await self._page.change(second=None, canvas=None, second_canvas=None)


def figure(title: str, name: str) -> ui.element:
  """Makes a picture with a title; returns its image."""
  with html.figure().classes("sa-figure"):
    html.figcaption(title)
    image = html.img().classes("sa-pixels").props(f"data-name={name}")
    image.props["alt"] = title
  return image


def _key(view):
  """Returns the parts of a view that determine the elements of its panel."""
  return view.weights, view.state.slots, view.state.iterations


def _why_no_blocks(view):
  if view.weights.is_set_prediction:
    return (
      "This model describes objects and has no decoder that could paint slots;"
      " choose weights of object discovery."
    )
  return (
    "This model cannot paint slots alone: its masks come from the whole image."
  )
