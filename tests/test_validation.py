"""Tests of the checks of a whole config.

A config with a random change either runs or raises an error that names the
field. It never ends in an error of JAX, Flax or NumPy, which would not say what
to change.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import configs
from configs import adaslot, dspn, fast, invariant, iodine, monet, nem, smoke
from slot_attention import tasks, validation
from slot_attention.data import datasets
from slot_attention.models import attention
from slot_attention.training import (
  evaluate,
  train,
)
from tests.runs import (
  USE_SUCCESSOR,
  make_config,
  use_adaslot,
  use_dspn,
  use_invariant,
  use_iodine,
  use_mesh,
  use_monet,
  use_nem,
  use_savi,
  use_slot_mlp,
)

NUM_CHANGES = 120
VALUES = (
  None, "", "nothing", True, False, -1, 0, 1, 2, 3, 5, 300, 2**40, -0.5, 0.0,
  0.5, 3.0, math.nan, math.inf, (), (0,), (1,), (2, 2), (16, 16), (1, 1, 1, 1),
  ("a",), (-1, 2), (0.5, 0.5), [1], {}, {"a": 1},
)  # fmt: skip


RIVALS = [
  f"{rival.__name__.partition('.')[2]}:{name}"
  for rival in (dspn, iodine, monet, nem)
  for name in rival._VALUES
]
FAST = [f"fast:{name}" for name in fast._RECIPES]
SUCCESSORS = [
  *(f"invariant:{name}" for name in invariant._VALUES),
  *(f"adaslot:{name}" for name in adaslot._VALUES),
  "mesh:quickstart",
  "mesh:clevr_set_prediction",
  "mesh:savi",
]


def small_config(data_dir):
  config = smoke.get_config("quickstart")
  config.num_steps = 1
  config.num_cpu_devices = 4
  config.model.encoder.features = config.model.decoder.features = (4, 4)
  config.model.encoder.strides = config.model.decoder.strides = (1, 1)
  config.model.slot_attention.num_iterations = 1
  config.data.data_dir = str(data_dir)
  return config.to_dict()


def places(tree, prefix=()):
  """Yields the paths of all sections and fields."""
  for name, value in tree.items():
    yield (*prefix, name)
    if isinstance(value, dict):
      yield from places(value, (*prefix, name))


def change(tree, path, action, value):
  *sections, name = path
  for section in sections:
    tree = tree[section]
  if action == "delete":
    del tree[name]
  elif action == "rename":
    tree[name + "s"] = tree.pop(name)
  else:
    tree[name] = value


def all_changes():
  """Yields random changes: mostly new values, sometimes deleted fields."""
  rng = np.random.default_rng(0)
  paths = list(places(small_config("")))
  for _ in range(NUM_CHANGES):
    path = paths[rng.integers(len(paths))]
    action = rng.choice(["delete", "rename"] + 8 * ["set"])
    yield path, action, VALUES[rng.integers(len(VALUES))]


@pytest.mark.slow
def test_every_change_of_a_config_runs_or_is_refused_at_the_door(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  # These take long, and only their data and batch size depend on the config.
  monkeypatch.setattr(
    evaluate, "make_evaluator", lambda *_, **__: lambda params: {"loss": 0.0}
  )
  monkeypatch.setattr(evaluate, "report", lambda *_: None)
  good = small_config(tmp_path / "data")
  train.train(ConfigDict(good), tmp_path / "good")

  outcomes = {"runs": [], "is refused": [], "fails": []}
  for i, (path, action, value) in enumerate(all_changes()):
    config = small_config(tmp_path / "data")
    change(config, path, action, value)
    config = ConfigDict(config)
    what = f"{action} {'.'.join(path)} {value!r}"
    try:
      validation.checked(config, num_devices=4)
    except ValueError as error:
      # If images and decoder do not fit, either of them may be wrong.
      named = any(name in str(error) for name in (path[-1], "images of"))
      outcomes["is refused" if named else "fails"].append(f"{what}: {error}")
      continue
    except Exception as error:
      outcomes["fails"].append(f"{what}, at the door: {error!r}")
      continue
    try:
      train.train(config, tmp_path / str(i))
    except FloatingPointError:  # The value is valid, but too large.
      outcomes["runs"].append(what)
    except Exception as error:
      # Only the data shows how many images have few enough objects.
      known = "examples only" in str(error) or "leaves nothing" in str(error)
      outcomes["runs" if known else "fails"].append(f"{what}: {error!r}")
    else:
      outcomes["runs"].append(what)
  assert not outcomes["fails"], "\n".join(outcomes["fails"])
  assert len(outcomes["runs"]) > 5 and len(outcomes["is refused"]) > 60


@pytest.mark.parametrize(
  "use_model",
  [use_iodine, use_monet, use_nem, use_dspn, *USE_SUCCESSOR, use_savi],
)
def test_every_change_of_a_rival_is_traced_or_refused_at_the_door(
  config, use_model
):
  """Training would compile for long, so only its shapes are computed."""
  values = [x for x in VALUES if x != 300]  # Refinements are not a loop.
  use_model(config)
  good = config.to_dict()
  paths = [path for path in places(good) if path[0] in ("loss", "model")]
  rng = np.random.default_rng(0)
  outcomes = {"runs": [], "is refused": [], "fails": []}
  for _ in range(60):
    path = paths[rng.integers(len(paths))]
    action = rng.choice(["delete", "rename"] + 8 * ["set"])
    value = values[rng.integers(len(values))]
    tree = config.to_dict()
    change(tree, path, action, value)
    what = f"{action} {'.'.join(path)} {value!r}"
    try:
      changed = validation.checked(ConfigDict(tree), num_devices=4)
    except ValueError as error:
      named = any(name in str(error) for name in (path[-1], "images of"))
      outcomes["is refused" if named else "fails"].append(f"{what}: {error}")
      continue
    task = tasks.make_task(changed)
    shape = datasets.image_shape(changed.data)
    batch = {
      "images": np.zeros((2, *shape), np.float32),
      "targets": jnp.zeros((2, 5, 19)),
    }
    try:
      jax.eval_shape(
        lambda key, task=task, batch=batch, shape=shape: task.loss(
          task.apply(task.init(key, shape), batch, key), batch
        ),
        jax.random.key(0),
      )
    except Exception as error:
      outcomes["fails"].append(f"{what}: {error!r}")
    else:
      outcomes["runs"].append(what)
  assert not outcomes["fails"], "\n".join(outcomes["fails"])
  assert len(outcomes["runs"]) > 3 and len(outcomes["is refused"]) > 30


@pytest.mark.parametrize(
  "use_model, field, value, words",
  [
    (use_iodine, "refinement.num_slots", 1, "num_slots=1 must be at least 2"),
    (use_iodine, "refinement.coordinates", "polar", "not one of linear, cosin"),
    (use_iodine, "refinement.scale", 0.0, "refinement.scale=0.0 must be at"),
    (use_iodine, "pixel_decoder.padding", "no", "padding='no' is not one of"),
    (
      use_iodine,
      "pixel_decoder.image_size",
      (12, 11),
      "draws 12x11x3: change model.pixel_decoder.image_size, model.pixel_deco",
    ),
    (
      use_monet,
      "attention.features",
      (4, 4, 4, 4, 4),
      "model.attention.features=.* halves images 4 times, so 12x12 pixels are",
    ),
    (use_nem, "cell.slot_size", 0, "model.cell.slot_size=0 must be at least 1"),
    (use_nem, "input_network.flip_probability", 2.0, "must be at most 1"),
    (
      use_nem,
      "bernoulli_decoder.image_size",
      (12, 8),
      "draws 12x8x1: change model.bernoulli_decoder.image_size or the data",
    ),
    (use_nem, "bernoulli_decoder.image_size", (12, 9), "multiples of 2"),
    (use_dspn, "set_decoder.num_slots", 0, "set_decoder.num_slots=0 must be"),
    (
      use_dspn,
      "set_decoder.num_outputs",
      18,
      "model.set_decoder.num_outputs=18 does not fit the 19 numbers",
    ),
    (
      use_invariant,
      "invariant_slot_attention.frame",
      "translation",
      r"model.the frames of slots \(translation\) and decoder \(translation_",
    ),
    (
      use_invariant,
      "invariant_decoder.broadcast_size",
      (12, 11),
      "draws 12x11x3: change model.invariant_decoder.broadcast_size",
    ),
    (use_mesh, "mesh_attention.mesh_steps", -1, "mesh_attention.mesh_steps=-1"),
    (use_adaslot, "slot_selector.hidden_size", 0, "slot_selector.hidden_size="),
    (use_savi, "slot_predictor.num_heads", 4, "=6 is not a multiple of num_h"),
    (use_savi, "decoder.broadcast_size", (8, 7), "of 16x16x3 .* 16x14x3: chan"),
  ],
)
def test_bad_values_of_a_rival_are_named(
  config, use_model, field, value, words
):
  use_model(config)
  config.model.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=words):
    validation.checked(config, num_devices=4)


def test_an_evaluation_does_not_share_the_batches_of_training(config):
  config.batch_size, config.eval_batch_size = 4, 6
  validation.checked(config, num_devices=3)
  with pytest.raises(ValueError, match="batch_size=4 .* the 3 devices"):
    validation.checked(config, num_devices=3, is_trained=True)


def test_losses_of_all_iterations_need_their_gradients(set_config):
  set_config.loss.use_all_iterations = True
  validation.checked(set_config)
  set_config.model.slot_attention.gradient = "implicit"
  with pytest.raises(ValueError, match="which gradient='implicit' excludes"):
    validation.checked(set_config)


def test_options_that_a_rival_does_not_have_are_refused(config):
  use_monet(config)
  config.loss.beta = -1.0
  with pytest.raises(ValueError, match=r"loss.beta=-1.0 must be at least 0"):
    validation.checked(config)
  config.loss.beta = 0.5
  config.compute_dtype = "bfloat16"
  with pytest.raises(
    ValueError, match="compute_dtype='bfloat16' is that of the s"
  ):
    validation.checked(config)
  with pytest.raises(configs.UnknownConfigError, match="no config monet:quick"):
    configs.load("monet:quick")


def test_parts_of_other_models_are_refused(config):
  """A field's type says which modules it takes."""
  config.model.resnet = ConfigDict({"features": (8,), "blocks": (1,)})
  with pytest.raises(ValueError, match="config.model: resnet is unknown"):
    validation.checked(config)
  del config.model.encoder
  with pytest.raises(ValueError, match="config.model: encoder is missing"):
    validation.checked(config)
  sets = configs.load("smoke:dspn:clevr_set_prediction")
  del sets.model.resnet
  with pytest.raises(ValueError, match="model: encoder or resnet is missing"):
    validation.checked(sets)


