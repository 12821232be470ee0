"""Weights or a run, with one compiled program for each number of slots.

Letters in shapes: H and W image, C colour channels, T iterations, N inputs, K
slots, D slot size.
"""

import collections
from collections.abc import Callable, Hashable
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slot_attention import metrics, pretrained, tasks
from slot_attention.data import clevr

# More slots or iterations than these answer too slowly on two cores.
MAX_SLOTS = 24
MAX_ITERATIONS = 32
# Programs that stay in memory, a few megabytes each.
_MAX_PROGRAMS = 16

Arrays = dict[str, np.ndarray]


class Weights:
  """A trained model, and what of it the page can change.

  Attributes:
    name: of the weights, or folder of the run.
    is_shipped: whether the weights come with the package.
    run: the loaded run.
    num_slots: K of the training.
    num_iterations: T of the training; 0 if the model has no iterations.
    fixed_slots: whether K cannot change, as of the Slot MLP and of DSPN.
    has_decoder: whether slots can be painted without their image.
  """

  def __init__(self, name: str | None, workdir: str | None):
    """Loads weights by their name, or the run in a folder.

    Raises:
      ValueError: if there are none, or they are damaged.
    """
    self.run = pretrained.load_any(workdir, name)
    self.name = workdir or name
    self.is_shipped = not workdir
    section = tasks.slots_section(self.run.config)
    self.num_slots = section.num_slots
    self.num_iterations = section.get("num_iterations", 0)
    self.fixed_slots = not self.run.task.has_free_slots
    self.has_decoder = self.run.task.has_decoder
    self.is_set_prediction = bool(self.run.task.num_outputs)
    # A decoder that does not take is_slot is compiled for each number of slots.
    decoder = getattr(self.run.task.model, "decoder", self.run.task.model)
    parameters = inspect.signature(type(decoder).__call__).parameters
    self._pads = "is_slot" in parameters
    self._params = jax.device_put(self.run.params)
    self._programs = collections.OrderedDict()
    # The ids of the true segments are below this, also in scenes with more
    # objects than the training's.
    most = max(self.run.config.data.max_objects, clevr.MAX_OBJECTS)
    self._num_segments = most + 1

  def check(self, num_slots: int, num_iterations: int) -> None:
    """Raises a ValueError for K or T that this model does not take."""
    if self.fixed_slots and num_slots != self.num_slots:
      raise ValueError(
        f"num_slots={num_slots}: the model of {self.name} has learned exactly"
        f" {self.num_slots} slots"
      )
    most = max(MAX_SLOTS, self.num_slots)
    if not 1 <= num_slots <= most:
      raise ValueError(f"num_slots={num_slots} must be from 1 to {most}")
    most = max(MAX_ITERATIONS, self.num_iterations)
    if not self.num_iterations:
      if num_iterations:
        raise ValueError(
          f"num_iterations={num_iterations}: the model of {self.name} has no"
          " iterations"
        )
    elif not 1 <= num_iterations <= most:
      raise ValueError(
        f"num_iterations={num_iterations} must be from 1 to {most}"
      )

  def is_compiled(self, num_slots: int, num_iterations: int) -> bool:
    """Returns whether `see` answers without compiling first."""
    return ("see", num_slots, num_iterations) in self._programs

  def is_paint_compiled(self, num_slots: int, *, places: int) -> bool:
    """Returns whether `paint` answers for so many slots without compiling."""
    return ("paint", self._padded(num_slots, places)) in self._programs

  def see(
    self, batch: Arrays, *, num_slots: int, num_iterations: int, seed: int
  ) -> Arrays:
    """Applies the model to one image.

    Args:
      batch: one image, see `scenes`.
      num_slots: K.
      num_iterations: T; 0 if the model has no iterations.
      seed: of the initial slots. `predict` uses 0.

    Returns:
      The model's outputs without the axis of the batch, and "ari", the
      foreground ARI of the masks, or, if there are no masks, [T], that of the
      attention of each iteration. It means nothing for an image without
      segments.

    Raises:
      ValueError: for K or T out of range.
    """
    self.check(num_slots, num_iterations)

    def see(params, images, segments, seed):
      batch = {"images": images, "example_ids": jnp.zeros(1, jnp.int32)}
      outputs = self.run.task.apply(
        params,
        tasks.normalize(batch),
        jax.random.key(seed),
        num_slots=None if self.fixed_slots else num_slots,
        num_iterations=num_iterations or None,
      )
      return {**outputs, **self._ari(outputs, segments)}

    segments = batch.get("segments", np.zeros_like(batch["images"][..., 0]))
    arguments = (batch["images"], segments.astype(np.int32), np.uint32(seed))
    key = ("see", num_slots, num_iterations)
    return self._call(key, see, arguments)

  def paint(self, slots: np.ndarray, batch: Arrays, *, places: int) -> Arrays:
    """Decodes any slots, with one program for each number of places.

    Args:
      slots: [n, D], of any images; n is at least 1.
      batch: the image whose segments the masks are compared with.
      places: n is padded to a multiple of it, and each multiple has a program.

    Returns:
      The decoder's outputs without the axis of the batch, and "ari".

    Raises:
      ValueError: if there are no slots, or the model cannot decode slots alone.
    """
    if not self.has_decoder:
      raise ValueError(f"the model of {self.name} does not paint slots alone")
    if not len(slots):
      raise ValueError("the last slot stays: without it, nothing is painted")
    places = self._padded(len(slots), places)
    padded = np.zeros((1, places, slots.shape[1]), np.float32)
    padded[0, : len(slots)] = slots
    is_slot = (np.arange(places) < len(slots))[None] if self._pads else None

    def paint(params, slots, is_slot, segments):
      outputs = self.run.task.decode(params, slots, is_slot)
      return {**outputs, **self._ari(outputs, segments)}

    segments = batch.get("segments", np.zeros_like(batch["images"][..., 0]))
    arguments = (padded, is_slot, segments.astype(np.int32))
    outputs = self._call(("paint", places), paint, arguments)
    for name in ("recons", "masks"):
      outputs[name] = outputs[name][: len(slots)]
    return outputs

  def _padded(self, num_slots, places):
    """Returns the number of slots that the decoder gets, with padding."""
    return -(-num_slots // places) * places if self._pads else num_slots

  def _ari(self, outputs, segments):
    """Compares masks, or else attention, with the true segments."""
    size = {"num_segments": self._num_segments}
    if "masks" in outputs:
      return {"ari": metrics.foreground_ari(outputs["masks"], segments, **size)}
    if "attn" in outputs:
      of_iteration = functools.partial(
        metrics.attention_ari, segments=segments, **size
      )
      ari = jax.vmap(of_iteration, in_axes=1, out_axes=1)(outputs["attn"])
      return {"ari": ari}
    return {}

  def _call(
    self, key: Hashable, function: Callable[..., Any], arguments: tuple
  ) -> Arrays:
    """Calls a function of the parameters, which is compiled once per key."""
    if key not in self._programs:
      lowered = jax.jit(function).lower(self._params, *arguments)
      self._programs[key] = lowered.compile()
      while len(self._programs) > _MAX_PROGRAMS:
        self._programs.popitem(last=False)
    self._programs.move_to_end(key)
    outputs = self._programs[key](self._params, *arguments)
    return {name: x[0] for name, x in jax.device_get(outputs).items()}
