"""Defines the tasks: each has a model, a loss, metrics and pictures.

This is the only file that knows them all. A new task, or a new model with a
loss of its own, is one more function here and one more line of `TASKS`; a new
module for a part of a model is one more line of `PARTS`.
"""

from collections.abc import Callable, Mapping
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
  check_section,
  nearest,
)
from slot_attention.data import clevr

Arrays = dict[str, jax.Array]

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Task:
  """A task, as training and evaluation need it.

  Attributes:
    model: takes images [B, H, W, C] in [-1, 1], returns a dict of outputs.
    loss: outputs and normalised batch to the loss of every example, [B].
    measure: outputs and normalised batch to the arrays [B, ...] from which
      metrics are computed.
    metrics: what `measure` returns, of any number of examples, to a clu
      collection.
    draw: writes pictures of outputs and normalised batch into a folder and
      returns their paths.
    image_shape: height, width and channels of the images that the model draws;
      None if it draws none and takes images of any size.
    num_outputs: numbers by which the model describes an object; 0 if it
      describes none and needs no targets.
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
  compute_dtype: str = "float32"

  def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
    """Returns fresh parameters for images [H, W, C]."""
    images = jnp.zeros((1, *image_shape))
    params_key, slots_key = jax.random.split(key)
    rngs = {"params": params_key, "slots": slots_key}
    return jax.jit(self.model.init)(rngs, images)["params"]

  def apply(
    self, params: Any, batch: Arrays, key: jax.Array, **kwargs
  ) -> Arrays:
    """Applies the model to a normalised batch.

    Args:
      params: of the model.
      batch: see `normalize`. If it has no example_ids, they are 0 .. B-1.
      key: of the initial slots' noise, beside each example's id.
      **kwargs: num_slots, num_iterations, slots, noise: see `SlotAttention`.
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
      example_ids=batch.get("example_ids"),
      rngs={"slots": key},
      **kwargs,
    )


def normalize(batch: Arrays) -> Arrays:
  """Returns the batch with its uint8 images as float32 in [-1, 1]."""
  images = batch["images"].astype(jnp.float32)
  return {**batch, "images": (images / 255 - 0.5) * 2}


def object_discovery(
  model: models.ObjectDiscovery, *, max_objects: int
) -> Task:
  """Makes the task to reconstruct images slot by slot (Section 4.1)."""
  return _discovery(
    model, _squared_error, max_objects, model.decoder.image_shape
  )


def iodine(model: models.Iodine, *, max_objects: int) -> Task:
  """Makes the task of IODINE: refinement t of T weighs t / T in the loss."""

  def loss(outputs, batch):
    del batch  # The model has compared itself with its images.
    terms = outputs["nll"] + outputs["kl"]
    return terms @ jnp.linspace(0, 1, terms.shape[1])

  return _discovery(model, loss, max_objects, model.pixel_decoder.image_shape)


def monet(
  model: models.MONet,
  *,
  max_objects: int,
  sigma_background: float,
  sigma_foreground: float,
  beta: float,
  gamma: float,
) -> Task:
  """Makes the task of MONet, whose options are those of `models.monet_loss`."""
  sigmas = (sigma_background, sigma_foreground)
  check_at_least("loss.sigma_background", sigma_background, 1e-3)
  check_at_least("loss.sigma_foreground", sigma_foreground, 1e-3)
  check_at_least("loss.beta", beta, 0)
  check_at_least("loss.gamma", gamma, 0)

  def loss(outputs, batch):
    return models.monet_loss(outputs, batch["images"], sigmas, beta, gamma)

  return _discovery(model, loss, max_objects, model.pixel_decoder.image_shape)


def set_prediction(
  model: models.SetPrediction,
  *,
  max_objects: int,
  use_all_iterations: bool,
  coordinate_scale: float,
) -> Task:
  """Makes the task to predict the properties of all objects (Section 4.2).

  Args:
    model: to train.
    max_objects: in an image.
    use_all_iterations: whether the loss is the mean of the losses after every
      iteration, and not the loss after the last one (Figure 23).
    coordinate_scale: see `losses.hungarian_huber_loss`.

  Raises:
    ValueError: for options that cannot be used with this model.
  """
  if use_all_iterations and isinstance(model.slot_attention, models.SlotMLP):
    raise ValueError(
      "loss.use_all_iterations=True: the Slot MLP has no iterations"
    )
  check_at_least("loss.coordinate_scale", coordinate_scale, 0)

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
    model=model,
    loss=loss,
    measure=measure,
    metrics=collect,
    draw=draw,
    num_outputs=model.classifier.num_outputs,
  )


# By the name in config.task: the model, and the function that makes the task of
# it. The keyword arguments of the function, but max_objects, are the options in
# config.loss.
TASKS: dict[str, tuple[type[nn.Module], Callable[..., Task]]] = {
  "iodine": (models.Iodine, iodine),
  "monet": (models.MONet, monet),
  "object_discovery": (models.ObjectDiscovery, object_discovery),
  "set_prediction": (models.SetPrediction, set_prediction),
}