def test_data_without_what_the_task_needs_is_refused(config, tmp_path):
  nem = configs.load("nem")
  for name in ("quickstart", "clevr6_grayscale_object_discovery"):
    nem.data = configs.load(name).data
    with pytest.raises(
      ValueError, match="the pixels are not black or white, a"
    ):
      validation.checked(nem)
  sets = configs.load("dspn")
  sets.data = config.data
  with pytest.raises(ValueError, match="no targets, which task='dspn' needs"):
    validation.checked(sets)
  task = make_config(tmp_path, "set_prediction")
  task.data = config.data
  with pytest.raises(ValueError, match="the data has no targets"):
    validation.checked(task)
  sets = configs.load("smoke:clevr_set_prediction")
  sets.model.classifier.num_outputs = 18
  with pytest.raises(ValueError, match="num_outputs=18 does not fit the 19"):
    validation.checked(sets)


def test_images_and_videos_are_told_apart(config):
  images = config.data.copy_and_resolve_references()
  still = config.copy_and_resolve_references()
  use_savi(config)
  validation.checked(config)
  config.data.procedural.num_frames = 0
  with pytest.raises(ValueError, match="procedural: num_frames=0 must be at "):
    validation.checked(config)
  still.data = config.data
  still.data.procedural.num_frames = 2
  with pytest.raises(
    ValueError, match="'moving_sprites': task='object_discovery' needs single"
  ):
    validation.checked(still)
  config.data = images
  with pytest.raises(
    ValueError, match="discovery' needs videos, which moving_sprites has"
  ):
    validation.checked(config)


