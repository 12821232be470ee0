"""Checks a config whole, before anything is made or written.

Training, evaluation and compilation call `checked` first, and the code after it
relies on this check. The command `data.prepare` checks only the data section.
"""

from absl import logging
import ml_collections

from slot_attention import tasks
from slot_attention.checks import (
  check_at_least,
  check_choice,
  check_section,
  format_shape,
)
from slot_attention.data import batches, clevr, datasets

# Every field of a config but its sections: type and least value.
FIELDS = {
  "task": (str, None),
  "seed": (int, 0),
  "initial_params": (str, None),
  "batch_size": (int, 1),
  "num_steps": (int, 1),
  "optimizer": (str, None),
  "learning_rate": (float, 0),
  "muon_learning_rate": (float, 0),
  "muon_kernels": (str, None),
  "warmup_steps": (int, 0),
  "decay": (str, None),
  "decay_rate": (float, 0),
  "decay_steps": (int, 1),
  "max_grad_norm": (float, 0),
  "optimizer_epsilon": (float, 0),
  "max_minutes": (float, 0),
  "log_every": (int, 1),
  "eval_every": (int, 1),
  "eval_batch_size": (int, 1),
  "checkpoint_every": (int, 1),
  "keep_checkpoints": (int, 1),
  "data_placement": (str, None),
  "steps_per_dispatch": (int, 1),
  "compute_dtype": (str, None),
  "num_cpu_devices": (int, 1),
}
CHOICES = {
  "optimizer": ("adam", "muon"),
  "muon_kernels": ("all", "dense", "convolutions"),
  "decay": ("exponential", "cosine"),
  "data_placement": batches.PLACEMENTS,
  "compute_dtype": tasks.COMPUTE_DTYPES,
}
# Values of fields that some older runs and weights lack. These runs and weights
# were trained with these values and must stay valid.
DEFAULTS = {
  "initial_params": "",
  "optimizer": "adam",
  "muon_learning_rate": 2e-3,
  "muon_kernels": "all",
  "decay": "exponential",
  "optimizer_epsilon": 1e-8,
}
SECTIONS = ("data", "model", "loss")


def checked(
  config: ml_collections.ConfigDict,
  *,
  num_devices: int = 1,
  is_trained: bool = False,
) -> ml_collections.ConfigDict:
  """Checks a config whole.

  Args:
    config: of an experiment, see configs/.
    num_devices: number of devices that share a batch; 1 while it is unknown.
    is_trained: whether the devices must also be able to share the batches of
      training.

  Returns:
    A copy in which fields that the config leaves out have their defaults, if
    they have one: those of `DEFAULTS` and of the model.

  Raises:
    ValueError: names the field that is missing, unknown, of the wrong type or
      out of range, or the fields that do not fit each other.
  """
  config = _with_defaults(config)
  types = {name: kind for name, (kind, _) in FIELDS.items()}
  check_section("config", config, {**types, **dict.fromkeys(SECTIONS)})
  for name, (_, least) in FIELDS.items():
    if least is not None:
      check_at_least(name, config[name], least)
  for name, choices in CHOICES.items():
    check_choice(name, config[name], choices)
  datasets.check_data(config.data)
  tasks.check_task(config)

  config = tasks.with_defaults(config)
  task = tasks.make_task(config)
  _check_steps(config)
  _check_devices(config, num_devices, is_trained)
  _check_compute_dtype(config)
  _check_data_for_task(config, task)
  return config


def warn_about_slots(
  config: ml_collections.ConfigDict, task: tasks.Task
) -> None:
  """Warns of fewer slots than the data needs, and of more than twice as many.

  A model that draws images needs a slot for each object and one for the
  background. A model that describes objects needs one for each object.

  Args:
    config: that `checked` has returned.
    task: that the config describes.
  """
  num_slots = tasks.slots_section(config).num_slots
  max_objects = config.data.max_objects
  needed = max_objects + (not task.num_outputs)
  what = f"data.max_objects={max_objects} needs {needed} slots"
  if num_slots < needed:
    logging.warning(
      "num_slots=%d is too few: %s. Objects will share a slot or be missed.",
      num_slots,
      what,
    )
  elif num_slots > 2 * needed:
    logging.warning(
      "num_slots=%d is more than twice what is needed: %s. Objects may be split"
      " over several slots.",
      num_slots,
      what,
    )


def _with_defaults(config):
  config = config.copy_and_resolve_references()
  with config.unlocked():  # A config of the command line is locked.
    for name, value in DEFAULTS.items():
      config[name] = config.get(name, value)
  return config


def _check_steps(config):
  """Raises a ValueError unless every interval ends with a dispatch."""
  for name in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
    if config[name] % config.steps_per_dispatch:
      raise ValueError(
        f"{name}={config[name]} is not a multiple of"
        f" steps_per_dispatch={config.steps_per_dispatch}"
      )


def _check_devices(config, num_devices, is_trained):
  for name in ["batch_size"] * is_trained + ["eval_batch_size"]:
    if config[name] % num_devices:
      raise ValueError(
        f"{name}={config[name]} is not a multiple of the {num_devices} devices"
        " that share a batch"
      )


def _check_compute_dtype(config):
  if config.compute_dtype != "float32" and "encoder" not in config.model:
    raise ValueError(
      f"compute_dtype={config.compute_dtype!r} is that of the sections encoder"
      f" and decoder, and the model of task={config.task!r} has neither"
    )


def _check_data_for_task(config, task):
  """Raises a ValueError unless images and targets fit the model."""
  data = config.data
  data_set = datasets.DATA_SETS[data.name]
  if task.needs_binary_images and not data_set.is_binary:
    binary = [x for x in datasets.DATA_SETS if datasets.DATA_SETS[x].is_binary]
    raise ValueError(
      f"data.name={data.name!r}: the pixels are not black or white, as"
      f" task={config.task!r} needs them; {', '.join(binary)} has such images"
    )
  if task.takes_videos != data_set.is_video:
    fitting = [
      name
      for name, x in datasets.DATA_SETS.items()
      if x.is_video == task.takes_videos
    ]
    needed = "videos" if task.takes_videos else "single images"
    raise ValueError(
      f"data.name={data.name!r}: task={config.task!r} needs {needed}, which"
      f" {', '.join(fitting)} {'has' if len(fitting) == 1 else 'have'}"
    )
  if task.num_outputs:
    if not data_set.has_targets:
      raise ValueError(
        f"data.name={data.name!r}: the data has no targets, which"
        f" task={config.task!r} needs"
      )
    if task.num_outputs != clevr.TARGET_SIZE:
      raise ValueError(
        f"{_field_of_outputs(config)}={task.num_outputs} does not fit the"
        f" {clevr.TARGET_SIZE} numbers of a target"
      )
  images = datasets.image_shape(data)[-3:]
  if task.image_shape not in (None, images):
    raise ValueError(
      f"images of {format_shape(images)} (height x width x channels) do not fit"
      f" the decoder, which draws {format_shape(task.image_shape)}: change"
      f" {_fields_of_size(config)} or the data"
    )


def _field_of_outputs(config):
  (name,) = (x for x in config.model if "num_outputs" in config.model[x])
  return f"model.{name}.num_outputs"


def _fields_of_size(config):
  """Lists the fields of the decoder that say what it draws."""
  return ", ".join(
    f"model.{section}.{field}"
    for section in config.model
    if "decoder" in section
    for field in ("broadcast_size", "strides", "image_size", "channels")
    if field in config.model[section]
  )
