"""Converts the authors' TensorFlow checkpoints to runs, and back.

  python -m slot_attention.convert --from=ckpt-500 --to=runs/official
  python -m slot_attention.convert --from=runs/official --to=ckpt-500

The authors published the checkpoints of both models on CLEVR in the bucket
gs://gresearch/slot-attention, in the folders object-discovery and
set-prediction: ckpt-500.index and ckpt-500.data-00000-of-00001. --from takes
such a folder, either file, or the path without its ending.

TensorFlow reads and writes these checkpoints. The parameters and the step are
converted. The state of Adam is not. If the run is trained further, Adam and the
learning rate start anew. An official checkpoint contains neither the strides
nor the size of the decoder's grid nor epsilon: the official code must use the
values of the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
import re
from typing import Any

from flax import traverse_util
import jax
import ml_collections
import numpy as np

from slot_attention import command, tasks, validation
from slot_attention.data import datasets
from slot_attention.training import checkpoints, optimizers, runs

Variables = dict[str, np.ndarray]

_PREFIX = "network/layer_with_weights-0/"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_STEP = f"global_step{_SUFFIX}"
# Patterns that turn our names into those of the official code. Every pattern
# that fits a name is applied.
_RENAMED = (
  (r"^encoder/conv_(\d+)", r"encoder_cnn/layer_with_weights-\1"),
  (r"^encoder/position_embedding", "encoder_pos"),
  (r"^encoder/(layer_norm|mlp)", r"\1"),
  (r"^decoder/position_embedding", "decoder_pos"),
  (r"^decoder/conv_(\d+)", r"decoder_cnn/layer_with_weights-\1"),
  (r"^classifier/mlp", "mlp_classifier"),
  (r"/dense_(\d+)", r"/layer_with_weights-\1"),
  (r"/gru/input/kernel", "/gru/kernel"),
  (r"/gru/recurrent/kernel", "/gru/recurrent_kernel"),
  (r"norm(_\w+)?/scale", r"norm\1/gamma"),
  (r"norm(_\w+)?/bias", r"norm\1/beta"),
)
# Keras keeps both biases of the GRU in one array [2, 3D], in this order.
_GRU_BIASES = (
  "slot_attention/gru/input/bias",
  "slot_attention/gru/recurrent/bias",
)
_GRU_BIAS = f"{_PREFIX}slot_attention/gru/bias{_SUFFIX}"
# What the official code has: its tasks, the sections of its models, and the
# fields of its Slot Attention on which outputs depend.
_TASKS = ("object_discovery", "set_prediction")
_SECTIONS = ("encoder", "slot_attention", "decoder", "classifier")
_SLOT_ATTENTION = {
  "aggregation": "weighted_mean",
  "epsilon_place": "attention",
  "slot_init": "shared",
  "softmax_axis": "slots",
  "temperature": "sqrt_d",
  "update": "gru",
  "use_layer_norm": True,
  "use_projections": True,
}
# The configs of the published checkpoints, by the part that only one of them
# has.
_CONFIGS = {
  "decoder_cnn": "clevr6_object_discovery",
  "mlp_classifier": "clevr_set_prediction",
}


def to_official(params: Any) -> Variables:
  """Renames parameters to the variables of the official code.

  Args:
    params: of `ObjectDiscovery` or `SetPrediction`. A parameter that has no
      counterpart in the official code keeps its name.

  Returns:
    The variables by name.

  Raises:
    ValueError: if there is no GRU of Slot Attention.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  if not set(_GRU_BIASES) <= set(flat):
    raise ValueError("the official code has only Slot Attention with a GRU")
  variables = {
    name: np.asarray(flat[path]) for path, name in _names(flat).items()
  }
  variables[_GRU_BIAS] = np.stack([flat[path] for path in _GRU_BIASES])
  return variables


