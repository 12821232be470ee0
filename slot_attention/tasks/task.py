"""The class of all tasks, and what all tasks use."""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from clu import metrics as clu_metrics
import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention import visualization

Arrays = dict[str, jax.Array]

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Task:
  """A task, as training and evaluation need it.

  Attributes:
    model: takes images [B, H, W, C] in [-1, 1], or videos [B, F, H, W, C];
      returns a dict of outputs.
    loss: maps outputs and normalised batch to the loss of every example, [B].
    measure: maps outputs and normalised batch to the arrays [B, ...] from which
      metrics are computed.
    metrics: maps what `measure` returns, of any number of examples, to a clu
      collection.
    draw: writes pictures of outputs and normalised batch into a folder and
      returns their paths.
    image_shape: height, width and channels of the images, or of the frames,
      that the model draws; None if it draws none and takes images of any size.
    num_outputs: numbers by which the model describes an object; 0 if it
      describes none and needs no targets.
    has_free_slots: whether K can change after training.
    least_slots: the smallest K.
    needs_binary_images: whether pixels must be black or white.
    takes_videos: whether the model takes videos and not single images.
    more_inputs: the names of arrays that the model takes beside images, if the
      batch has them.
    compute_dtype: in which encoder and decoder compute; Slot Attention itself,
      normalisation statistics, alpha masks and losses stay in float32.
  """

  model: nn.Module
  loss: Callable[[Arrays, Arrays], jax.Array]
  measure: Callable[[Arrays, Arrays], Arrays]
  metrics: Callable[[Arrays], clu_metrics.Collection]
  draw: Callable[[Path, Arrays, Arrays], list[Path]]
  image_shape: tuple[int, int, int] | None = None
  num_outputs: int = 0
  has_free_slots: bool = True
  least_slots: int = 1
  needs_binary_images: bool = False
  takes_videos: bool = False
  more_inputs: tuple[str, ...] = ()
  compute_dtype: str = "float32"

  def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
    """Returns fresh parameters for images [H, W, C] or videos [F, H, W, C]."""
    images = jnp.zeros((1, *image_shape))
    params_key, slots_key = jax.random.split(key)
    rngs = {"params": params_key, "slots": slots_key}
    return jax.jit(self.model.init)(rngs, images)["params"]

  def param_shapes(self, image_shape: tuple[int, ...]) -> Any:
    """Returns the shapes and types of `init`'s parameters, without drawing."""
    return jax.eval_shape(
      lambda key: self.init(key, image_shape), jax.random.key(0)
    )

  def apply(
    self,
    params: Any,
    batch: Arrays,
    key: jax.Array,
    *,
    training: bool = False,
    **kwargs,
  ) -> Arrays:
    """Applies the model to a normalised batch.

    Args:
      params: of the model.
      batch: see `normalize`. If it has no example_ids, they are 0 .. B-1.
      key: makes the noise of the initial slots, with the ids of the examples.
      training: whether the model has the random stream "training" as well, for
        noise that evaluations do not have.
      **kwargs: num_slots, num_iterations and others of the model's call.
    """
    more = {name: batch[name] for name in self.more_inputs if name in batch}
    rngs = {"slots": key}
    if training:
      rngs["training"] = jax.random.fold_in(key, 1)
    return self.model.apply(
      {"params": self._cast(params)},
      batch["images"].astype(self.compute_dtype),
      **more,
      example_ids=batch.get("example_ids"),
      rngs=rngs,
      **kwargs,
    )

  @property
  def has_decoder(self) -> bool:
    """Whether `decode` can paint slots without the image that they are from."""
    return hasattr(self.model, "decode")

  @property
  def slots_can_grow(self) -> bool:
    """Whether K may be larger than in training."""
    module = getattr(self.model, "slot_attention", None)
    return self.has_free_slots and not getattr(
      module, "learns_each_slot", False
    )

  def decode(
    self, params: Any, slots: jax.Array, is_slot: jax.Array | None = None
  ) -> Arrays:
    """Paints slots by the model's decoder; see `SpatialBroadcastDecoder`.

    Args:
      params: of the model.
      slots: [B, K, D], of any images.
      is_slot: bool [B, K]; None takes all slots.
    """
    slots = slots.astype(self.compute_dtype)
    arguments = (slots,) if is_slot is None else (slots, is_slot)
    return self.model.apply(
      {"params": self._cast(params)}, *arguments, method="decode"
    )

  def _cast(self, params):
    """Returns the parameters in the precision in which they are used."""
    return {
      module: jax.tree.map(lambda x: x.astype(self.compute_dtype), tree)
      if module in ("encoder", "decoder")
      else tree
      for module, tree in params.items()
    }


def normalize(batch: Arrays) -> Arrays:
  """Returns the batch with its uint8 images as float32 in [-1, 1]."""
  images = batch["images"].astype(jnp.float32)
  return {**batch, "images": (images / 255 - 0.5) * 2}


def draw_attention(folder: Path, outputs: Arrays, batch: Arrays) -> list[Path]:
  """Draws the attention of a model that has some; returns the paths."""
  if "attn" not in outputs:  # Of the Slot MLP and of IODINE, for example.
    return []
  path = folder / "attention.png"
  visualization.draw_attention(path, batch["images"], outputs["attn"])
  return [path]
