"""Tests of the loop, the checkpoints and the evaluation, on tiny models."""

import json
import os
import shutil
import signal

import flax
import jax
import jax.numpy as jnp
import matplotlib.image
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from slot_attention import parallel, tasks
from slot_attention.data import batches, prepare
from slot_attention.training import checkpoints, evaluate, train, writers
from tests.data.test_originals import write_split
from tests.test_metrics import random_sets


def make_config(data_dir, task="object_discovery") -> ConfigDict:
  config = ConfigDict(
    {
      "task": task,
      "loss": {},
      "seed": 0,
      "batch_size": 4,
      "num_steps": 6,
      "learning_rate": 1e-2,
      "warmup_steps": 2,
      "decay_rate": 0.5,
      "decay_steps": 10,
      "max_grad_norm": 0.0,
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


@pytest.fixture(name="data_dir", scope="session")
def _data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(name="config")
def _config(data_dir):
  return make_config(data_dir)


def read_lines(workdir):
  return [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]


def assert_equal_trees(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_schedule_is_the_official_formula():
  schedule = train.learning_rate_schedule(
    learning_rate=4e-4, warmup_steps=1000, decay_rate=0.5, decay_steps=50_000
  )
  assert schedule(0) == 0
  for step in (1, 500, 1000, 20_000, 50_000):
    expected = 4e-4 * min(1, step / 1000) * 0.5 ** (step / 50_000)
    assert schedule(jnp.int32(step)) == pytest.approx(expected, rel=1e-5)
  # Not optax's, whose decay waits for the end of the warm-up.
  optax_schedule = optax.warmup_exponential_decay_schedule(
    0, 4e-4, 1000, 50_000, 0.5
  )
  assert abs(schedule(50_000) / optax_schedule(50_000) - 1) > 1e-3
  no_warmup = train.learning_rate_schedule(
    learning_rate=1.0, warmup_steps=0, decay_rate=0.5, decay_steps=10
  )
  assert no_warmup(0) == 1


def test_clipping_is_off_unless_asked_for():
  params = {"w": jnp.zeros(3)}
  grads = {"w": jnp.array([3.0, 4.0, 0.0])}

  def first_moment(max_grad_norm):
    optimizer = train.make_optimizer(lambda step: 1.0, max_grad_norm)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return optax.tree.get(state, "mu")["w"]

  np.testing.assert_allclose(first_moment(0.0), 0.1 * grads["w"], rtol=1e-6)
  np.testing.assert_allclose(first_moment(1.0), 0.1 * grads["w"] / 5, rtol=1e-6)


def test_a_run_writes_all_that_it_promises(config, tmp_path):
  metrics = train.train(config, tmp_path / "run")
  assert set(metrics) == {"loss", "fg_ari"}
  lines = read_lines(tmp_path / "run")
  assert [(line["step"], line["split"]) for line in lines] == [
    (2, "train"), (3, "eval"), (4, "train"), (6, "train"), (6, "eval"),
  ]  # fmt: skip
  assert lines[0]["learning_rate"] == pytest.approx(1e-2 * 0.5 * 0.5**0.1)
  assert lines[-1]["fg_ari"] == metrics["fg_ari"]
  folder = tmp_path / "run" / "eval_tetrominoes_procedural"
  for name in ("slots.png", "attention.png"):
    assert (folder / name).read_bytes().startswith(b"\x89PNG")
  result = json.loads((folder / "metrics.json").read_text())
  assert result["num_examples"] == 6
  assert result["fg_ari"] == metrics["fg_ari"]


def test_training_lowers_the_loss_on_data_not_trained_on(config, tmp_path):
  config.num_steps = 60
  config.eval_every = 60
  config.checkpoint_every = 60
  with config.unlocked():
    before = config.copy_and_resolve_references()
  before.num_steps = before.warmup_steps = 1  # A first step of rate 0.
  untrained = train.train(before, tmp_path / "before")
  trained = train.train(config, tmp_path / "after")
  assert trained["loss"] < 0.7 * untrained["loss"]


def sets_of_objects(chunk, *, seed):
  """A chunk of random images with random sets of up to five objects."""
  rng = np.random.default_rng([seed, chunk])
  _, targets = random_sets(rng, 24, 5, 5, 0.0)
  return {
    "images": rng.integers(0, 256, (24, 12, 12, 3), dtype=np.uint8),
    "segments": rng.integers(0, 6, (24, 12, 12), dtype=np.uint8),
    "targets": targets.astype(np.float32),
  }


@pytest.fixture(name="set_config")
def _set_config(data_dir, monkeypatch):
  monkeypatch.setitem(
    prepare.DATA_SETS,
    "sets",
    prepare.DataSet(5, 18, 24, generate=sets_of_objects, chunk_size=24),
  )
  config = make_config(data_dir, "set_prediction")
  config.data.name = "sets"
  config.data.max_objects = 5
  config.data.procedural = ConfigDict({"seed": 0})
  return config


APS = {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}


def test_set_prediction_trains_in_the_same_loop(set_config, tmp_path):
  metrics = train.train(set_config, tmp_path)
  assert set(metrics) == {"loss", "attn_ari"} | APS
  assert list(tmp_path.glob("eval_*/attention.png"))
  assert list(tmp_path.glob("eval_*/predictions.png"))


@pytest.mark.parametrize(
  "field, value", [("use_all_iterations", True), ("coordinate_scale", 5.0)]
)
def test_variants_of_the_loss_change_what_is_learned(
  set_config, tmp_path, field, value
):
  plain = train.train(set_config, tmp_path / "plain")
  set_config.loss[field] = value
  variant = train.train(set_config, tmp_path / "variant")
  assert np.isfinite(variant["loss"]) and variant["loss"] != plain["loss"]
  params = (
    checkpoints.load_run(tmp_path / folder).params
    for folder in ("plain", "variant")
  )
  same = jax.tree.map(np.array_equal, *params)
  assert not all(jax.tree.leaves(same))


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


def test_the_slot_mlp_predicts_sets(set_config, tmp_path):
  use_slot_mlp(set_config)
  metrics = train.train(set_config, tmp_path)
  assert set(metrics) == {"loss"} | APS
  set_config.loss.use_all_iterations = True
  with pytest.raises(ValueError, match="the Slot MLP has no iterations"):
    train.train(set_config, tmp_path)
  with pytest.raises(ValueError, match="only Slot Attention has iterations"):
    evaluate.sweep_run(tmp_path, checkpoints.load_config(tmp_path))


def test_a_sweep_covers_iterations_objects_and_slots(
  set_config, tmp_path, monkeypatch
):
  assert list(evaluate.SWEPT_ITERATIONS) == [*range(1, 11)]
  monkeypatch.setattr(evaluate, "SWEPT_ITERATIONS", (1, 2, 4))
  metrics = train.train(set_config, tmp_path)
  rows = evaluate.sweep_run(tmp_path, set_config)
  (as_trained,) = (
    row
    for row in rows
    if row["sweep"] == "iterations" and row["num_iterations"] == 2
  )
  for name, value in metrics.items():
    assert as_trained[name] == pytest.approx(value, abs=1e-6)

  counts = prepare.load(set_config.data).splits["eval"].num_objects
  of_count = {
    row["num_objects"]: row["num_examples"]
    for row in rows
    if row["sweep"] == "objects" and row["num_iterations"] == 2
  }
  numbers, sizes = np.unique(counts, return_counts=True)
  assert of_count == dict(zip(numbers.tolist(), sizes.tolist()))
  # Trained with 4 slots for up to 5 objects: one slot too few, in all sweeps.
  assert {
    row["num_objects"]: row["num_slots"]
    for row in rows
    if row["sweep"] == "slots"
  } == {number: max(1, number - 1) for number in numbers.tolist()}
  assert len({row["loss"] for row in rows}) > 5
  (written,) = tmp_path.glob("eval_*/sweep.json")
  assert json.loads(written.read_text())["rows"] == rows
  assert written.with_name("sweep.png").exists()


def test_data_without_what_the_task_needs_is_refused(config, tmp_path):
  task = make_config(tmp_path, "set_prediction")
  task.data = config.data
  with pytest.raises(ValueError, match="the data has no targets"):
    train.train(task, tmp_path)


def test_objects_are_discovered_where_there_are_no_masks(config, tmp_path):
  write_split(tmp_path / "CLEVR_v1.0", "val", 24, size=(240, 320))
  config.data.name = "clevr"
  config.data.source = "original"
  config.data.path = str(tmp_path / "CLEVR_v1.0")
  config.data.max_objects = 10
  config.data.preprocessing = {"crop": True, "image_size": 12}
  metrics = train.train(config, tmp_path)
  assert metrics.keys() == {"loss"} and np.isfinite(metrics["loss"])
  (folder,) = tmp_path.glob("eval_*")
  assert (folder / "slots.png").exists()
  assert (tmp_path / "curves.png").exists()
  rows = evaluate.sweep_run(tmp_path, config)
  assert len({row["loss"] for row in rows}) > 5
  assert not (folder / "sweep.png").exists()


def test_pictures_are_drawn_at_every_evaluation(config, tmp_path, monkeypatch):
  drawn = []

  def record(self, step, pictures):
    drawn.append((step, [path.name for path in pictures]))
    assert all(path.exists() for path in pictures)

  monkeypatch.setattr(writers.MetricWriter, "write_pictures", record)
  monkeypatch.setattr(
    writers, "show_run", lambda _, step, pictures, __: record(0, step, pictures)
  )
  train.train(config, tmp_path)
  names = ["slots.png", "attention.png", "curves.png"]
  assert drawn == [(3, names), (6, names)]


def test_the_slot_mlp_trains_in_the_same_loop(config, tmp_path):
  del config.model.slot_attention
  config.model.slot_mlp = ConfigDict(
    {
      "num_slots": 4,
      "slot_size": 8,
      "hidden_sizes": (9,),
      "slot_mlp_sizes": (7, 8),
      "grid_size": 4,
    }
  )
  assert np.isfinite(train.train(config, tmp_path)["loss"])
  assert not list(tmp_path.glob("eval_*/attention.png"))


def losses_on(num_devices, config, monkeypatch):
  """Losses of some steps, and the evaluation after them, on some devices.

  Parameters are not compared: some, such as the bias of the decoder's logits,
  do not change the function, and Adam turns the rounding errors that are their
  gradients into steps of full size.
  """
  devices = jax.local_devices()[:num_devices]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(jax, "local_device_count", lambda: num_devices)
  task = tasks.make_task(config)
  data = prepare.load(config.data)
  optimizer = train.make_optimizer(optax.constant_schedule(1e-2), 0.0)
  params = task.init(jax.random.key(0), data.image_shape)
  state = parallel.replicate(
    train.TrainState(jnp.int32(0), params, optimizer.init(params))
  )
  step = train.make_train_step(task, optimizer, jax.random.key(1))
  losses = []
  feeder = batches.Feeder(data.splits["train"], "host")
  for batch in feeder.train_batches(range(5), batch_size=8, seed=0):
    state, loss = step(state, batch)
    losses.append(float(loss[0, 0]))
  evaluation = evaluate.make_evaluator(
    task, data.splits["eval"], batch_size=4, placement="host"
  )(state.params)
  return losses, evaluation


def test_one_device_and_four_give_the_same_numbers(config, monkeypatch):
  with monkeypatch.context() as context:
    losses_1, evaluation_1 = losses_on(1, config, context)
  with monkeypatch.context() as context:
    losses_4, evaluation_4 = losses_on(4, config, context)
  assert losses_1[-1] < losses_1[0]
  np.testing.assert_allclose(losses_1, losses_4, rtol=1e-5)
  assert evaluation_1 == pytest.approx(evaluation_4, abs=1e-5)


def final_state(workdir, step):
  run = checkpoints.load_run(workdir)
  assert run.step == step
  return run.params


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
  config, tmp_path
):
  train.train(config, tmp_path / "whole")
  config.num_steps = 3
  train.train(config, tmp_path / "parts")
  config.num_steps = 6
  train.train(config, tmp_path / "parts")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "parts", 6)
  )
  # The end of the first part has its own line for the odd step 3.
  parts = [
    line
    for line in read_lines(tmp_path / "parts")
    if (line["step"], line["split"]) != (3, "train")
  ]
  assert parts == read_lines(tmp_path / "whole")