def from_official(variables: Mapping[str, np.ndarray], like: Any) -> Any:
  """Renames the variables of the official code to parameters.

  Args:
    variables: by name. Counters and the optimiser's variables are ignored.
    like: tree with the names and shapes of the parameters.

  Returns:
    The tree of the parameters.

  Raises:
    ValueError: names the variables that are missing, unknown, or of another
      shape.
  """
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
  needed = {name: x.shape for name, x in to_official(zeros).items()}
  given = {
    name: x.shape
    for name, x in variables.items()
    if name.startswith(_PREFIX) and ".OPTIMIZER_SLOT" not in name
  }
  wrong = [
    f"{name} is {given.get(name, 'missing')}, the config needs"
    f" {needed.get(name, 'nothing')}"
    for name in sorted({**given, **needed})
    if given.get(name) != needed.get(name)
  ]
  if wrong:
    raise ValueError(
      f"the checkpoint does not fit the config: {'; '.join(wrong)}"
    )
  names = _names(traverse_util.flatten_dict(zeros, sep="/"))
  params = {path: variables[name] for path, name in names.items()}
  params.update(zip(_GRU_BIASES, variables[_GRU_BIAS]))
  return traverse_util.unflatten_dict(
    {path: np.asarray(x, np.float32) for path, x in params.items()}, sep="/"
  )


def _names(paths: Iterable[str]) -> dict[str, str]:
  """Maps our names to the official ones, without the biases of the GRU."""
  paths = set(paths) - set(_GRU_BIASES)
  last = sum(bool(re.match(r"decoder/conv_\d+/kernel", x)) for x in paths)
  names = {}
  for path in sorted(paths):
    name = path.replace("decoder/conv_out", f"decoder/conv_{last}")
    for pattern, replacement in _RENAMED:
      name = re.sub(pattern, replacement, name)
    names[path] = f"{_PREFIX}{name}{_SUFFIX}"
  return names


def find_official(path: Path) -> Path:
  """Returns the newest official checkpoint at a path.

  Args:
    path: of a checkpoint, with or without its ending .index or .data-*, or of
      the folder that holds it.

  Returns:
    The path without its ending.

  Raises:
    ValueError: if there is no checkpoint.
  """
  path = path.absolute()
  if path.is_dir():
    found = [index.with_suffix("") for index in path.glob("*.index")]
    if found:
      # ckpt-500 is newer than ckpt-60.
      return max(found, key=lambda x: [*map(int, re.findall(r"\d+", x.name))])
  stem = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name)
  checkpoint = path.with_name(stem)
  if not checkpoint.with_name(f"{stem}.index").exists():
    raise ValueError(
      f"--from={path} is neither the folder of a run (no config.json) nor a"
      f" TensorFlow checkpoint (no {stem}.index), nor a folder that holds one"
    )
  return checkpoint


def read_official(path: Path) -> Variables:
  """Reads all variables of a TensorFlow checkpoint, by name.

  Args:
    path: see `find_official`.

  Raises:
    ValueError: if it is missing or damaged.
    ImportError: if TensorFlow is not installed.
  """
  path = find_official(path)
  tf = _tensorflow()
  try:
    reader = tf.train.load_checkpoint(str(path))
    return {
      name: reader.get_tensor(name)
      for name in reader.get_variable_to_shape_map()
      if name.endswith(_SUFFIX)
    }
  except (tf.errors.OpError, RuntimeError, IndexError) as error:
    raise ValueError(f"{path} is damaged: {error}") from error


def write_official(path: Path, variables: Mapping[str, np.ndarray]) -> None:
  """Writes a TensorFlow checkpoint that the official code can restore.

  Args:
    path: without .index or .data-*; both are written.
    variables: by name.

  Raises:
    ImportError: if TensorFlow is not installed.
    OSError: if it cannot be written.
  """
  tf = _tensorflow()
  # TensorFlow restores by objects and their attributes, not by names.
  tree = traverse_util.unflatten_dict(
    {
      name.removesuffix(_SUFFIX): tf.Variable(x)
      for name, x in variables.items()
    },
    sep="/",
  )

  def track(node):
    if not isinstance(node, dict):
      return node
    return tf.train.Checkpoint(**{k: track(v) for k, v in node.items()})

  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    track(tree).write(str(path))
  except tf.errors.OpError as error:
    raise OSError(f"{path} cannot be written: {error.message}") from error


def _tensorflow():
  try:
    import tensorflow
  except ImportError as error:
    raise ImportError(
      "official checkpoints are read and written with TensorFlow:"
      " pip install tensorflow-cpu"
    ) from error
  return tensorflow