@pytest.mark.parametrize("use_part", [use_slot_mlp, use_invariant])
def test_slots_that_follow_objects_start_from_slots(config, use_part):
  use_savi(config)
  slots = config.model.slot_attention
  use_part(config)
  with pytest.raises(ValueError, match="or mesh_attention is missing"):
    validation.checked(config)
  if use_part is use_invariant:
    del config.model.invariant_slot_attention
    config.model.slot_attention = slots
    with pytest.raises(ValueError, match="the frames of slots .None. and deco"):
      validation.checked(config)


@pytest.mark.parametrize("field", ["num_steps", "log_every", "eval_every"])
def test_what_happens_every_so_often_fits_the_dispatches(config, field):
  config.update(steps_per_dispatch=2, eval_every=2, checkpoint_every=2)
  config[field] = 5
  with pytest.raises(ValueError, match=f"{field}=5 is not a multiple of"):
    validation.checked(config)


@pytest.mark.parametrize(
  "field, value, words",
  [
    ("task", "dreaming", "task='dreaming' is not one of adaptive_objec"),
    ("batch_size", 6, "batch_size=6 is not a multiple of the 4 devices"),
    ("eval_batch_size", 2, "eval_batch_size=2 is not a multiple of the 4"),
    ("num_steps", 0, "num_steps=0 must be at least 1"),
    ("log_every", 0, "log_every=0 must be at least 1"),
    ("optimizer", "sgd", "optimizer='sgd' is not one of adam, muon"),
    ("decay", "linear", "decay='linear' is not one of exponential, cosine"),
    ("data_placement", "disk", "data_placement='disk' is not one of device"),
    ("compute_dtype", "int8", "compute_dtype='int8' is not one of float32, bf"),
    ("model.slot_attention.num_slots", 0, "slot_attention.num_slots=0 must be"),
    ("model.slot_attention.update", "lstm", "update='lstm' is not one of gru"),
    ("model.decoder.broadcast_size", (11, 12), "do not fit the decoder"),
    ("model.encoder.strides", (2, 1), "one entry for each convolution"),
    ("data.name", "mnist", "data.name='mnist' is not one of tetrominoes"),
    ("data.procedural.image_size", 7, "image_size=7 has no room"),
  ],
)
def test_bad_values_are_named_before_anything_is_written(
  config, tmp_path, field, value, words
):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=words):
    train.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_missing_unknown_and_mistyped_fields_are_named(config):
  wrong = config.copy_and_resolve_references()
  wrong.batchsize = 4
  del wrong.seed
  with pytest.raises(
    ValueError,
    match=r"seed is missing, batchsize is unknown \(did you mean batch_size\?",
  ):
    validation.checked(wrong)
  wrong = config.copy_and_resolve_references()
  wrong.model.encoder.colour = 1
  del wrong.model.slot_attention.num_slots
  with pytest.raises(ValueError, match="model.encoder: colour is unknown"):
    validation.checked(wrong)
  del wrong.model.encoder.colour
  with pytest.raises(ValueError, match="slot_attention: num_slots is missing"):
    validation.checked(wrong)
  wrong = ConfigDict({**config.to_dict(), "batch_size": "4"})
  with pytest.raises(ValueError, match="batch_size='4' must be of type int"):
    validation.checked(wrong)
  wrong = config.copy_and_resolve_references()
  del wrong.model.decoder
  with pytest.raises(
    ValueError, match="decoder or invariant_decoder is missing"
  ):
    validation.checked(wrong)
  wrong = config.copy_and_resolve_references()
  wrong.model.decodr = wrong.model.decoder
  with pytest.raises(ValueError, match=r"decodr is unknown \(did you mean dec"):
    validation.checked(wrong)
  wrong = config.copy_and_resolve_references()
  use_slot_mlp(wrong)
  wrong.model.slot_attention = config.model.slot_attention
  with pytest.raises(ValueError, match="and slot_mlp exclude each other"):
    validation.checked(wrong)


