"""The left side of the page: weights, images, K, T and the seed."""

import functools

from nicegui import html, ui

from slot_attention import pretrained
from slot_attention.explore import pictures, scenes
from slot_attention.explore.state import Image
from slot_attention.explore.view import View
from slot_attention.explore.visit import Visit, set_class
from slot_attention.explore.weights import (
  MAX_ITERATIONS,
  MAX_SLOTS,
  Arrays,
  Weights,
)

MAX_SEED = 99  # Of the sliders; a number can be larger.
_MAX_BYTES = 50_000_000  # Of an own image.


def describe(weights: Weights) -> str:
  """Says in one line what weights are."""
  config = weights.run.config
  return " · ".join(
    [
      weights.name,
      config.task.replace("_", " "),
      config.data.name.replace("_", " "),
      f"{weights.run.step:,} steps",
    ]
  )


class NumberSlider:
  """A slider beside a field for the same number."""

  def __init__(self, label: str, name: str, low: int, high: int, handler):
    """Makes both; the handler gets an int when a number is chosen."""
    self._handler, self._high = handler, high
    with html.div().classes("sa-slider") as self.row:
      html.span(label)
      self._slider = ui.slider(min=low, max=high, step=1)
      self._slider.on("change", lambda: self._choose(self._slider.value))
      self._slider.props(f"data-name={name}-slider").props["aria-label"] = label
      self._field = ui.number(precision=0).props("dense borderless")
      self._field.props(f"data-name={name}").props["aria-label"] = label
    self._slider.on_value_change(self._copy)
    for event in ("keydown.enter", "blur"):
      self._field.on(event, lambda: self._choose(self._field.value))
    self._value = None

  def show(self, value: int) -> None:
    """Shows a number, which may be above those that can be chosen."""
    self._slider.props(f"max={max(value, self._high)}")
    self._value = self._slider.value = self._field.value = value

  def _copy(self, event):
    if event.value is not None:
      self._field.value = int(event.value)

  @property
  def value(self) -> int:
    """Returns the number that is shown."""
    return self._value

  async def _choose(self, value):
    if value is None:
      self._field.value = self._value
    elif int(value) != self._value:
      self._value = int(value)
      await self._handler(int(value))


