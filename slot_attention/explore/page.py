"""The page: its state, its work, and its errors.

A visit has a `Page` of its own, so that two pages never mix. All pages share
one thread, in which JAX compiles and computes, so that the pages stay alive.
"""

import asyncio
from collections.abc import Callable, Mapping
import concurrent.futures
import dataclasses
import functools
import io
from pathlib import Path
import shlex
from typing import Any

from absl import logging
from nicegui import events, html, ui

from slot_attention.data import image_files
from slot_attention.explore import controls, panels, pictures
from slot_attention.explore import state as states
from slot_attention.explore import view as views

DEFAULT = states.State(pretrained="quickstart")
# What `command.run` also reports in one line.
ERRORS = (ValueError, OSError, ImportError, ArithmeticError, RuntimeError)

WORKER = concurrent.futures.ThreadPoolExecutor(1, "explore")


async def work(function: Callable[..., Any], *arguments: Any) -> Any:
  """Calls a function in the thread of all pages."""
  loop = asyncio.get_running_loop()
  return await loop.run_in_executor(WORKER, function, *arguments)


class Page:
  """One visit.

  Attributes:
    view: what is shown; None before the first answer.
    wanted: what is to be shown.
  """

  def __init__(self, query: Mapping[str, str]):
    """Builds the page. `start` fills it.

    Args:
      query: of the link; empty for the default view.
    """
    self.view: views.View | None = None
    self.wanted = DEFAULT
    self._query = query
    self._client = ui.context.client
    self._own: views.UploadedImage | None = None
    self._is_working = False
    self._panel: panels.Panel | None = None
    ui.add_css(Path(__file__).with_name("style.css"))
    ui.colors(primary="#4a7cf0")
    self._dark = ui.dark_mode(None)
    with html.header().classes("sa-header"):
      html.h1("Slot Attention")
      self._about = ui.label().classes("sa-about")
      self._busy_text = ui.label().classes("sa-busy-text")
      self._busy_text.props("role=status data-name=busy")
      for icon, tip, name, handler in (
        ("link", "A link to this view", "link", self._show_link),
        ("image", "This view as PNG", "png", self._save_png),
        ("dataset", "The arrays as NPZ", "npz", self._save_npz),
        ("contrast", "Dark or light", "dark", self._turn_dark),
      ):
        button = ui.button(icon=icon, on_click=handler)
        button.props(f"flat dense round data-name={name}").tooltip(tip)
        button.props["aria-label"] = tip
    self._busy = ui.linear_progress(show_value=False).classes("sa-busy")
    self._busy.props("indeterminate instant-feedback")
    with html.div().classes("sa-layout"):
      with html.aside().classes("sa-column"):
        self._controls = controls.Controls(self)
      with html.main().classes("sa-column"):
        with html.div().classes("sa-error") as self._error:
          ui.icon("error_outline")
          self._error_text = ui.label()
          self._error_text.props("role=alert data-name=error")
        with html.div().classes("sa-note") as self._note:
          ui.icon("info")
          self._note_text = ui.label().props("data-name=note")
        self._main = html.div().classes("sa-column")
    self._error.visible = self._note.visible = False

  async def start(self) -> None:
    """Shows the view of the link, or the default one and why."""
    try:
      self.wanted = states.read_query(self._query)
    except ValueError as error:
      self.complain(error)
    if not (self.wanted.pretrained or self.wanted.workdir):
      self.wanted = dataclasses.replace(
        self.wanted, pretrained=DEFAULT.pretrained
      )
    await self._work()

  async def change(self, **fields: Any) -> None:
    """Does what `Visit.change` says."""
    if self.view is None:
      return
    self.wanted = dataclasses.replace(self.wanted, **fields)
    self._error.visible = False
    await self._work()

  async def open(self, pretrained: str | None, workdir: str | None) -> None:
    """Opens other weights, or a run, on their first example."""
    fields = dataclasses.asdict(states.State())
    fields |= {"pretrained": pretrained, "workdir": workdir}
    await self.change(**fields | {"image": states.Image()})

  async def upload(self, event: events.UploadEventArguments) -> None:
    """Takes an image of the visitor."""
    content = io.BytesIO(await event.file.read())
    read = functools.partial(image_files.read_image, event.file.name, content)
    try:
      pixels = await work(read)
    except ERRORS as error:
      self.complain(error)
      return
    self._own = views.UploadedImage(pixels)
    await self.change(
      image=states.Image("own"), canvas=None, second_canvas=None
    )

  async def edit(self, change: Callable[[states.Canvas, states.Canvas], Any]):
    """Does what `Visit.edit` says."""
    if self.view is None:
      return
    shown, wanted = self.view.state, self.wanted
    if (shown.pretrained, shown.workdir) != (wanted.pretrained, wanted.workdir):
      return  # Other weights are being opened, whose slots are not shown yet.
    slots = self.wanted.slots or self.view.state.slots
    try:
      canvas, second = change(*self.wanted.canvases(slots))
    except ValueError as error:
      self.complain(error)
      return
    whole = states.State().canvases(slots)
    await self.change(
      canvas=None if canvas == whole[0] else canvas,
      second_canvas=None if second == whole[1] else second,
    )

  def hover(self, image: int, slot: int | None) -> None:
    """Highlights a slot on the images; None highlights no slot."""
    if self._panel is not None and self.view is not None:
      self._panel.highlight(self.view, image, slot)

  def complain(self, error: Exception | str) -> None:
    """Shows an error as one sentence."""
    self._error_text.text = " ".join(str(error).split())
    self._error.visible = True

  async def _work(self):
    """Answers until what is shown is what is wanted."""
    if self._is_working:
      return
    self._is_working = True
    try:
      # The element that sent this event may be gone before the answer arrives.
      with self._client:
        while self.view is None or self.wanted is not self.view.state:
          if not await self._answer(self.wanted):
            return
    finally:
      self._is_working = False
      self._set_busy(None)

  async def _answer(self, state):
    """Shows a state, or why it cannot be shown.

    Returns:
      Whether the page lives on.
    """
    self._set_busy(self._progress(state))
    try:
      view = await work(views.see, state, self._own)
      known = await work(views.examples, view.weights)
    except Exception as error:
      if self._client.is_deleted:
        return False
      # Others are mistakes in the code, which the page survives as well.
      level = logging.DEBUG if isinstance(error, ERRORS) else logging.ERROR
      logging.log(level, "On the page:", exc_info=error)
      if self.view is None and state == DEFAULT:
        self.complain(error)
        return False
      if self.wanted is state:  # An error of an earlier wish is of no interest.
        self.complain(error)
        self.wanted = self._instead_of(state)
        if self.view:
          self._controls.show(self.view, known=None)
      return True
    if self._client.is_deleted:
      return False
    if self.wanted is state:
      self.wanted = view.state
    self.view = view
    self._show(view, known)
    return True

  def _instead_of(self, state):
    """Returns what to show in the place of a state that cannot be shown."""
    if self.view is not None:
      return self.view.state
    plain = states.State(pretrained=state.pretrained, workdir=state.workdir)
    return DEFAULT if state == plain else plain

  def _show(self, view, known):
    if self._panel is None or not self._panel.fits(view):
      self._main.clear()
      with self._main:
        self._panel = panels.Panel(self, view)
    self._panel.show(view, known)
    self._controls.show(view, known)
    self._about.text = controls.describe(view.weights)
    self._note.visible = bool(view.note)
    if view.note:
      self._note_text.text = (
        f"This image differs from those that {view.weights.name} was trained on"
        f" ({view.note}), so the result may mean nothing."
      )
    ui.navigate.history.replace(f"/?{view.state.query()}")

  def _progress(self, state):
    """Says what takes long, if it does."""
    name = state.workdir or state.pretrained
    if self.view is None or self.view.weights.name != name:
      return f"Loading {name} …"
    weights = self.view.weights
    num_slots = state.slots or weights.num_slots
    num_iterations = state.iterations or weights.num_iterations
    if not weights.is_compiled(num_slots, num_iterations):
      iterations = f", T = {num_iterations}" if num_iterations else ""
      return f"Compiling K = {num_slots}{iterations} …"
    return ""

  def _set_busy(self, text):
    self._busy.style(f"visibility: {'hidden' if text is None else 'visible'}")
    self._busy_text.text = text or ""
    self._busy_text.props["data-busy"] = str(text is not None).lower()

  async def _save_png(self):
    await self._save(pictures.to_png, "slots.png", "image/png")

  async def _save_npz(self):
    await self._save(views.to_npz, "slots.npz", "application/octet-stream")

  async def _save(self, make, name, kind):
    if self.view is None:
      return
    content = await work(make, self.view)
    if not self._client.is_deleted:
      ui.download.content(content, name, kind)

  async def _show_link(self):
    if self.view is None:
      return
    query = self.view.state.query()
    origin = await ui.run_javascript("window.location.origin")
    link = f"{origin}/?{query}"
    line = f"python -m slot_attention.explore --view={shlex.quote(query)}"
    with ui.dialog() as dialog, ui.card().classes("w-[640px] max-w-full"):
      for label, text, name in (
        ("Link, while this server runs", link, "link-text"),
        ("Command line", line, "line-text"),
      ):
        field = ui.input(label, value=text).classes("w-full")
        field.props(f"readonly outlined dense data-name={name}")
        copy = functools.partial(ui.clipboard.write, text)
        with field.add_slot("append"):
          ui.button(icon="content_copy", on_click=copy).props("flat dense")
      if self.view.state.image.kind == "own":
        html.span("Neither contains your own image.").classes("sa-help")
    dialog.on_value_change(lambda event: event.value or dialog.delete())
    dialog.open()

  async def _turn_dark(self):
    is_dark = await ui.run_javascript(
      "document.body.classList.contains('body--dark')"
    )
    self._dark.value = not is_dark
