"""Configs and runs that several tests share."""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict
import numpy as np

import configs
from slot_attention import tasks
from slot_attention.data import datasets
from slot_attention.training import (
  checkpoints,
  evaluate,
  runs,
)
from tests.test_metrics import random_sets


def make_config(data_dir, task="object_discovery") -> ConfigDict:
  config = ConfigDict(
    {
      "task": task,
      "loss": {},
      "seed": 0,
      "initial_params": "",
      "batch_size": 4,
      "num_steps": 6,
      "optimizer": "adam",
      "learning_rate": 1e-2,
      "muon_learning_rate": 1e-2,
      "muon_kernels": "all",
      "warmup_steps": 2,
      "decay": "exponential",
      "decay_rate": 0.5,
      "decay_steps": 10,
      "max_grad_norm": 0.0,
      "optimizer_epsilon": 1e-8,
      "max_minutes": 0.0,
      "log_every": 2,
      "eval_every": 3,
      "eval_batch_size": 4,
      "checkpoint_every": 3,
      "keep_checkpoints": 2,
      "data_placement": "device",
      "steps_per_dispatch": 1,
      "compute_dtype": "float32",
      "num_cpu_devices": 4,
      "data": {
        "name": "tetrominoes",
        "source": "procedural",
        "path": "",
        "data_dir": str(data_dir),
        "num_examples": 24,
        "num_train": 18,
        "num_eval": 6,
        "max_objects": 3,
        "grayscale": False,
        "preprocessing": {},
        "procedural": {"seed": 0, "image_size": 12, "block_size": 2},
      },
      "model": {
        "encoder": {
          "features": (5,),
          "strides": (2,),
          "kernel_size": 3,
          "mlp_size": 6,
          "use_position_embedding": True,
          "input_scale": 1.0,
        },
        "slot_attention": {
          "num_slots": 4,
          "num_iterations": 2,
          "slot_size": 8,
          "mlp_hidden_size": 7,
          "epsilon": 1e-8,
          "epsilon_place": "attention",
          "aggregation": "weighted_mean",
          "softmax_axis": "slots",
          "update": "gru",
          "use_layer_norm": True,
          "use_projections": True,
          "temperature": "sqrt_d",
          "slot_init": "shared",
          "gradient": "unrolled",
        },
      },
    }
  )
  if task == "object_discovery":
    config.model.decoder = ConfigDict(
      {
        "broadcast_size": (12, 12),
        "features": (5,),
        "strides": (1,),
        "kernel_size": 3,
        "channels": 3,
        "remat_chunk_size": 0,
      }
    )
  else:
    config.loss = {"use_all_iterations": False, "coordinate_scale": 1.0}
    config.model.classifier = ConfigDict({"num_outputs": 19, "hidden_size": 9})
  return config


def read_lines(workdir):
  return [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]


def assert_repeats(line, config, workdir):
  """Checks that an evaluation gives the numbers of a line of metrics."""
  metrics = evaluate.evaluate_run(config, workdir)
  assert {"step": line["step"], "split": "eval", **metrics} == line