class Controls:
  """The controls of a page."""

  def __init__(self, page: Visit):
    self._page = page
    self._weights = None
    with html.section().classes("sa-card"):
      html.h2("Weights")
      self._select = ui.select(
        pretrained.names(), label="With the package", on_change=self._choose
      ).classes("w-full")
      self._select.props("dense outlined options-dense data-name=weights")
      self._folder = ui.input("Folder of a run").classes("w-full q-mt-sm")
      self._folder.props("dense outlined data-name=workdir")
      self._folder.on("keydown.enter", self._open_folder)
    with html.section().classes("sa-card"):
      html.h2("Slots")
      self._slots = NumberSlider(
        "slots K", "slots", 1, MAX_SLOTS, self._set_slots
      )
      self._iterations = NumberSlider(
        "iterations T", "iterations", 1, MAX_ITERATIONS, self._set_iterations
      )
      self._seed = NumberSlider("seed", "seed", 0, MAX_SEED, self._set_seed)
    with html.section().classes("sa-card"):
      html.h2("Image")
      self._thumbs = html.div().classes("sa-thumbs")
      self._drop = ui.upload(
        label="Drop your own image",
        auto_upload=True,
        max_file_size=_MAX_BYTES,
        on_upload=self._upload,
        on_rejected=lambda: page.complain("the file has more than 50 MB"),
      )
      self._drop.classes("sa-drop q-mt-md").props("flat data-name=upload")
    with html.section().classes("sa-card") as self._scene_card:
      html.h2("New scene")
      self._scene = html.div()
    self._images = []

  def show(self, view: View, known: list[Arrays] | None) -> None:
    """Shows the state of a view.

    Args:
      view: what the page shows.
      known: the examples of its weights; None if they are the same as before.
    """
    weights, state = view.weights, view.state
    if weights is not self._weights and known is not None:
      self._weights = weights
      self._show_weights(weights, known)
    self._slots.show(state.slots)
    self._slots.row.visible = not weights.fixed_slots
    self._iterations.show(state.iterations)
    self._iterations.row.visible = bool(weights.num_iterations)
    self._seed.show(state.seed)
    for i, image in enumerate(self._images):
      set_class(image, "sa-chosen", state.image == Image("example", i))
    is_scene = state.image.kind == "draw"
    if is_scene or known is None:
      # Else the sliders stay at the last scene, from which the next one starts.
      self._scene_seed.show(state.image.number if is_scene else 0)
      values = dict(state.image.factors)
      for name, factor in self._factors.items():
        factor.show(values.get(name, factor.default))

  def _show_weights(self, weights, known):
    name = weights.name
    self._select.value = name if weights.is_shipped else None
    self._folder.value = "" if weights.is_shipped else name
    self._thumbs.clear()
    with self._thumbs:
      self._images = thumbnails(
        known, "example", lambda image: self._show_image(image)
      )
    self._scene.clear()
    self._factors = {}
    factors = scenes.factors(weights.run.config)
    self._scene_card.visible = bool(factors)
    with self._scene:
      for factor in factors:
        self._factors[factor.name] = _Factor(factor, self._draw)
      self._scene_seed = NumberSlider(
        "scene seed", "scene-seed", 0, MAX_SEED, self._draw
      )
      self._scene_seed.show(0)
      ui.button("Draw another", on_click=self._draw_another).props(
        "outline dense no-caps data-name=draw"
      ).classes("w-full q-mt-sm")

  async def _choose(self, event):
    """Opens the weights that a visitor selects."""
    view = self._page.view
    if view is None or not event.value:
      return
    if event.value != view.weights.name or not view.weights.is_shipped:
      await self._page.open(event.value, None)

  async def _open_folder(self):
    if self._folder.value:
      await self._page.open(None, self._folder.value)

  async def _upload(self, event):
    await self._page.upload(event)
    self._drop.reset()

  async def _set_slots(self, value):
    if self._takes(num_slots=value):
      await self._page.change(slots=value, canvas=None, second_canvas=None)

  async def _set_seed(self, value):
    # The slots of another seed are other slots.
    await self._page.change(seed=value, canvas=None, second_canvas=None)

  async def _set_iterations(self, value):
    if self._takes(num_iterations=value):
      await self._page.change(iterations=value, t=0)

  def _takes(self, num_slots=None, num_iterations=None):
    """Returns whether the weights take another K or T, or says why not."""
    view = self._page.view
    if view is None:
      return False
    if num_slots is None:
      num_slots = view.state.slots
    if num_iterations is None:
      num_iterations = view.state.iterations
    try:
      view.weights.check(num_slots, num_iterations)
    except ValueError as error:
      self._page.complain(error)
      self.show(view, known=None)
      return False
    return True

  async def _show_image(self, image):
    await self._page.change(image=image, canvas=None, second_canvas=None)

  async def _draw_another(self):
    self._scene_seed.show((self._scene_seed.value + 1) % (MAX_SEED + 1))
    await self._draw()

  async def _draw(self, _=None):
    """Draws the scene of the factors and the seed."""
    factors = tuple(
      (name, factor.value) for name, factor in self._factors.items()
    )
    await self._show_image(Image("draw", self._scene_seed.value, factors))


class _Factor:
  """A slider or a choice for one factor of a scene."""

  def __init__(self, factor: scenes.Factor, handler):
    if not factor.choices:
      slider = NumberSlider(
        factor.label, factor.name, factor.low, factor.high, handler
      )
      self.show, self._value = slider.show, lambda: slider.value
    else:
      with html.div().classes("sa-slider"):
        html.span(factor.label)
        select = ui.select(dict(enumerate(factor.choices)), value=0)
        select.classes("sa-wide").props("dense borderless options-dense")
        select.props(f"data-name={factor.name}")
      select.on("update:model-value", handler)
      self.show, self._value = select.set_value, lambda: select.value
    self.default = factor.default
    self.show(self.default)

  @property
  def value(self) -> int:
    return int(self._value())


def thumbnails(known: list[Arrays], name: str, handler) -> list[ui.element]:
  """Makes small pictures of examples; the handler gets the `Image` clicked."""
  images = []
  for i, batch in enumerate(known):
    image = html.img().classes("sa-pixels").props(f"data-name={name}-{i}")
    image.props["src"] = pictures.to_uri(pictures.photo_of(batch))
    image.props["alt"] = f"example {i}"
    image.props["role"], image.props["tabindex"] = "button", "0"
    choose = functools.partial(handler, Image("example", i))
    image.on("click", choose, args=[]).on("keydown.enter", choose, args=[])
    images.append(image)
  return images