def import_run(
  source: Path,
  workdir: Path,
  config: ml_collections.ConfigDict | None = None,
) -> None:
  """Makes the folder of a run from an official checkpoint.

  Args:
    source: the checkpoint, see `find_official`.
    workdir: folder to make.
    config: of the run. If it is left out, the published model's is used.

  Raises:
    ValueError: if the checkpoint is damaged or does not fit the config, or if
      the folder is not empty.
  """
  variables = read_official(source)
  if config is None:
    config = _published_config(variables)
  config = validation.checked(config)
  task = tasks.make_task(config)
  if workdir.exists() and any(workdir.iterdir()):
    raise ValueError(f"--to={workdir} is not empty; choose another folder")
  like = task.param_shapes(datasets.image_shape(config.data))
  params = from_official(variables, like)
  optimizer, _ = optimizers.from_config(config)
  runs.claim(workdir, config)
  runs.save_config(workdir, config)
  with checkpoints.open_checkpoints(workdir, keep=1, newest=0) as manager:
    step = int(variables.get(_STEP, 0))
    checkpoints.save(manager, step, params, optimizer.init(params))


def export_run(workdir: Path, target: Path) -> None:
  """Writes the newest checkpoint of a run as an official one.

  Args:
    workdir: of the run.
    target: the checkpoint, without .index or .data-*.

  Raises:
    ValueError: if there is no run, if the official code has no counterpart for
      a part of it, or if the target exists or is a folder.
  """
  run = runs.load(workdir)
  _check_official(run.config)
  target = target.absolute()
  if target.is_dir():
    raise ValueError(
      f"--to={target} is a folder; add the checkpoint's name, as in"
      f" {target / 'ckpt-1'}"
    )
  if target.with_name(f"{target.name}.index").exists():
    raise ValueError(f"--to={target} exists already; choose another name")
  variables = to_official(run.params)
  write_official(target, {**variables, _STEP: np.int64(run.step)})


def _check_official(config):
  """Raises a ValueError for a model that the official code does not have."""
  model = config.model
  others = [section for section in model if section not in _SECTIONS]
  if config.task not in _TASKS or others:
    what = f"task={config.task!r} with {', '.join(model)}"
    raise ValueError(f"the official code does not have {what}")
  for field, value in _SLOT_ATTENTION.items():
    if model.slot_attention[field] != value:
      raise ValueError(
        f"the official code has only {field}={value!r}, and the run has"
        f" {model.slot_attention[field]!r}"
      )
  if not model.slot_attention.mlp_hidden_size:
    raise ValueError("the official code always has a residual MLP")
  if not model.encoder.use_position_embedding:
    raise ValueError("the official code always has a position embedding")
  if model.encoder.input_scale != 1:
    raise ValueError(
      "the official code has only encoder.input_scale=1, and the run has"
      f" {model.encoder.input_scale}"
    )


def _published_config(variables):
  """Returns the config of the published checkpoint with these variables.

  Object discovery was trained on CLEVR v1.0, which has no masks.
  """
  configs = command.import_configs()
  for part, name in _CONFIGS.items():
    if any(variable.startswith(f"{_PREFIX}{part}/") for variable in variables):
      config = configs.load(name)
      config.data = configs.load("clevr_set_prediction").data
      if "decoder" in config.model:
        config.data.max_objects = 6
        config.data.preprocessing.crop = True
        config.data.num_eval = 320
      return config
  raise ValueError(
    f"none of its variables begins with {_PREFIX} and"
    f" {' or '.join(_CONFIGS)}: this is no checkpoint of the official code"
  )


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__)
  flags.define_string("from", None, "An official checkpoint or a run.")
  flags.define_string(
    "to", None, "The run's folder, or the official checkpoint, to write."
  )
  flags.define_config(
    arguments, "The run to make; default: that of the published model."
  )
  flags.parse(arguments)
  if not (flags["from"].value and flags.to):
    raise command.UsageError("give both --from and --to")
  source, target = Path(flags["from"].value), Path(flags.to)
  if (source / "config.json").exists():
    if flags.config is not None:
      raise command.UsageError(
        "--config is for a run to make: a run that is exported has its own"
      )
    export_run(source, target)
  else:
    import_run(source, target, flags.config)
  print(f"{source} -> {target}")


if __name__ == "__main__":
  command.run(main)