def test_a_field_with_a_default_may_be_left_out(config):
  """So a field that is added does not break what exists."""
  config.muon_learning_rate = validation.DEFAULTS["muon_learning_rate"]
  older = config.copy_and_resolve_references()
  for field in validation.DEFAULTS:
    del older[field]
  del older.model.slot_attention.temperature
  del older.model.decoder.remat_chunk_size
  assert "temperature" not in older.model.slot_attention
  older.lock()  # As that of a command line is.
  assert validation.checked(older).to_dict() == (
    validation.checked(config).to_dict()
  )


@pytest.mark.parametrize("task", ["object_discovery", "set_prediction"])
def test_slots_without_projections_must_have_the_size_of_the_inputs(
  config, set_config, task
):
  config = {"object_discovery": config, "set_prediction": set_config}[task]
  config.model.slot_attention.use_projections = False
  config.model.encoder.mlp_size = config.model.slot_attention.slot_size + 1
  with pytest.raises(ValueError, match="mlp_size=.* must equal .*slot_size"):
    validation.checked(config)
  config.model.encoder.mlp_size -= 1
  validation.checked(config)


@pytest.mark.parametrize("name", ["quickstart", "clevr_set_prediction_small"])
def test_every_choice_of_slot_attention_runs_or_is_refused_at_the_door(name):
  whole = configs.load(name)
  choices = {
    field: (True, False)
    for field, value in whole.model.slot_attention.items()
    if isinstance(value, bool)
  } | {
    "aggregation": attention.AGGREGATIONS,
    "softmax_axis": attention.SOFTMAX_AXES,
    "update": attention.UPDATES,
    "temperature": attention.TEMPERATURES,
    "slot_init": attention.SLOT_INITS,
    "epsilon_place": attention.EPSILON_PLACES,
    "gradient": attention.GRADIENTS,
  }
  num_runs = 0
  for field, values in choices.items():
    for value in values:
      config = configs.load(name)
      config.model.slot_attention[field] = value
      try:
        config = validation.checked(config)
      except ValueError:
        continue
      task = tasks.make_task(config)
      shape = datasets.image_shape(config.data)
      batch = {"images": jax.ShapeDtypeStruct((1, *shape), jnp.float32)}

      def apply(key, batch, task=task, shape=shape):
        return task.apply(task.init(key, shape), batch, key, training=True)

      jax.eval_shape(apply, jax.random.key(0), batch)
      num_runs += 1
  assert num_runs > 15


