"""Computes the arrays that a page shows from the state that it is to show.

Letters in shapes: H and W image, C colour channels, T iterations, N inputs, K
slots, D slot size.
"""

import dataclasses
import functools
import io
from typing import NamedTuple

import numpy as np

from slot_attention import tasks
from slot_attention.explore import scenes
from slot_attention.explore.state import Canvas, Image, State, compose
from slot_attention.explore.weights import Arrays, Weights


class Seen(NamedTuple):
  """An image, and what the model makes of it.

  Attributes:
    batch: the image, see `scenes`.
    outputs: of the model, see `Weights.see`.
    slots: [K, D], after the iteration that is shown; None if the model has
      no decoder of slots alone.
    canvas: the slots that are painted.
    painting: recons, masks, recon_combined and ari of the canvas; None for set
      prediction.
  """

  batch: Arrays
  outputs: Arrays
  slots: np.ndarray | None
  canvas: Canvas
  painting: Arrays | None


class View(NamedTuple):
  """Everything that a page shows.

  Attributes:
    state: what it was asked for; K, T and t are filled in.
    weights: the weights.
    first: the image.
    second: the second image, or None.
    note: what the visitor should know about the image, or "".
  """

  state: State
  weights: Weights
  first: Seen
  second: Seen | None
  note: str


@functools.lru_cache(maxsize=4)
def load(name: str | None, workdir: str | None) -> Weights:
  """Loads weights or a run, whose programs are then shared by all pages."""
  return Weights(name, workdir)


@functools.lru_cache(maxsize=4)
def examples(weights: Weights) -> list[Arrays]:
  """Returns `scenes.examples`, which is slow for a run of CLEVR."""
  return scenes.examples(weights)


@functools.lru_cache(maxsize=8)
def _see(weights, image, num_slots, num_iterations, seed, own):
  """Returns an image and the model's outputs for it."""
  batch = find(weights, image, own)
  outputs = weights.see(
    batch, num_slots=num_slots, num_iterations=num_iterations, seed=seed
  )
  return batch, outputs


class UploadedImage:
  """An image of the visitor, which belongs to one page.

  Attributes:
    pixels: uint8 [H, W, 3], of any size.
  """

  def __init__(self, pixels: np.ndarray):
    self.pixels = pixels


def complete(state: State, weights: Weights) -> State:
  """Fills in the K, T and t that are 0.

  Raises:
    ValueError: for K, T, t or a seed out of range.
  """
  num_slots = state.slots or weights.num_slots
  num_iterations = state.iterations or weights.num_iterations
  weights.check(num_slots, num_iterations)
  if not 0 <= state.seed < 2**31:
    raise ValueError(f"seed={state.seed} must be from 0 to {2**31 - 1}")
  t = state.t or num_iterations
  if t and not num_iterations:
    raise ValueError(f"t={t}: this model has no iterations")
  if t > num_iterations:
    raise ValueError(f"t={t} must be from 1 to {num_iterations} iterations")
  return dataclasses.replace(
    state, slots=num_slots, iterations=num_iterations, t=t
  )


def find(weights: Weights, image: Image, own: UploadedImage | None) -> Arrays:
  """Returns an image as a batch of one.

  Raises:
    ValueError: if there is no such example, the scene cannot be drawn, or the
      visitor's image is not there.
  """
  config = weights.run.config
  if image.kind == "draw":
    return scenes.draw(config, image.number, dict(image.factors))
  if image.kind == "own":
    if own is None:
      raise ValueError("a link does not contain your image: drop it here again")
    return scenes.own(config, own.pixels)
  known = examples(weights)
  if image.number >= len(known):
    raise ValueError(
      f"example:{image.number} must be from 0 to {len(known) - 1}"
    )
  return known[image.number]


def see(state: State, own: UploadedImage | None = None) -> View:
  """Computes what a page shows. It compiles for a new K or T.

  Args:
    state: what to show.
    own: the visitor's image.

  Raises:
    ValueError: says in one sentence what cannot be shown.
  """
  weights = load(state.pretrained, state.workdir)
  state = complete(state, weights)
  arguments = (state.slots, state.iterations, state.seed)
  images = [x for x in (state.image, state.second) if x is not None]
  sources = [own if x.kind == "own" else None for x in images]
  seen = [
    _see(weights, image, *arguments, source)
    for image, source in zip(images, sources)
  ]
  slots = [_slots(weights, outputs, state.t) for _, outputs in seen]
  if weights.has_decoder:  # What a click will ask for is compiled before it.
    most = np.concatenate(slots)
    if not weights.is_paint_compiled(len(most), places=state.slots):
      weights.paint(most, seen[0][0], places=state.slots)
  first, *rest = (
    _paint(weights, state, i, batch, outputs, slots)
    for i, (batch, outputs) in enumerate(seen)
  )
  note = ""
  if sources[0] is not None:
    note = scenes.difference(examples(weights), first.batch)
  return View(state, weights, first, rest[0] if rest else None, note)


def _paint(weights, state, i, batch, outputs, slots):
  """Returns image i, the first or the second, with what its canvas paints."""
  if slots[i] is None:  # Only slots that can be painted alone have a canvas.
    canvas = State().canvases(state.slots)[i]
    painting = outputs if "masks" in outputs else None
    return Seen(batch, outputs, None, canvas, painting)
  canvas = state.canvases(state.slots)[i]
  is_changed = (state.canvas, state.second_canvas)[i] is not None
  if not is_changed and state.t == state.iterations:
    return Seen(batch, outputs, slots[i], canvas, outputs)
  both = slots if len(slots) == 2 else [*slots, None]
  painting = weights.paint(compose(canvas, both), batch, places=state.slots)
  return Seen(batch, outputs, slots[i], canvas, painting)


def _slots(weights, outputs, t):
  """Returns the slots after iteration t if they can be painted."""
  if not weights.has_decoder:
    return None
  if "slots_per_iteration" in outputs:
    return outputs["slots_per_iteration"][t]
  return outputs["slots"]


def to_npz(view: View) -> bytes:
  """Returns the arrays of a view as an NPZ file.

  It has images (in [-1, 1]), segments and targets where they are known, the
  model's outputs, and the arrays of the canvas with the prefix "canvas_". Those
  of the second image have the prefix "second_".
  """
  arrays = {}
  for prefix, seen in (("", view.first), ("second_", view.second)):
    if seen is None:
      continue
    parts = {name: x[0] for name, x in tasks.normalize(seen.batch).items()}
    parts.update(seen.outputs)
    if seen.painting is not None:
      painted = ("recons", "masks", "recon_combined")
      parts |= {f"canvas_{name}": seen.painting[name] for name in painted}
    arrays |= {prefix + name: np.asarray(x) for name, x in parts.items()}
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()
