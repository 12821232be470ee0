"""The paper's two tasks: a model, its loss, its metrics, its pictures.

A new task is one more function here and an entry in `TASKS`.
"""

from collections.abc import Callable
import dataclasses
import inspect
from pathlib import Path
from typing import Any

from clu import metrics as clu_metrics
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from slot_attention import losses, metrics, models, visualization
from slot_attention.checks import (
  check_at_least,
  check_choice,
  check_fields,
  check_section,
  check_type,
)
from slot_attention.data import clevr
from slot_attention.models.attention import SlotAttention

Arrays = dict[str, jax.Array]

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Task:
  """What train.py and evaluate.py need to know of a task.

  Attributes:
    model: takes images [B, H, W, C] in [-1, 1], returns a dict of outputs.
    needs: array of a data set without which the task cannot be done.
    loss: outputs and normalised batch to the loss of every example, [B].
    measure: outputs and normalised batch to the arrays [B, ...] from which
      metrics are computed.
    metrics: what `measure` returns, of any number of examples, to a clu
      collection.
    draw: writes pictures of outputs and normalised batch into a folder and
      returns their paths.
    compute_dtype: in which encoder and decoder compute; Slot Attention itself,
      normalisation statistics, alpha masks and losses stay in float32.
  """

  model: nn.Module
  needs: str
  loss: Callable[[Arrays, Arrays], jax.Array]
  measure: Callable[[Arrays, Arrays], Arrays]
  metrics: Callable[[Arrays], clu_metrics.Collection]
  draw: Callable[[Path, Arrays, Arrays], list[Path]]
  compute_dtype: str = "float32"

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
    params = {
      module: jax.tree.map(lambda x: x.astype(self.compute_dtype), tree)
      if module in ("encoder", "decoder")
      else tree
      for module, tree in params.items()
    }
    return self.model.apply(
      {"params": params},
      batch["images"].astype(self.compute_dtype),
      example_ids=batch["example_ids"],
      rngs={"slots": key},
      **kwargs,
    )


def normalize(batch: Arrays) -> Arrays:
  """The batch with its uint8 images as float32 in [-1, 1]."""
  images = batch["images"].astype(jnp.float32)
  return {**batch, "images": (images / 255 - 0.5) * 2}


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
  """Height, width and channels of the images that a config's model takes."""
  if "decoder" in config.model:
    return make_task(config).model.decoder.image_shape
  size = config.data.preprocessing.image_size  # Only CLEVR has targets.
  return size, size, 1 if config.data.grayscale else 3


def object_discovery(
  model: ml_collections.ConfigDict, *, max_objects: int
) -> Task:
  """Reconstruct the image slot by slot (Section 4.1)."""

  def loss(outputs, batch):
    return losses.reconstruction_loss(
      outputs["recon_combined"], batch["images"]
    )

  def measure(outputs, batch):
    measured = {"loss": loss(outputs, batch)}
    if "segments" in batch:
      measured["fg_ari"] = metrics.foreground_ari(
        outputs["masks"], batch["segments"], num_segments=max_objects + 1
      )
    return measured

  def collect(measured):
    kind = metrics.ObjectDiscoveryMetrics
    if "fg_ari" in measured:
      kind = metrics.ObjectDiscoveryWithMasksMetrics
    return kind.single_from_model_output(**measured)

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
    needs="images",
    loss=loss,
    measure=measure,
    metrics=collect,
    draw=draw,
  )


def set_prediction(
  model: ml_collections.ConfigDict,
  *,
  max_objects: int,
  use_all_iterations: bool,
  coordinate_scale: float,
) -> Task:
  """Predict the properties of all objects (Section 4.2).

  Args:
    model: the config's section.
    max_objects: in an image.
    use_all_iterations: whether the loss is the mean of those after every
      iteration, and not that after the last one (Figure 23).
    coordinate_scale: see `losses.hungarian_huber_loss`.
  """
  if use_all_iterations and "slot_mlp" in model:
    raise ValueError(
      "config.loss.use_all_iterations=True: the Slot MLP has no iterations"
    )
  check_at_least("config.loss.coordinate_scale", coordinate_scale, 0)

  def loss(outputs, batch):
    def loss_of(predictions):
      return losses.hungarian_huber_loss(
        predictions, batch["targets"], coordinate_scale=coordinate_scale
      )

    if use_all_iterations:
      per_iteration = jax.vmap(loss_of, in_axes=1)
      return jnp.mean(
        per_iteration(outputs["predictions_per_iteration"]), axis=0
      )
    return loss_of(outputs["predictions"])

  def measure(outputs, batch):
    measured = {
      "loss": loss(outputs, batch),
      "predictions": outputs["predictions"],
      "targets": batch["targets"],
    }
    if "attn" in outputs and "segments" in batch:
      measured["attn_ari"] = metrics.attention_ari(
        outputs["attn"][:, -1],
        batch["segments"],
        num_segments=max_objects + 1,
      )
    return measured

  def collect(measured):
    kind = metrics.SetPredictionMetrics
    if "attn_ari" in measured:
      kind = metrics.SetPredictionWithMasksMetrics
    return kind.single_from_model_output(**measured)

  def draw(folder, outputs, batch):
    if "predictions_per_iteration" not in outputs:
      return []
    path = folder / "predictions.png"
    visualization.draw_predictions(
      path,
      batch["images"],
      batch["targets"],
      outputs["predictions_per_iteration"],
      clevr.PROPERTIES,
    )
    return [path, *_draw_attention(folder, outputs, batch)]

  return Task(
    model=models.SetPrediction(
      encoder=_build(models.Encoder, model, "encoder"),
      slot_attention=_build_slot_attention(model),
      classifier=_build(models.SetPredictor, model, "classifier"),
    ),
    needs="targets",
    loss=loss,
    measure=measure,
    metrics=collect,
    draw=draw,
  )


TASKS = {
  "object_discovery": object_discovery,
  "set_prediction": set_prediction,
}


def make_task(config: ml_collections.ConfigDict) -> Task:
  """The task that a config describes.

  Raises:
    ValueError: if there is no such task, or a field of config.loss or of
      config.model is missing, unknown or out of range.
  """
  check_choice("task", config.task, tuple(TASKS))
  make = TASKS[config.task]
  if "max_objects" not in config.data:
    raise ValueError("config.data: max_objects is missing")
  check_type("data.max_objects", config.data.max_objects, int)
  options = dict(inspect.signature(make).parameters)
  del options["model"], options["max_objects"]
  check_fields("config.loss", config.loss, options)
  for name, option in options.items():
    check_type(f"config.loss.{name}", config.loss[name], option.annotation)
  check_choice("compute_dtype", config.compute_dtype, COMPUTE_DTYPES)
  task = make(config.model, max_objects=config.data.max_objects, **config.loss)
  return dataclasses.replace(task, compute_dtype=config.compute_dtype)


def _build_slot_attention(model):
  """Slot Attention, or the Slot MLP where the config has that instead."""
  if "slot_mlp" in model:
    return _build(models.SlotMLP, model, "slot_mlp")
  return _build(SlotAttention, model, "slot_attention")


def _build(module, model, section):
  if section not in model:
    raise ValueError(f"config.model has no section {section}")
  check_section(f"config.model.{section}", model[section])
  types = {
    field.name: field.type
    for field in dataclasses.fields(module)
    if field.init and field.name not in ("parent", "name")
  }
  check_fields(f"config.model.{section}", model[section], types)
  for name, kind in types.items():
    check_type(f"config.model.{section}.{name}", model[section][name], kind)
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