def test_work_after_the_last_checkpoint_is_done_again(config, tmp_path):
  train.train(config, tmp_path / "whole")
  config.checkpoint_every = 4
  train.train(config, tmp_path / "killed")
  # As if killed between steps 4 and 6, in the middle of a line.
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
  with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 6, "spl')
  train.train(config, tmp_path / "killed")
  assert read_lines(tmp_path / "killed") == read_lines(tmp_path / "whole")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "killed", 6)
  )


def test_steps_of_one_dispatch_train_as_steps_apart(config, tmp_path):
  config.log_every = config.checkpoint_every = config.eval_every = 3
  train.train(config, tmp_path / "apart")
  config.steps_per_dispatch = 3
  train.train(config, tmp_path / "together")
  apart, together = (
    read_lines(tmp_path / name) for name in ("apart", "together")
  )
  assert [line["step"] for line in together] == [3, 3, 6, 6]
  for a, b in zip(apart, together, strict=True):
    assert a.pop("split") == b.pop("split")
    assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def test_a_run_goes_on_with_other_dispatches_that_divide_its_steps(
  config, tmp_path
):
  config.log_every = config.checkpoint_every = config.eval_every = 3
  config.steps_per_dispatch = 3
  train.train(config, tmp_path / "whole")
  config.num_steps = 3
  train.train(config, tmp_path / "cut")

  def go_on(steps_per_dispatch):
    every = 2 * steps_per_dispatch
    config.update(
      num_steps=12, steps_per_dispatch=steps_per_dispatch,
      log_every=every, checkpoint_every=every, eval_every=every,
    )  # fmt: skip
    train.train(config, tmp_path / "cut")

  before = (tmp_path / "cut" / "config.json").read_text()
  with pytest.raises(ValueError, match="=2 does not divide the 3 steps"):
    go_on(2)
  assert (tmp_path / "cut" / "config.json").read_text() == before
  go_on(1)
  whole, cut = (
    [line for line in read_lines(tmp_path / name) if line["step"] == 6]
    for name in ("whole", "cut")
  )
  for a, b in zip(whole, cut, strict=True):
    assert a.pop("split") == b.pop("split")
    assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("field", ["num_steps", "log_every", "eval_every"])
