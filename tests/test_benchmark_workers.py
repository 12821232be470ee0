"""Tests of the models that benchmarks compare this project with."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import workers
import configs
from slot_attention import tasks

BATCH_SIZE = 2
MAX_OBJECTS = 3  # Fewer than slots, so that one learns that it is no object.
# All sizes differ, so that a confusion of axes fails.
SMALL = {
  "full_resolution": {
    "config": "tetrominoes_object_discovery",
    "image_shape": [8, 9, 3],
    "decoder": {"broadcast_size": [8, 9], "features": [8, 8, 8]},
  },
  "strided": {
    "config": "clevr6_object_discovery",
    "image_shape": [12, 16, 3],
    "decoder": {
      "broadcast_size": [3, 4],
      "features": [8, 8, 8],
      "strides": [2, 2, 1],
    },
  },
  "set_prediction": {
    "config": "clevr_set_prediction",
    "image_shape": [12, 16, 3],
    "classifier": {"hidden_size": 12},
  },
}


def specification_of(name, **fields):
  """Returns the specification of a small model for a worker, and its task."""
  small = dict(SMALL[name])
  config = configs.load(small.pop("config"))
  image_shape = small.pop("image_shape")
  sections = {
    "encoder": {"features": [8, 8, 8, 8], "mlp_size": 10},
    "slot_attention": {"num_slots": 4, "slot_size": 16, "mlp_hidden_size": 24},
    **small,
  }
  for section, changes in sections.items():
    for field, value in changes.items():
      is_list = isinstance(value, list)
      config.model[section][field] = tuple(value) if is_list else value
  specification = {
    "config": name,
    "model": config.model.to_dict(),
    "image_shape": image_shape,
    "batch_size": BATCH_SIZE,
    "max_objects": MAX_OBJECTS,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "max_grad_norm": 0.0,
    "precision": "float32",
    "compile": False,
  }
  return {**specification, **fields}, tasks.make_task(config)


def flat(params):
  return {
    "/".join(key.key for key in path): np.asarray(value)
    for path, value in jax.tree_util.tree_leaves_with_path(params)
  }


def torch_parameters(params):
  """Renames and mirrors the parameters for the twin in PyTorch."""
  renamed = {}
  for path, value in flat(params).items():
    *layers, kind = path.replace("classifier/mlp", "decoder/mlp").split("/")
    layer = ".".join(layers).replace("conv_out", "conv-out")
    for part in ("conv", "mlp.dense"):
      for i in range(9):
        place = f"{part.replace('conv', 'convs')}.{2 * i}"
        layer = layer.replace(f"{part}_{i}", place)
    layer = layer.replace("mlp.dense", "mlp").replace("conv-out", "conv_out")
    if ".gru." in layer:
      # The order here is update gate, reset gate, candidate.
      z, r, candidate = np.split(value, 3, axis=-1)
      value = np.concatenate([r, z, candidate], axis=-1).T
      layer, which = layer.rsplit(".", 1)
      kind = {"kernel": "weight", "bias": "bias"}[kind]
      kind += {"input": "_ih", "recurrent": "_hh"}[which]
    elif kind == "kernel":
      kind = "weight"
      if value.ndim == 4:
        value = value[::-1, ::-1].transpose(3, 2, 0, 1)
      elif "position" in layer:
        # A mirror exchanges the distances to the top and to the bottom.
        value = value[[2, 3, 0, 1]].T
      else:
        value = value.T
    elif kind == "scale":
      kind = "weight"
    elif kind.startswith("slots_"):
      value = value[0]
    renamed[f"{layer}.{kind}"] = value
  return renamed


def torch_twin(specification, params, batch, slots):
  """Computes outputs and loss of the twin in PyTorch."""
  torch = pytest.importorskip("torch")
  from benchmarks import torch_worker

  def to_torch(x):
    return torch.from_numpy(np.array(x, order="C"))

  model = torch_worker.Model(
    specification["image_shape"], specification["model"]
  )
  # It raises an error if a parameter is missing on either side.
  model.load_state_dict(
    {k: to_torch(v) for k, v in torch_parameters(params).items()}
  )
  images = to_torch(batch["images"][:, ::-1, ::-1].transpose(0, 3, 1, 2))
  images = torch_worker.normalize(images)
  with torch.no_grad():
    outputs = model(images, to_torch(slots))
    loss = torch_worker.loss_of(outputs, images, to_torch(batch["targets"]))
  outputs = {name: x.numpy() for name, x in outputs.items()}
  for name in outputs.keys() - {"predictions"}:
    outputs[name] = np.moveaxis(outputs[name], -3, -1)
    height, width = outputs[name].ndim - 3, outputs[name].ndim - 2
    outputs[name] = np.flip(outputs[name], (height, width))
  return outputs, loss.item()


def keras_parameters(params):
  """Renames the parameters for the twin in Keras."""
  renamed = flat(params)
  gru = "slot_attention/gru"
  for kind in ("input", "recurrent"):
    kernel = "kernel" if kind == "input" else "recurrent_kernel"
    renamed[f"{gru}/{kernel}"] = renamed.pop(f"{gru}/{kind}/kernel")
  renamed[f"{gru}/bias"] = np.stack(
    [renamed.pop(f"{gru}/{kind}/bias") for kind in ("input", "recurrent")]
  )
  for path in [path for path in renamed if "norm" in path]:
    kind = {"scale": "gamma", "bias": "beta"}[path.split("/")[-1]]
    renamed[f"{path.rsplit('/', 1)[0]}/{kind}"] = renamed.pop(path)
  return renamed


def keras_twin(specification, params, batch, slots):
  """Computes outputs and loss of the twin in Keras."""
  pytest.importorskip("tensorflow")
  from benchmarks import keras_worker

  model = keras_worker.Model(
    specification["image_shape"], specification["model"]
  )
  images = keras_worker.normalize(batch["images"])
  model(images)  # Makes the variables.
  values = keras_parameters(params)
  for variable in model.trainable_variables:
    variable.assign(values.pop(variable.path.removeprefix("model/")))
  assert not values
  outputs = model(images, slots)
  loss = keras_worker.loss_of(outputs, images, batch["targets"])
  return {name: x.numpy() for name, x in outputs.items()}, float(loss)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("twin", [torch_twin, keras_twin])
def test_twins_compute_the_same_outputs_and_loss(twin, name):
  specification, task = specification_of(name)
  rng = np.random.default_rng(0)
  shape = (BATCH_SIZE, *specification["image_shape"])
  batch = {
    "images": rng.integers(256, size=shape, dtype=np.uint8),
    "targets": rng.random((BATCH_SIZE, MAX_OBJECTS, 19), dtype=np.float32),
  }
  slots = rng.standard_normal((BATCH_SIZE, 4, 16), dtype=np.float32)
  # Initial parameters would hide errors, since biases are 0 and scales 1.
  params = jax.tree.map(
    lambda x: rng.normal(0.05, 0.15, x.shape).astype(np.float32),
    jax.eval_shape(
      lambda: task.init(jax.random.key(0), specification["image_shape"])
    ),
  )

  @jax.jit
  def ours(params, batch, slots):
    batch = {**tasks.normalize(batch), "example_ids": jnp.arange(BATCH_SIZE)}
    outputs = task.apply(params, batch, jax.random.key(1), slots=slots)
    return outputs, task.loss(outputs, batch).mean()

  outputs, loss = twin(specification, params, batch, slots)
  our_outputs, our_loss = ours(params, batch, slots)
  for output, value in outputs.items():
    np.testing.assert_allclose(
      value, our_outputs[output], rtol=1e-4, atol=1e-4, err_msg=output
    )
  np.testing.assert_allclose(loss, our_loss, rtol=1e-4)


@pytest.mark.parametrize(
  "name, precision", [("strided", "float32"), ("set_prediction", "bfloat16")]
)
@pytest.mark.parametrize(
  "framework, module",
  [
    ("torch", "benchmarks.torch_worker"),
    ("tensorflow", "benchmarks.keras_worker"),
  ],
)
def test_workers_train_and_infer(framework, module, name, precision):
  pytest.importorskip(framework)
  specification, _ = specification_of(
    name, precision=precision, learning_rate=1e-2, max_grad_norm=1.0
  )
  worker = workers.Worker(sys.executable, module, specification)
  assert framework in worker.versions
  assert worker.works == ["training", "inference"]
  # There are four batches, so every answer is about the same batch.
  training = {"work": "training", "steps": 4}
  losses = [worker._ask(training)["loss"] for _ in range(4)]
  assert losses[-1] < losses[0]
  assert worker.measure("inference", 2)["seconds"] > 0
  worker.stop()


@pytest.mark.parametrize(
  "framework, module",
  [
    ("torch", "benchmarks.torch_worker"),
    ("tensorflow", "benchmarks.keras_worker"),
  ],
)
def test_other_variants_are_refused(framework, module):
  pytest.importorskip(framework)
  worker = pytest.importorskip(module)
  specification, _ = specification_of("strided")
  with pytest.raises(ValueError, match="with Adam, not with muon"):
    worker.make({**specification, "optimizer": "muon"})
  for field, value in {"update": "none", "gradient": "implicit"}.items():
    specification, _ = specification_of("strided")
    specification["model"]["slot_attention"][field] = value
    with pytest.raises(ValueError, match="only Slot Attention with a residual"):
      worker.Model(specification["image_shape"], specification["model"])
