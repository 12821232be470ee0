"""The paper's two tasks: a model, its loss, its metrics, its pictures.

A new task is one more function here and an entry in `TASKS`.
"""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from clu import metrics as clu_metrics
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from slot_attention import losses, metrics, models, visualization
from slot_attention.attention import SlotAttention
from slot_attention.validation import check_choice

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
  """What train.py and evaluate.py need to know of a task.

  Attributes:
    model: takes images [B, H, W, C] in [-1, 1], returns a dict of outputs.
    loss: outputs and normalised batch to the loss of every example, [B].
    measure: outputs and normalised batch to the arrays [B, ...] from which
      `metrics` are computed.
    metrics: clu collection over what `measure` returns.
    draw: writes pictures of outputs and normalised batch into a folder and
      returns their paths.
  """

  model: nn.Module
  loss: Callable[[Arrays, Arrays], jax.Array]
  measure: Callable[[Arrays, Arrays], Arrays]
  metrics: type[clu_metrics.Collection]
  draw: Callable[[Path, Arrays, Arrays], list[Path]]

  def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
    """Fresh parameters for images [H, W, C]."""
    images = jnp.zeros((1, *image_shape))
    params_key, slots_key = jax.random.split(key)
    rngs = {"params": params_key, "slots": slots_key}
    return jax.jit(self.model.init)(rngs, images)["params"]

  def apply(
    self, params: Any, batch: Arrays, key: jax.Array, **kwargs
  ) -> Arrays:
    """The model's outputs on a normalised batch.

    Args:
      params: of the model.
      batch: see `normalize`.
      key: of the initial slots' noise, beside each example's id.
      **kwargs: num_slots, num_iterations, slots: see `SlotAttention`.
    """
    return self.model.apply(
      {"params": params},
      batch["images"],
      example_ids=batch["example_ids"],
      rngs={"slots": key},
      **kwargs,
    )


def normalize(batch: Arrays) -> Arrays:
  """The batch with its uint8 images as float32 in [-1, 1]."""
  images = batch["images"].astype(jnp.float32)
  return {**batch, "images": (images / 255 - 0.5) * 2}


def object_discovery(
  model: ml_collections.ConfigDict, *, max_objects: int
) -> Task:
  """Reconstruct the image slot by slot (Section 4.1)."""

  def loss(outputs, batch):
    return losses.reconstruction_loss(
      outputs["recon_combined"], batch["images"]
    )

  def measure(outputs, batch):
    return {
      "loss": loss(outputs, batch),
      "fg_ari": metrics.foreground_ari(
        outputs["masks"], batch["segments"], num_segments=max_objects + 1
      ),
    }

  def draw(folder, outputs, batch):
    path = folder / "slots.png"
    visualization.draw_slots(path, batch["images"], outputs)
    return [path, *_draw_attention(folder, outputs, batch)]

  return Task(
    model=models.ObjectDiscovery(
      encoder=_build(models.Encoder, model, "encoder"),
      slot_attention=_build_slot_attention(model),
      decoder=_build(models.SpatialBroadcastDecoder, model, "decoder"),
    ),
    loss=loss,
    measure=measure,
    metrics=metrics.ObjectDiscoveryMetrics,
    draw=draw,
  )


def set_prediction(
  model: ml_collections.ConfigDict, *, max_objects: int
) -> Task:
  """Predict the properties of all objects (Section 4.2)."""
  del max_objects  # The targets are padded to it.

  def loss(outputs, batch):
    return losses.hungarian_huber_loss(outputs["predictions"], batch["targets"])

  def measure(outputs, batch):
    return {
      "loss": loss(outputs, batch),
      "predictions": outputs["predictions"],
      "targets": batch["targets"],
    }

  return Task(
    model=models.SetPrediction(
      encoder=_build(models.Encoder, model, "encoder"),
      slot_attention=_build_slot_attention(model),
      classifier=_build(models.SetPredictor, model, "classifier"),
    ),
    loss=loss,
    measure=measure,
    metrics=metrics.SetPredictionMetrics,
    draw=_draw_attention,
  )


TASKS = {
  "object_discovery": object_discovery,
  "set_prediction": set_prediction,
}


def make_task(config: ml_collections.ConfigDict) -> Task:
  """The task that a config describes.

  Raises:
    ValueError: if there is no such task, or a field of config.model is
      missing, unknown or out of range.
  """
  check_choice("task", config.task, tuple(TASKS))
  return TASKS[config.task](config.model, max_objects=config.data.max_objects)


def _build_slot_attention(model):
  """Slot Attention, or the Slot MLP where the config has that instead."""
  if "slot_mlp" in model:
    return _build(models.SlotMLP, model, "slot_mlp")
  return _build(SlotAttention, model, "slot_attention")


def _build(module, model, section):
  if section not in model:
    raise ValueError(f"config.model has no section {section}")
  fields = {field.name for field in dataclasses.fields(module) if field.init}
  fields -= {"parent", "name"}
  given = set(model[section])
  if given != fields:
    raise ValueError(
      f"config.model.{section}: "
      + ", ".join(
        [f"{name} is missing" for name in sorted(fields - given)]
        + [f"{name} is unknown" for name in sorted(given - fields)]
      )
    )
  try:
    return module(**model[section])
  except (TypeError, ValueError) as error:
    raise ValueError(f"config.model.{section}.{error}") from error


def _draw_attention(folder, outputs, batch):
  if "attn" not in outputs:  # The Slot MLP attends to nothing.
    return []
  path = folder / "attention.png"
  visualization.draw_attention(path, batch["images"], outputs["attn"])
  return [path]