def test_what_happens_every_so_often_fits_the_dispatches(
  config, tmp_path, field
):
  config.update(steps_per_dispatch=2, eval_every=2, checkpoint_every=2)
  config[field] = 5
  with pytest.raises(ValueError, match=f"{field}=5 is not a multiple of"):
    train.train(config, tmp_path)


def test_in_bfloat16_convolutions_are_and_the_rest_is_not(config):
  images = prepare.load(config.data).splits["train"].take(np.arange(4))
  batch = tasks.normalize({**images, "example_ids": jnp.arange(4)})

  def compute(dtype):
    config.compute_dtype = dtype
    task = tasks.make_task(config)
    params = task.init(jax.random.key(0), (12, 12, 3))

    def loss_and_outputs(params):
      outputs = task.apply(params, batch, jax.random.key(1))
      return task.loss(outputs, batch).mean(), outputs

    results = jax.jit(jax.value_and_grad(loss_and_outputs, has_aux=True))(
      params
    )
    assert {x.dtype.name for x in jax.tree.leaves(results)} == {"float32"}
    convolutions = {
      line.split(":")[1].partition("[")[0]
      for line in str(jax.make_jaxpr(loss_and_outputs)(params)).splitlines()
      if "= conv_general_dilated[" in line
    }
    return float(results[0][0]), convolutions

  loss32, convolutions32 = compute("float32")
  loss16, convolutions16 = compute("bfloat16")
  assert (convolutions32, convolutions16) == ({"f32"}, {"bf16"})
  assert loss32 != loss16
  assert loss32 == pytest.approx(loss16, rel=0.01)


