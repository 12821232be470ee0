"""Reads the text of a program that XLA has compiled for a TPU.

The text has computations of instructions, one a line:

  %copy.1 = f32[32,64]{1,0:T(8,128)S(1)} copy(%param.3), metadata={...}

An array has a type, sizes and a layout. The layout lists the axes from minor to
major; T has the tile to which the two minor ones are padded; S(1) says that the
array lies in memory on the chip, and not in its main memory (HBM).
"""

from collections.abc import Iterable
import math
import re

_ARRAY = re.compile(
  r"(pred|bf16|[fsu]\d+)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?([^}]*)\})?"
)
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%\S+) = (.*?) ([a-z][a-z\-]*)\((.*)")
# These only name arrays, or stand for what other instructions do.
_FREE = {
  "bitcast",
  "conditional",
  "constant",
  "get-tuple-element",
  "parameter",
  "tuple",
  "while",
}


def count(text: str, kinds: Iterable[str]) -> dict[str, int]:
  """Counts the instructions of each kind; leaves out kinds that have none."""
  counts = {
    kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds
  }
  return {kind: number for kind, number in counts.items() if number}


def count_aliased(text: str) -> int:
  """Counts the outputs that take the place of an argument."""
  header, _, _ = text.partition("\n")
  return len(re.findall(r"(?:may|must)-alias", header))


def main_memory_bytes(text: str) -> int:
  """Adds up what the instructions read from and write to the main memory.

  A fusion is one instruction. Arrays count with their padding. The body of a
  loop counts once. An instruction that reads or writes only a part of an array
  counts as if it took the whole, unless it only copies the part.
  """
  called = set(re.findall(r"calls=(%[\w.\-]+)", text))
  total = 0
  is_called = False
  shapes = {}
  for line in text.splitlines():
    if line.startswith(("%", "ENTRY ")):
      is_called = line.removeprefix("ENTRY ").split(" ", 1)[0] in called
      shapes = {}
    match = _INSTRUCTION.match(line)
    if is_called or not match:
      continue
    name, shape, kind, rest = match.groups()
    shapes[name] = shape
    if kind in _FREE or kind.endswith("-done"):
      continue
    if kind == "slice-start":  # ((the whole), the part, ...)
      part = _ARRAY.search(shape.partition("), ")[2])[0]
      total += _bytes(part, only_main=False)
    elif kind.endswith("-start"):  # (from, to, ...)
      total += _bytes(shape)
    else:
      arguments, _, _ = rest.partition("), ")
      read = re.findall(r"%[\w.\-]+", arguments)
      total += _bytes(shape) + sum(_bytes(shapes.get(x, "")) for x in read)
  return total


def _bytes(shape, only_main=True):
  """Returns the padded size of all arrays of a shape, or of those in HBM."""
  total = 0
  for kind, sizes, order, tile, rest in _ARRAY.findall(shape):
    if only_main and "S(" in rest:
      continue
    sizes = [int(size) for size in sizes.split(",") if size]
    tile = [int(size) for size in tile.split(",") if size]
    axes = [int(axis) for axis in order.split(",") if axis]
    for axis, size in zip(axes, reversed(tile)):
      sizes[axis] = -(-sizes[axis] // size) * size
    bits = 8 if kind == "pred" else int(kind.lstrip("bfsu"))
    total += math.prod(sizes) * bits // 8
  return total