# The modules that can be each part of a model, by the name of their section in
# config.model. A config has one section for each part of its model.
PARTS: dict[str, dict[str, type[nn.Module]]] = {
  "encoder": {"encoder": models.Encoder},
  "slot_attention": {
    "slot_attention": models.SlotAttention,
    "slot_mlp": models.SlotMLP,
  },
  "decoder": {"decoder": models.SpatialBroadcastDecoder},
  "classifier": {"classifier": models.SetPredictor},
  "refinement": {"refinement": models.RefinementNetwork},
  "attention": {"attention": models.AttentionNetwork},
  "component_encoder": {"component_encoder": models.ComponentEncoder},
  "pixel_decoder": {"pixel_decoder": models.PixelDecoder},
}


def check_task(config: ml_collections.ConfigDict) -> None:
  """Checks the fields of config.task, config.loss and config.model.

  Raises:
    ValueError: if there is no such task, or a field is missing, unknown or of
      the wrong type. `make_task` raises those for values out of range.
  """
  check_choice("task", config.task, TASKS)
  check_section("config.loss", config.loss, _loss_options(config.task))
  sections = _sections(config)
  for name in sorted(set(config.model) - {name for name, _ in sections}):
    known = [section for options in PARTS.values() for section in options]
    raise ValueError(f"config.model: {name} is unknown{nearest(name, known)}")
  for name, module in sections:
    fields = _fields(module)
    check_section(
      f"config.model.{name}",
      config.model[name],
      {field.name: field.type for field in fields},
      optional=_defaults(module),
    )


def with_defaults(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns a config whose model has every field in every section.

  A field that the config leaves out has the default of its module. So a config
  that is older than a field stays valid.
  """
  config = config.copy_and_resolve_references()
  for name, module in _sections(config):
    config.model[name] = {**_defaults(module), **config.model[name]}
  return config


def make_task(config: ml_collections.ConfigDict) -> Task:
  """Makes the task that a config describes.

  Args:
    config: whose fields `check_task` has checked.

  Raises:
    ValueError: for a value out of range.
  """
  model, make = TASKS[config.task]
  parts, place = {}, ""
  try:
    for part, (section, module) in zip(_parts(model), _sections(config)):
      place = f"{section}."
      parts[part] = module(**config.model[section])
    place = ""
    whole = model(**parts)
  except ValueError as error:
    raise ValueError(f"model.{place}{error}") from error
  task = make(whole, max_objects=config.data.max_objects, **config.loss)
  return dataclasses.replace(task, compute_dtype=config.compute_dtype)


def slots_section(config: ml_collections.ConfigDict) -> Any:
  """Returns the section of config.model with K and, if there are any, T."""
  (section,) = (x for x in config.model.values() if "num_slots" in x)
  return section


def _loss_options(task):
  """Returns the types of a task's options in config.loss, by name."""
  _, make = TASKS[task]
  _, *options = inspect.signature(make).parameters.values()
  return {x.name: x.annotation for x in options if x.name != "max_objects"}


def _sections(config):
  """Returns name and module of the section that a config has for each part."""
  model, _ = TASKS[config.task]
  sections = []
  for part in _parts(model):
    given = [name for name in PARTS[part] if name in config.model]
    if len(given) != 1:
      problem = f"{' and '.join(given)} exclude each other"
      if not given:
        problem = f"{' or '.join(PARTS[part])} is missing"
      raise ValueError(f"config.model: {problem}")
    sections.append((given[0], PARTS[part][given[0]]))
  return sections


def _fields(module):
  """Returns the fields of a linen module that a config sets."""
  return [
    field
    for field in dataclasses.fields(module)
    if field.init and field.name not in ("parent", "name")
  ]


def _parts(model):
  return [field.name for field in _fields(model)]


def _defaults(module) -> Mapping[str, Any]:
  return {
    field.name: field.default
    for field in _fields(module)
    if field.default is not dataclasses.MISSING
  }


def _squared_error(outputs, batch):
  return losses.reconstruction_loss(outputs["recon_combined"], batch["images"])


def _discovery(model, loss, max_objects, image_shape):
  """Makes a task of a model that draws images slot by slot.

  Beside another loss than the squared error, that error is the metric "mse", so
  that all models can be compared.
  """

  def measure(outputs, batch):
    measured = {"loss": loss(outputs, batch)}
    if loss is not _squared_error:
      measured["mse"] = _squared_error(outputs, batch)
    if "segments" in batch:
      measured |= metrics.segmentation_metrics(
        outputs["masks"], batch["segments"], num_segments=max_objects + 1
      )
    return measured

  def collect(measured):
    return metrics.averages(measured).single_from_model_output(**measured)

  def draw(folder, outputs, batch):
    path = folder / "slots.png"
    visualization.draw_slots(path, batch["images"], outputs)
    return [path, *_draw_attention(folder, outputs, batch)]

  return Task(model, loss, measure, collect, draw, image_shape)


def _draw_attention(folder, outputs, batch):
  if "attn" not in outputs:  # Of the Slot MLP and of IODINE, for example.
    return []
  path = folder / "attention.png"
  visualization.draw_attention(path, batch["images"], outputs["attn"])
  return [path]