def test_sigterm_saves_and_the_run_goes_on_from_there(
  config, tmp_path, monkeypatch
):
  train.train(config, tmp_path / "whole")
  make_train_step = train.make_train_step
  steps = []

  def interrupt_after_five(*args):
    step = make_train_step(*args)

    def counted(state, batch):
      steps.append(1)
      if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      return step(state, batch)

    return counted

  monkeypatch.setattr(train, "make_train_step", interrupt_after_five)
  with pytest.raises(
    train.InterruptedRunError, match="SIGTERM: step 5 of 6 is saved"
  ):
    train.train(config, tmp_path / "parts")
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  final_state(tmp_path / "parts", 5)
  train.train(config, tmp_path / "parts")
  assert len(steps) == 6
  assert read_lines(tmp_path / "parts") == read_lines(tmp_path / "whole")
  assert_equal_trees(
    final_state(tmp_path / "whole", 6), final_state(tmp_path / "parts", 6)
  )


def test_max_minutes_saves_and_ends_cleanly(config, tmp_path):
  config.max_minutes = 1e-6
  assert train.train(config, tmp_path) is None
  final_state(tmp_path, 1)
  config.max_minutes = 0.0
  assert train.train(config, tmp_path) is not None
  final_state(tmp_path, 6)


def test_only_the_newest_checkpoints_are_kept(config, tmp_path):
  config.checkpoint_every = 1
  train.train(config, tmp_path)
  steps = [path.name for path in (tmp_path / "checkpoints").iterdir()]
  assert sorted(steps) == ["5", "6"]


