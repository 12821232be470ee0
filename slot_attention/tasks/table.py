"""The table of all tasks and parts, and the task that a config describes."""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import typing
from typing import Any

import flax.linen as nn
import ml_collections

from slot_attention import models
from slot_attention.checks import check_choice, check_section, nearest
from slot_attention.tasks import discovery, sets
from slot_attention.tasks.task import Task

# By the name in config.task: the model, and the function that makes its task.
# The keyword arguments of the function, except max_objects, are the options in
# config.loss.
TASKS: dict[str, tuple[type[nn.Module], Callable[..., Task]]] = {
  "adaptive_object_discovery": (
    models.AdaptiveObjectDiscovery,
    discovery.adaptive_object_discovery,
  ),
  "dspn": (models.DSPN, sets.dspn),
  "iodine": (models.Iodine, discovery.iodine),
  "monet": (models.MONet, discovery.monet),
  "nem": (models.NeuralEM, discovery.nem),
  "object_discovery": (models.ObjectDiscovery, discovery.object_discovery),
  "set_prediction": (models.SetPrediction, sets.set_prediction),
  "video_object_discovery": (
    models.VideoDiscovery,
    discovery.video_object_discovery,
  ),
}

# The modules that each part of a model can be, by the name of their section in
# config.model. A config has one section for each part of its model, and the
# type of the model's field says which of these modules the part can be.
PARTS: dict[str, dict[str, type[nn.Module]]] = {
  "encoder": {"encoder": models.Encoder, "resnet": models.ResNet},
  "slot_attention": {
    "slot_attention": models.SlotAttention,
    "slot_mlp": models.SlotMLP,
    "mesh_attention": models.MeshAttention,
    "invariant_slot_attention": models.InvariantSlotAttention,
  },
  "decoder": {
    "decoder": models.SpatialBroadcastDecoder,
    "invariant_decoder": models.InvariantDecoder,
  },
  "slot_selector": {"slot_selector": models.SlotSelector},
  "slot_predictor": {"slot_predictor": models.SlotPredictor},
  "classifier": {"classifier": models.SetPredictor},
  "refinement": {"refinement": models.RefinementNetwork},
  "attention": {"attention": models.AttentionNetwork},
  "component_encoder": {"component_encoder": models.ComponentEncoder},
  "pixel_decoder": {"pixel_decoder": models.PixelDecoder},
  "input_network": {"input_network": models.InputNetwork},
  "cell": {"cell": models.RecurrentCell},
  "bernoulli_decoder": {"bernoulli_decoder": models.BernoulliDecoder},
  "set_encoder": {"set_encoder": models.SetEncoder},
  "set_decoder": {"set_decoder": models.SetDecoder},
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
  unknown = sorted(set(config.model) - {name for name, _ in sections})
  if unknown:
    known = [section for options in PARTS.values() for section in options]
    hint = nearest(unknown[0], known)
    raise ValueError(f"config.model: {unknown[0]} is unknown{hint}")
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
    for part, (section, module) in zip(_fields(model), _sections(config)):
      place = f"{section}."
      parts[part.name] = module(**config.model[section])
    place = ""
    whole = model(**parts)
  except ValueError as error:
    raise ValueError(f"model.{place}{error}") from error
  task = make(whole, max_objects=config.data.max_objects, **config.loss)
  module = getattr(whole, "slot_attention", None)
  return dataclasses.replace(
    task,
    has_free_slots=task.has_free_slots
    and not isinstance(module, models.SlotMLP),
    compute_dtype=config.compute_dtype,
  )


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
  for part in _fields(model):
    kinds = typing.get_args(part.type) or (part.type,)
    options = {
      name: module
      for name, module in PARTS[part.name].items()
      if issubclass(module, kinds)
    }
    given = [name for name in options if name in config.model]
    if len(given) != 1:
      problem = f"{' and '.join(given)} exclude each other"
      if not given:
        problem = f"{' or '.join(options)} is missing"
      raise ValueError(f"config.model: {problem}")
    sections.append((given[0], options[given[0]]))
  return sections


def _fields(module):
  """Returns the fields of a linen module that a config sets."""
  return [
    field
    for field in dataclasses.fields(module)
    if field.init and field.name not in ("parent", "name")
  ]


def _defaults(module) -> Mapping[str, Any]:
  return {
    field.name: field.default
    for field in _fields(module)
    if field.default is not dataclasses.MISSING
  }