@pytest.mark.parametrize(
  "name, max_objects, num_slots, words",
  [
    ("quickstart", 3, 4, None),
    ("quickstart", 3, 3, "max_objects=3 needs 4 slots. Objects will share"),
    ("quickstart", 3, 8, None),
    ("quickstart", 3, 9, "more than twice what is needed"),
    ("clevr_set_prediction", 10, 10, None),
    ("clevr_set_prediction", 10, 9, "max_objects=10 needs 10 slots"),
    ("slot_mlp:quickstart", 3, 3, "num_slots=3 is too few"),
    ("iodine:quickstart", 3, 3, "num_slots=3 is too few"),
    ("monet:quickstart", 3, 9, "more than twice what is needed"),
    ("nem", 3, 3, "num_slots=3 is too few"),
    ("dspn", 10, 9, "max_objects=10 needs 10 slots"),
  ],
)
def test_too_few_and_too_many_slots_are_warned_of(
  name, max_objects, num_slots, words, caplog
):
  config = configs.load(name)
  config.data.max_objects = max_objects
  tasks.slots_section(config).num_slots = num_slots
  config = validation.checked(config)
  validation.warn_about_slots(config, tasks.make_task(config))
  assert (words or "") in caplog.text and bool(words) == bool(caplog.text)


@pytest.mark.parametrize(
  "name", [*configs.names(), *FAST, *RIVALS, *SUCCESSORS]
)
def test_every_config_passes_the_door_as_it_stands(name):
  config = configs.load(name)
  assert validation.checked(config) == config  # Every field is listed.
