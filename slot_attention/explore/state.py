"""What a page shows, as a value that a link can hold.

A slot is written by the letter of its image and its number from 1: a2 is the
second slot of the image, b3 the third one of the second image. a2~b3~0.25 lies
a quarter of the way from a2 to b3. A canvas is the slots that are painted, as
in a1-a2-b3.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import NamedTuple
import urllib.parse

import numpy as np

from slot_attention.checks import check_at_least

LETTERS = "ab"  # Of the image and of the second one.
# The example whose index follows, a new scene, or an image of the visitor.
KINDS = ("example", "draw", "own")


def slot_name(image: int, slot: int) -> str:
  """Returns the name of a slot, for example "b3"."""
  return f"{LETTERS[image]}{slot + 1}"


class Piece(NamedTuple):
  """A slot of a canvas.

  Attributes:
    image: 0, or 1 for the second image.
    slot: index of the slot, from 0.
    to_image: image of the slot towards which it is interpolated.
    to_slot: index of that slot.
    amount: how far it is interpolated, from 0 to 1.
  """

  image: int
  slot: int
  to_image: int = 0
  to_slot: int = 0
  amount: float = 0.0

  def __str__(self):
    text = slot_name(self.image, self.slot)
    if self.amount:
      to = slot_name(self.to_image, self.to_slot)
      text += f"~{to}~{self.amount:.2f}"
    return text


Canvas = tuple[Piece, ...]


class Image(NamedTuple):
  """Where an image comes from.

  Attributes:
    kind: one of `KINDS`.
    number: index of the example, seed of the scene, or number of the visitor's
      image.
    factors: names and values of the scene's factors.
  """

  kind: str = "example"
  number: int = 0
  factors: tuple[tuple[str, int], ...] = ()

  def __str__(self):
    words = [f"{name}={value}" for name, value in self.factors]
    return ":".join([self.kind, str(self.number), *words])


_FIRST = Image()


@dataclasses.dataclass(frozen=True)
class State:
  """What a page shows.

  Attributes:
    pretrained: name of the weights; None if it is a run.
    workdir: folder of the run.
    image: the image.
    second: the second image, whose slots can be taken; None if there is none.
    slots: K; 0 takes the training's.
    iterations: T; 0 takes the training's.
    seed: of the initial slots.
    t: the iteration that is shown, from 1; 0 is the last one.
    canvas: the slots that are painted; None paints those of the image.
    second_canvas: the same for the second image.
  """

  pretrained: str | None = None
  workdir: str | None = None
  image: Image = _FIRST
  second: Image | None = None
  slots: int = 0
  iterations: int = 0
  seed: int = 0
  t: int = 0
  canvas: Canvas | None = None
  second_canvas: Canvas | None = None

  def query(self) -> str:
    """Returns the query of a link, without a question mark."""
    fields = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value != field.default:
        is_canvas = field.name.endswith("canvas")
        text = "-".join(map(str, value)) if is_canvas else str(value)
        fields[field.name] = text
    return urllib.parse.urlencode(fields, safe=":~-=/")

  def canvases(self, num_slots: int) -> tuple[Canvas, Canvas]:
    """Returns both canvases; those without changes have all of K slots."""
    return tuple(
      tuple(Piece(image, k) for k in range(num_slots)) if x is None else x
      for image, x in enumerate((self.canvas, self.second_canvas))
    )


def read_query(fields: Mapping[str, str]) -> State:
  """Reads the fields of a link's query.

  Raises:
    ValueError: names the field that is unknown or cannot be read.
  """
  read = {
    "pretrained": str,
    "workdir": str,
    "image": _read_image,
    "second": _read_image,
    "canvas": _read_canvas,
    "second_canvas": _read_canvas,
  }
  values = {}
  known = [field.name for field in dataclasses.fields(State)]
  for name, text in fields.items():
    if name not in known:
      raise ValueError(f"{name} in the link is not one of {', '.join(known)}")
    try:
      values[name] = read.get(name, _read_number)(text)
    except ValueError as error:
      raise ValueError(f"{name}={text} in the link: {error}") from error
  if values.get("pretrained") and values.get("workdir"):
    raise ValueError("the link has both pretrained and workdir")
  return State(**values)


def compose(canvas: Canvas, slots: list[np.ndarray | None]) -> np.ndarray:
  """Returns the slots of a canvas.

  Args:
    canvas: which slots, and how far they are interpolated.
    slots: [K, D] of the image and of the second image.

  Returns:
    [n, D].

  Raises:
    ValueError: if the canvas has a slot that there is not.
  """

  def take(image, slot):
    if slots[image] is None:
      raise ValueError("the second image is missing")
    if slot >= len(slots[image]):
      raise ValueError(
        f"slot {slot_name(image, slot)} is not one of {len(slots[image])}"
      )
    return slots[image][slot]

  rows = []
  for piece in canvas:
    row = take(piece.image, piece.slot)
    if piece.amount:
      to = take(piece.to_image, piece.to_slot)
      row = (1 - piece.amount) * row + piece.amount * to
    rows.append(row)
  return np.stack(rows) if rows else np.zeros((0, 1), np.float32)


def toggle(canvas: Canvas, image: int, slot: int) -> Canvas:
  """Removes a slot from a canvas, or adds it if it is not there."""
  kept = tuple(
    piece for piece in canvas if (piece.image, piece.slot) != (image, slot)
  )
  if len(kept) < len(canvas):
    return kept
  return tuple(sorted((*canvas, Piece(image, slot))))


def swap(
  canvas: Canvas, second: Canvas, slot: int, other: int
) -> tuple[Canvas, Canvas]:
  """Exchanges slot a of the canvas with slot b of the second image's.

  Args:
    canvas: of the image.
    second: of the second image.
    slot: index of the slot of the image.
    other: index of the slot of the second image.

  Returns:
    Both canvases. If the slots are exchanged already, they go back.

  Raises:
    ValueError: if one of the two slots has been removed.
  """
  mine, theirs = (0, slot), (1, other)
  here = {(x.image, x.slot): x for x in canvas}
  there = {(x.image, x.slot): x for x in second}
  for a, b in ((mine, theirs), (theirs, mine)):
    if a in here and b in there and b not in here and a not in there:
      here[b] = Piece(*b)
      there[a] = Piece(*a)
      del here[a], there[b]
      return tuple(sorted(here.values())), tuple(sorted(there.values()))
  raise ValueError(
    f"slots a{slot + 1} and b{other + 1} cannot be swapped: one of them is"
    " removed or in the other image already"
  )


def interpolate(canvas: Canvas, slot: int, other: int, amount: float) -> Canvas:
  """Moves slot a of a canvas towards slot b of the second image.

  Raises:
    ValueError: if the slot is removed.
  """
  if not any((x.image, x.slot) == (0, slot) for x in canvas):
    raise ValueError(f"slot a{slot + 1} is removed, and cannot be interpolated")
  moved = Piece(0, slot, 1, other, amount) if amount else Piece(0, slot)
  return tuple(moved if (x.image, x.slot) == (0, slot) else x for x in canvas)


def _read_number(text):
  if not re.fullmatch(r"\d{1,10}", text):
    raise ValueError("it must be a number with at most ten digits")
  return int(text)


def _read_image(text):
  kind, *rest = text.split(":")
  if kind not in KINDS:
    raise ValueError(f"{kind} is not one of {', '.join(KINDS)}")
  number, *words = rest or ["0"]
  factors = []
  for word in words:
    name, _, value = word.partition("=")
    factors.append((name, _read_number(value)))
  return Image(kind, _read_number(number), tuple(factors))


def _read_canvas(text):
  pieces = []
  for word in text.split("-"):
    match = re.fullmatch(
      r"([ab])(\d{1,3})(?:~([ab])(\d{1,3})~(0\.\d\d|1\.00))?", word
    )
    if not match:
      raise ValueError(f"{word} is not a slot such as a1 or a1~b2~0.50")
    letter, slot, to, to_slot, amount = match.groups()
    check_at_least("slot", int(slot), 1)
    piece = Piece(LETTERS.index(letter), int(slot) - 1)
    if to:
      check_at_least("slot", int(to_slot), 1)
      place = LETTERS.index(to), int(to_slot) - 1
      piece = Piece(*piece[:2], *place, float(amount))
    pieces.append(piece)
  return tuple(pieces)