def assert_equal_trees(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def sets_of_objects(chunk, *, seed):
  """Makes a chunk of random images with random sets of up to five objects."""
  rng = np.random.default_rng([seed, chunk])
  _, targets = random_sets(rng, 24, 5, 5, 0.0)
  return {
    "images": rng.integers(0, 256, (24, 12, 12, 3), dtype=np.uint8),
    "segments": rng.integers(0, 6, (24, 12, 12), dtype=np.uint8),
    "targets": targets.astype(np.float32),
  }


# A data set of random images and sets.
SETS = datasets.DataSet(
  (12, 12, 3),
  5,
  18,
  24,
  has_targets=True,
  generate=sets_of_objects,
  chunk_size=24,
)


def white_squares(chunk, *, seed):
  """Makes a chunk of images with three white squares each."""
  rng = np.random.default_rng([seed, chunk])
  segments = np.zeros((24, 12, 12), np.uint8)
  for image in segments:
    for number, place in enumerate(rng.choice(9, 3, replace=False)):
      top, left = 4 * (place // 3), 4 * (place % 3)
      image[top : top + 3, left : left + 3] = number + 1
  return {
    "images": np.where(segments, 255, 0).astype(np.uint8)[..., None],
    "segments": segments,
  }


# A data set for models of binary images.
BINARY = datasets.DataSet(
  (12, 12, 1),
  3,
  18,
  24,
  is_binary=True,
  generate=white_squares,
  chunk_size=24,
)


def use_slot_mlp(config):
  del config.model.slot_attention
  config.model.slot_mlp = ConfigDict(
    {
      "num_slots": 5,
      "slot_size": 8,
      "hidden_sizes": (9,),
      "slot_mlp_sizes": (),
      "grid_size": 4,
    }
  )


def use_slot_attention(config):
  """Leaves the config of `make_config` as it is."""


def use_iodine(config):
  config.task = "iodine"
  config.model = ConfigDict(
    {
      "refinement": {
        "num_slots": 4,
        "num_iterations": 2,
        "slot_size": 5,
        "features": (6,),
        "kernel_size": 3,
        "mlp_sizes": (7,),
        "lstm_size": 8,
        "coordinates": "cosine",
        "scale": 0.3,
      },
      "pixel_decoder": {
        "image_size": (12, 12),
        "features": (5,),
        "kernel_size": 3,
        "output_kernel_size": 3,
        "activation": "elu",
        "padding": "SAME",
        "channels": 3,
      },
    }
  )


def use_monet(config):
  config.task = "monet"
  config.loss = ConfigDict(
    {
      "sigma_background": 0.3,
      "sigma_foreground": 0.4,
      "beta": 0.5,
      "gamma": 0.5,
    }
  )
  config.model = ConfigDict(
    {
      "attention": {"num_slots": 4, "features": (5, 6), "mlp_size": 8},
      "component_encoder": {"slot_size": 7, "features": (5,), "mlp_size": 9},
      "pixel_decoder": {
        "image_size": (12, 12),
        "features": (5,),
        "kernel_size": 3,
        "output_kernel_size": 1,
        "activation": "relu",
        "padding": "VALID",
        "channels": 3,
      },
    }
  )


def use_nem(config):
  """Needs the data set BINARY, which the fixture `config` knows."""
  config.task = "nem"
  config.loss = ConfigDict({"use_all_iterations": True})
  config.data.name = "binary"
  config.data.procedural = ConfigDict({"seed": 0})
  config.model = ConfigDict(
    {
      "input_network": {
        "features": (5,),
        "kernel_size": 3,
        "hidden_size": 7,
        "flip_probability": 0.2,
      },
      "cell": {
        "num_slots": 4,
        "num_iterations": 2,
        "slot_size": 8,
        "use_relations": True,
        "attention_size": 5,
      },
      "bernoulli_decoder": {
        "image_size": (12, 12),
        "features": (6,),
        "kernel_size": 3,
        "hidden_size": 9,
      },
    }
  )


def use_dspn(config):
  """Needs the data set SETS, which the fixture `config` knows."""
  config.task = "dspn"
  config.loss = ConfigDict({"code_weight": 0.1})
  config.data.name = "sets"
  config.data.max_objects = 5
  config.data.procedural = ConfigDict({"seed": 0})
  config.model = ConfigDict(
    {
      "encoder": config.model.encoder,
      "set_encoder": {"code_size": 7, "hidden_size": 8, "num_pieces": 3},
      "set_decoder": {
        "num_slots": 5,
        "num_iterations": 2,
        "inner_learning_rate": 25.0,
        "num_outputs": 19,
      },
    }
  )


def use_invariant(config):
  config.model.invariant_slot_attention = ConfigDict(
    {
      "num_slots": 4,
      "num_iterations": 2,
      "slot_size": 8,
      "mlp_hidden_size": 7,
      "grid_mlp_size": 9,
      "epsilon": 1e-8,
      "frame": "translation_and_scale",
    }
  )
  config.model.invariant_decoder = config.model.decoder
  config.model.invariant_decoder.frame = "translation_and_scale"
  del config.model.slot_attention
  del config.model.decoder


def use_mesh(config):
  config.model.mesh_attention = ConfigDict(
    {
      "num_slots": config.model.slot_attention.num_slots,
      "num_iterations": 2,
      "slot_size": 8,
      "mlp_hidden_size": 7,
      "sinkhorn_iterations": 2,
      "mesh_steps": 1,
      "mesh_rate": 1.0,
    }
  )
  del config.model.slot_attention


def use_adaslot(config):
  config.task = "adaptive_object_discovery"
  config.loss = ConfigDict({"sparsity": 0.1})
  config.model.slot_selector = ConfigDict(
    {"hidden_size": 6, "temperature": 1.0}
  )


def use_adaptive_invariant(config):
  use_invariant(config)
  use_adaslot(config)


def use_savi(config):
  config.task = "video_object_discovery"
  config.data.name = "moving_sprites"
  config.data.procedural = ConfigDict(
    {"seed": 0, "image_size": 16, "num_frames": 3}
  )
  config.model.slot_attention.num_iterations = 1
  config.model.slot_predictor = ConfigDict(
    {"num_heads": 2, "attention_size": 6, "mlp_hidden_size": 7}
  )
  config.model.decoder.broadcast_size = (8, 8)
  config.model.decoder.strides = (2,)


# The successors of Slot Attention that have modules of their own and take
# single images.
USE_SUCCESSOR = (use_adaptive_invariant, use_mesh)

# The models, for tests of what all of them share.
USE_RIVAL = (use_iodine, use_monet, use_nem, use_dspn)
USE_MODEL = (use_slot_attention, *USE_RIVAL, *USE_SUCCESSOR, use_savi)


def final_state(workdir, step):
  run = runs.load(workdir)
  assert run.step == step
  return run.params


def make_run(workdir: Path, name: str, **model: dict) -> Path:
  """Makes a run at step 3, with initial parameters and a smoke config.

  Args:
    workdir: folder of the run. The folder of its data is beside it.
    name: name of the config that smoke makes small.
    **model: sections of config.model, with the fields to change.
  """
  config = configs.load(f"smoke:{name}")
  config.data.data_dir = str(workdir.parent / "data")
  config.model.update(model)
  task = tasks.make_task(config)
  params = task.init(jax.random.key(0), datasets.image_shape(config.data))
  workdir.mkdir()
  runs.save_config(workdir, config)
  with checkpoints.open_checkpoints(workdir, keep=1, newest=0) as manager:
    checkpoints.save(manager, 3, params, optimizer=params)
  return workdir