def test_a_finished_run_is_evaluated_again_without_training(config, tmp_path):
  first = train.train(config, tmp_path)
  lines = read_lines(tmp_path)
  assert train.train(config, tmp_path) == first
  assert evaluate.evaluate_run(tmp_path, config) == first
  assert read_lines(tmp_path) == lines


def test_evaluation_takes_other_data_k_and_t(config, tmp_path):
  first = train.train(config, tmp_path)
  config.data.procedural.seed = 1
  config.model.slot_attention.num_slots = 6
  config.model.slot_attention.num_iterations = 3
  other = evaluate.evaluate_run(tmp_path, config)
  assert other["loss"] != first["loss"]


def test_evaluation_does_not_depend_on_the_batch_size(config, tmp_path):
  first = train.train(config, tmp_path)
  config.eval_batch_size = 8
  again = evaluate.evaluate_run(tmp_path, config)
  assert again == pytest.approx(first, abs=1e-5)


def test_load_run_gives_config_task_and_params(config, tmp_path):
  train.train(config, tmp_path)
  run = checkpoints.load_run(tmp_path)
  assert run.config == config  # Tuples, too, survive JSON.
  assert run.step == 6
  data = prepare.load(config.data)
  outputs = run.task.apply(
    run.params,
    tasks.normalize(
      {
        "example_ids": np.arange(2),
        **data.splits["eval"].take(np.arange(2)),
      }
    ),
    jax.random.key(0),
    num_slots=5,
  )
  assert outputs["masks"].shape == (2, 5, 12, 12, 1)


