"""Tests of the conversion to and from the official TensorFlow checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from slot_attention import convert
from slot_attention.training import checkpoints, optimizers, runs

tf = pytest.importorskip("tensorflow")

PREFIX = "network/layer_with_weights-0/"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
K, T = 3, 2


def layer(name, *kernel, bias=None):
  """Returns shapes of kernel and bias; transposed kernels end in inputs."""
  return {
    f"{name}/kernel": kernel,
    f"{name}/bias": (kernel[-1] if bias is None else bias,),
  }


def norm(name):
  return {f"{name}/gamma": (64,), f"{name}/beta": (64,)}


SHARED = {
  **layer("encoder_cnn/layer_with_weights-0", 5, 5, 3, 64),
  **layer("encoder_cnn/layer_with_weights-1", 5, 5, 64, 64),
  **layer("encoder_cnn/layer_with_weights-2", 5, 5, 64, 64),
  **layer("encoder_cnn/layer_with_weights-3", 5, 5, 64, 64),
  **layer("encoder_pos/dense", 4, 64),
  **norm("layer_norm"),
  **layer("mlp/layer_with_weights-0", 64, 64),
  **layer("mlp/layer_with_weights-1", 64, 64),
  **norm("slot_attention/norm_inputs"),
  **norm("slot_attention/norm_slots"),
  **norm("slot_attention/norm_mlp"),
  "slot_attention/slots_mu": (1, 1, 64),
  "slot_attention/slots_log_sigma": (1, 1, 64),
  "slot_attention/project_q/kernel": (64, 64),
  "slot_attention/project_k/kernel": (64, 64),
  "slot_attention/project_v/kernel": (64, 64),
  "slot_attention/gru/kernel": (64, 192),
  "slot_attention/gru/recurrent_kernel": (64, 192),
  "slot_attention/gru/bias": (2, 192),
  **layer("slot_attention/mlp/layer_with_weights-0", 64, 128),
  **layer("slot_attention/mlp/layer_with_weights-1", 128, 64),
}
OFFICIAL = {
  "object_discovery": {
    **SHARED,
    **layer("decoder_pos/dense", 4, 64),
    **layer("decoder_cnn/layer_with_weights-0", 5, 5, 64, 64),
    **layer("decoder_cnn/layer_with_weights-1", 5, 5, 64, 64),
    **layer("decoder_cnn/layer_with_weights-2", 5, 5, 64, 64),
    **layer("decoder_cnn/layer_with_weights-3", 5, 5, 64, 64),
    **layer("decoder_cnn/layer_with_weights-4", 5, 5, 64, 64),
    **layer("decoder_cnn/layer_with_weights-5", 3, 3, 4, 64, bias=4),
  },
  "set_prediction": {
    **SHARED,
    **layer("mlp_classifier/layer_with_weights-0", 64, 64),
    **layer("mlp_classifier/layer_with_weights-1", 64, 19),
  },
}


def random_variables(task: str) -> dict[str, np.ndarray]:
  """Draws values of moderate size, also for biases."""
  rng = np.random.default_rng(0)
  variables = {}
  for name, shape in OFFICIAL[task].items():
    scale = 0.3
    if "kernel" in name:
      fan_in = np.prod(shape) / (4 if shape[-2:] == (4, 64) else shape[-1])
      scale = (1.5 / fan_in) ** 0.5
    x = scale * rng.normal(size=shape) + name.endswith("gamma")
    variables[name] = x.astype(np.float32)
  return variables


def track(variables: Mapping[str, np.ndarray]) -> tf.train.Checkpoint:
  """Makes nested objects with the attributes of a Keras model."""
  root = {}
  for name, value in variables.items():
    *path, leaf = name.split("/")
    node = root
    for part in path:
      node = node.setdefault(part, {})
    node[leaf] = tf.Variable(value)

  def wrap(node):
    if isinstance(node, dict):
      return tf.train.Checkpoint(**{k: wrap(v) for k, v in node.items()})
    return node

  return wrap(root)


def write(path, variables):
  """Makes a checkpoint as the official code does, with its optimiser."""
  names = {f"{PREFIX}{name}": value for name, value in variables.items()}
  names["global_step"] = np.int64(499_999)
  names["optimizer/beta_1"] = np.float32(0.9)
  track(names).write(str(path))


# The forward pass of the official code in float64 NumPy, one image at a time.


def dense(v, name, x):
  return x @ v[f"{name}/kernel"] + v[f"{name}/bias"]


def relu(x):
  return np.maximum(x, 0)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def mlp(v, name, x):
  hidden = relu(dense(v, f"{name}/layer_with_weights-0", x))
  return dense(v, f"{name}/layer_with_weights-1", hidden)


def layer_norm(v, name, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)
  return x * v[f"{name}/gamma"] + v[f"{name}/beta"]


def conv(v, name, x, stride):
  """Pads as TensorFlow's "SAME", which pads an odd pixel at the end."""
  kernel = v[f"{name}/kernel"]
  size, side = kernel.shape[0], x.shape[0] // stride
  padding = (side - 1) * stride + size - x.shape[0]
  x = np.pad(x, [(padding // 2, padding - padding // 2)] * 2 + [(0, 0)])
  total = np.zeros((side, side, kernel.shape[-1]))
  for i, j in np.ndindex(size, size):
    rows = slice(i, i + stride * (side - 1) + 1, stride)
    columns = slice(j, j + stride * (side - 1) + 1, stride)
    total += x[rows, columns] @ kernel[i, j]
  return total + v[f"{name}/bias"]


def conv_transpose(v, name, x, stride):
  """Adds the kernel at every pixel; "SAME" then cuts the border off."""
  kernel = v[f"{name}/kernel"]
  size, side = kernel.shape[0], x.shape[0]
  painted = np.zeros([(side - 1) * stride + size] * 2 + [kernel.shape[2]])
  for i, j in np.ndindex(size, size):
    rows = slice(i, i + stride * (side - 1) + 1, stride)
    columns = slice(j, j + stride * (side - 1) + 1, stride)
    painted[rows, columns] += x @ kernel[i, j].T
  before = (size - stride) // 2
  kept = slice(before, before + side * stride)
  return painted[kept, kept] + v[f"{name}/bias"]


def embed_position(v, name, x):
  ramp = np.linspace(0, 1, x.shape[0])
  y, x_ = np.meshgrid(ramp, ramp, indexing="ij")
  return x + dense(v, name, np.stack([y, x_, 1 - y, 1 - x_], -1))


def slot_attention(v, inputs, slots):
  inputs = layer_norm(v, "slot_attention/norm_inputs", inputs)
  k = inputs @ v["slot_attention/project_k/kernel"]
  values = inputs @ v["slot_attention/project_v/kernel"]
  b_x, b_h = v["slot_attention/gru/bias"]
  for _ in range(T):
    q = layer_norm(v, "slot_attention/norm_slots", slots)
    q = q @ v["slot_attention/project_q/kernel"] * 64**-0.5
    attn = np.exp(k @ q.T)
    attn = attn / attn.sum(-1, keepdims=True) + 1e-8
    updates = (attn / attn.sum(0)).T @ values
    of_x = updates @ v["slot_attention/gru/kernel"] + b_x
    of_h = slots @ v["slot_attention/gru/recurrent_kernel"] + b_h
    z, r = (
      sigmoid(of_x[:, gate] + of_h[:, gate])
      for gate in (slice(0, 64), slice(64, 128))
    )
    candidate = np.tanh(of_x[:, 128:] + r * of_h[:, 128:])
    slots = z * slots + (1 - z) * candidate
    normed = layer_norm(v, "slot_attention/norm_mlp", slots)
    slots = slots + mlp(v, "slot_attention/mlp", normed)
  return slots


def forward(task, v, image, noise):
  """Computes predictions [K, 19] or a reconstruction [128, 128, 3]."""
  v = {name: x.astype(np.float64) for name, x in v.items()}
  x = image
  for i, stride in enumerate(
    (1, 1, 1, 1) if task == "object_discovery" else (1, 2, 2, 1)
  ):
    x = relu(conv(v, f"encoder_cnn/layer_with_weights-{i}", x, stride))
  x = embed_position(v, "encoder_pos/dense", x).reshape(-1, 64)
  inputs = mlp(v, "mlp", layer_norm(v, "layer_norm", x))
  mu = v["slot_attention/slots_mu"][0]
  slots = mu + np.exp(v["slot_attention/slots_log_sigma"][0]) * noise
  slots = slot_attention(v, inputs, slots)
  if task == "set_prediction":
    return sigmoid(mlp(v, "mlp_classifier", slots))
  decoded = []
  for slot in slots:
    x = embed_position(v, "decoder_pos/dense", np.tile(slot, (8, 8, 1)))
    for i, stride in enumerate((2, 2, 2, 2, 1)):
      x = relu(conv_transpose(v, f"decoder_cnn/layer_with_weights-{i}", x, stride))  # fmt: skip # noqa: E501
    decoded.append(conv_transpose(v, "decoder_cnn/layer_with_weights-5", x, 1))
  decoded = np.stack(decoded)
  masks = np.exp(decoded[..., 3:])
  masks = masks / masks.sum(0)
  return (masks * decoded[..., :3]).sum(0)


@pytest.fixture(name="converted", params=OFFICIAL, scope="module")
def _converted(request, tmp_path_factory):
  """Yields task, random variables, and a folder with ckpt-500 and its run."""
  folder = tmp_path_factory.mktemp("convert")
  variables = random_variables(request.param)
  write(folder / "ckpt-500", variables)
  convert.main([f"--from={folder}/ckpt-500", f"--to={folder}/run"])
  return request.param, variables, folder


def test_a_converted_checkpoint_computes_what_the_official_code_computes(
  converted,
):
  task, variables, folder = converted
  run = runs.load(folder / "run")
  assert run.config.task == task and run.step == 499_999
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (128, 128, 3))
  noise = rng.normal(size=(K, 64))
  gaussian = run.params["slot_attention"]
  slots = gaussian["slots_mu"] + np.exp(gaussian["slots_log_sigma"]) * noise
  outputs = jax.jit(run.task.apply, static_argnames="num_iterations")(
    run.params,
    {"images": jnp.array(image[None]), "example_ids": jnp.arange(1)},
    jax.random.key(0),
    num_iterations=T,
    slots=jnp.array(slots, jnp.float32),
  )
  name = "predictions" if task == "set_prediction" else "recon_combined"
  expected = forward(task, variables, image, noise)
  assert expected.std() > 0.1  # The test is not vacuous.
  np.testing.assert_allclose(outputs[name][0], expected, atol=1e-4)


def test_a_checkpoint_is_named_by_its_files_or_its_folder(tmp_path):
  for step in (60, 500):
    for ending in ("index", "data-00000-of-00001"):
      (tmp_path / f"ckpt-{step}.{ending}").touch()
  newest = tmp_path / "ckpt-500"
  for name in (
    "",
    "ckpt-500",
    "ckpt-500.index",
    "ckpt-500.data-00000-of-00001",
  ):
    assert convert.find_official(tmp_path / name) == newest
  assert convert.find_official(tmp_path / "ckpt-60").name == "ckpt-60"
  (tmp_path / "empty").mkdir()
  for name in ("ckpt-7", "ckpt-7.index", "empty"):
    with pytest.raises(ValueError, match="neither .* nor a folder that holds"):
      convert.find_official(tmp_path / name)


def test_a_published_checkpoint_gets_the_data_of_the_authors(converted):
  task, _, folder = converted
  data = runs.load_config(folder / "run").data
  assert (data.name, data.source) == ("clevr", "original")
  assert (data.num_train, data.num_examples) == (69_488, 84_488)
  is_discovery = task == "object_discovery"
  assert data.preprocessing.crop == is_discovery
  assert data.max_objects == (6 if is_discovery else 10)


@pytest.mark.parametrize("recipe", ["", "fast"])
def test_a_converted_run_can_be_trained_on(converted, recipe, tmp_path):
  task, _, folder = converted
  workdir = folder / "run"
  if recipe:
    workdir = tmp_path / "fast"
    name = {"object_discovery": "clevr6_object_discovery"}.get(
      task, "clevr_set_prediction"
    )
    config = configs.load(f"{recipe}:{name}")
    convert.import_run(folder / "ckpt-500", workdir, config)
  run = runs.load(workdir)
  optimizer, _ = optimizers.from_config(run.config)
  step, items = checkpoints.restore_newest(
    workdir,
    {"params": run.params, "optimizer": optimizer.init(run.params)},
  )
  assert step == run.step == 499_999
  assert optimizers.num_updates(items["optimizer"]) == 0
  jax.tree.map(
    np.testing.assert_array_equal,
    items["optimizer"],
    optimizer.init(run.params),
  )


def test_converting_back_restores_every_variable_of_the_official_model(
  converted,
):
  _, variables, folder = converted
  convert.main([f"--from={folder}/run", f"--to={folder}/back"])
  official = track(
    {f"{PREFIX}{name}": np.zeros_like(x) for name, x in variables.items()}
    | {"global_step": np.int64(0)}
  )
  official.read(str(folder / "back")).assert_consumed()
  reader = tf.train.load_checkpoint(str(folder / "back"))
  for name, value in variables.items():
    restored = reader.get_tensor(f"{PREFIX}{name}{SUFFIX}")
    np.testing.assert_array_equal(restored, value)
  assert official.global_step.numpy() == 499_999


def test_what_does_not_fit_is_named(converted, tmp_path):
  task, variables, folder = converted
  name = "slot_attention/gru/bias"
  for changed, words in (
    ({**variables, name: variables[name][:1]}, r"gru/bias.* is \(1, 192\)"),
    ({k: v for k, v in variables.items() if k != name}, "bias.* is missing"),
    ({**variables, "mlp/extra": np.ones(3)}, "mlp/extra.* needs nothing"),
  ):
    write(tmp_path / "bad", changed)
    with pytest.raises(ValueError, match=words):
      convert.import_run(tmp_path / "bad", tmp_path / "run")
    assert not (tmp_path / "run").exists()
  other = {"set_prediction": "clevr6_object_discovery"}.get(
    task, "clevr_set_prediction"
  )
  with pytest.raises(ValueError, match="does not fit the config"):
    convert.main(
      [
        f"--from={folder}/ckpt-500",
        f"--to={tmp_path}/run",
        f"--config=configs/{other}.py",
      ]
    )


def test_only_models_of_the_official_code_are_exported(tmp_path):
  def export(name, **changes):
    config = configs.load(name)
    config.model.slot_attention.update(changes)
    convert._check_official(config)

  export("quickstart")
  export("clevr_set_prediction", gradient="implicit")
  for name in ("adaslot:quickstart", "savi"):
    with pytest.raises(
      ValueError, match="the official code does not have task"
    ):
      export(name)
  with pytest.raises(ValueError, match="does not have .* mesh_attention"):
    convert._check_official(configs.load("mesh:quickstart"))
  with pytest.raises(ValueError, match="only slot_init='shared', and the run"):
    export("quickstart", slot_init="per_slot")
  with pytest.raises(ValueError, match="always has a residual MLP"):
    export("quickstart", mlp_hidden_size=0)
  with pytest.raises(ValueError, match="only encoder.input_scale=1, and"):
    convert._check_official(configs.load("clevr_small"))


def test_nothing_is_overwritten_and_nothing_missing_is_taken(
  converted, tmp_path
):
  _, _, folder = converted
  with pytest.raises(ValueError, match="run is not empty"):
    convert.import_run(folder / "ckpt-500", folder / "run")
  with pytest.raises(ValueError, match="ckpt-500 exists already"):
    convert.export_run(folder / "run", folder / "ckpt-500")
  with pytest.raises(ValueError, match="neither the folder of a run"):
    convert.import_run(folder / "nothing", tmp_path / "run")
  (tmp_path / "cut.index").write_bytes(
    (folder / "ckpt-500.index").read_bytes()[:100]
  )
  with pytest.raises(ValueError, match="cut is damaged"):
    convert.import_run(tmp_path / "cut", tmp_path / "run")
  for ending, size in (("index", None), ("data-00000-of-00001", 1000)):
    content = (folder / f"ckpt-500.{ending}").read_bytes()
    (tmp_path / f"short.{ending}").write_bytes(content[:size])
  with pytest.raises(ValueError, match="short is damaged"):
    convert.import_run(tmp_path / "short", tmp_path / "run")
  with pytest.raises(ValueError, match="is a folder; add the checkpoint's"):
    convert.export_run(folder / "run", tmp_path)
  with pytest.raises(OSError, match="ckpt-6 cannot be written"):
    convert.write_official(Path("/proc/ckpt-6"), {})