def test_another_config_in_the_same_workdir_is_refused(config, tmp_path):
  train.train(config, tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  config.seed = 1
  config.model.encoder.features = (4,)
  with pytest.raises(ValueError) as error:
    train.train(config, tmp_path)
  message = str(error.value)
  assert "model.encoder.features was (5,), is now (4,)" in message
  assert "seed was 0, is now 1" in message
  assert "another --workdir" in message
  after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert before == after


def test_a_model_that_does_not_fit_the_checkpoint_names_the_parameter(
  config, tmp_path
):
  train.train(config, tmp_path)
  config.model.slot_attention.mlp_hidden_size = 8
  with pytest.raises(ValueError) as error:
    evaluate.evaluate_run(tmp_path, config)
  assert (
    "slot_attention/mlp/dense_0/kernel is saved as (8, 7), the config needs"
    " (8, 8)" in str(error.value)
  )


def test_there_is_nothing_to_load_without_a_run(tmp_path, config):
  with pytest.raises(ValueError, match="there is no run in"):
    checkpoints.load_run(tmp_path)
  checkpoints.save_config(tmp_path, config)
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    checkpoints.load_run(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json is damaged"):
    checkpoints.load_run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
  config, tmp_path
):
  # The first update has rate 0, so the loss of step 2 is still that of the
  # initial parameters; the second update ruins them for step 3.
  config.learning_rate = 1e30
  config.log_every = 6
  config.eval_every = 6
  with pytest.raises(FloatingPointError) as error:
    train.train(config, tmp_path)
  assert "at step 3; there is no checkpoint yet" in str(error.value)
  assert "Try a lower learning_rate" in str(error.value)


@pytest.mark.parametrize(
  "field, value, words",
  [
    ("task", "dreaming", "task='dreaming' is not one of object_discovery"),
    ("batch_size", 6, "batch_size=6 is not a multiple of the 4 devices"),
    ("eval_batch_size", 2, "eval_batch_size=2 is not a multiple of the 4"),
    ("num_steps", 0, "num_steps=0 must be at least 1"),
    ("log_every", 0, "log_every=0 must be at least 1"),
    ("data_placement", "disk", "data_placement='disk' is not one of device"),
    ("model.slot_attention.num_slots", 0, "slot_attention.num_slots=0 must be"),
    ("model.slot_attention.update", "lstm", "update='lstm' is not one of gru"),
    ("model.decoder.broadcast_size", (11, 12), "do not fit the decoder"),
    ("model.encoder.strides", (2, 1), "one entry for each convolution"),
    ("data.name", "mnist", "data.name='mnist' is not one of tetrominoes"),
    ("data.procedural.image_size", 7, "image_size=7 has no room"),
  ],
)
def test_bad_values_are_named(config, tmp_path, field, value, words):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=words):
    train.train(config, tmp_path)
  assert not (tmp_path / "config.json").exists()  # The folder stays free.


def test_missing_unknown_and_mistyped_fields_are_named(config, tmp_path):
  wrong = config.copy_and_resolve_references()
  wrong.batchsize = 4
  del wrong.seed
  with pytest.raises(ValueError, match="seed is missing, batchsize is unknown"):
    train.train(wrong, tmp_path)
  wrong = config.copy_and_resolve_references()
  wrong.model.encoder.colour = 1
  del wrong.model.encoder.mlp_size
  with pytest.raises(
    ValueError, match="model.encoder: mlp_size is missing, colour is unknown"
  ):
    train.train(wrong, tmp_path)
  wrong = ConfigDict({**config.to_dict(), "batch_size": "4"})
  with pytest.raises(ValueError, match="batch_size='4' must be of type int"):
    train.train(wrong, tmp_path)
  wrong = config.copy_and_resolve_references()
  del wrong.model.decoder
  with pytest.raises(ValueError, match="config.model has no section decoder"):
    train.train(wrong, tmp_path)


def test_a_workdir_that_cannot_be_written_is_named(config, tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(OSError, match="workdir .*file/run cannot be written"):
    train.train(config, tmp_path / "file" / "run")
  assert (tmp_path / "file").read_text() == "in the way"


def test_metrics_go_to_tensorboard_where_tensorflow_is(tmp_path):
  pytest.importorskip("tensorflow")
  with writers.MetricWriter(tmp_path, 0) as writer:
    writer.write(3, "train", {"loss": 0.25})
    picture = np.full((4, 6, 3), 0.5)
    matplotlib.image.imsave(tmp_path / "slots.png", picture)
    writer.write_pictures(3, [tmp_path / "slots.png"])
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
  events.Reload()
  (scalar,) = events.Tensors("train/loss")
  (shown,) = events.Tensors("slots")
  assert scalar.step == shown.step == 3
  assert shown.tensor_proto.string_val[:2] == [b"6", b"4"]
  assert flax.core.FrozenDict(read_lines(tmp_path)[0]) == {
    "step": 3, "split": "train", "loss": 0.25
  }  # fmt: skip
