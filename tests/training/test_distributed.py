"""Tests of several processes on one machine."""

import dataclasses
import json
import os
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slot_attention import parallel, tasks
from slot_attention.data import datasets, loading
from slot_attention.training import evaluate, train
from tests.runs import (
  SETS,
  make_config,
  read_lines,
)
from tests.test_main import ROOT, check_error, main_after, smoke


def free_address():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return f"localhost:{probe.getsockname()[1]}"


def start(*arguments, **environment):
  """Starts a Python process with its own devices and one pipe for output."""
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def make_set_config(data_dir):
  config = make_config(data_dir, "set_prediction")
  config.data.name = "sets"
  config.data.max_objects = 5
  config.data.procedural = {"seed": 0}
  return config


def evaluate_noisy_targets(config):
  """Evaluates predictions that are targets with a fixed noise per example.

  The predictions of a model after six steps would have an average precision of
  almost zero.
  """
  task = tasks.make_task(config)
  data = loading.load(config.data)

  def measure(outputs, batch):
    noise = jax.vmap(
      lambda i: jax.random.normal(jax.random.key(i), (5, 19)) / 20
    )(batch["example_ids"])
    return {
      "loss": task.loss(outputs, batch),
      "predictions": batch["targets"] + noise,
      "targets": batch["targets"],
    }

  params = task.init(jax.random.key(0), data.image_shape)
  run_evaluation = evaluate.make_evaluator(
    dataclasses.replace(task, measure=measure),
    data.splits["eval"],
    batch_size=config.eval_batch_size,
    placement="host",
  )
  return run_evaluation(parallel.replicate(params))


def work(address, process_id, data_dir, fresh, begun):
  """Does the work of one of two processes."""
  evaluate.report = lambda *_: None  # Drawing would take long.
  jax.config.update("jax_num_cpu_devices", 2)
  parallel.join_cluster(address, 2, process_id)
  assert parallel.num_devices() == 4 and jax.local_device_count() == 2
  datasets.DATA_SETS["sets"] = SETS
  config = make_set_config(data_dir)
  train.train(config, Path(fresh))
  config.num_steps = 9
  config.data_placement = "host"
  train.train(config, Path(begun))
  metrics = evaluate_noisy_targets(config)
  with Path(fresh, f"noisy_{process_id}.json").open("w") as file:
    json.dump(metrics, file)
  config.seed = process_id
  with pytest.raises(ValueError, match="do not have the same config: "):
    train.train(config, Path(f"{fresh}_other"))


def assert_close_lines(a, b):
  assert len(a) == len(b) > 2
  for line, other in zip(a, b):
    assert line == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
  "place, name",
  enumerate(
    [
      "config",
      "number of devices",
      "newest checkpoint",
      "train examples",
      "eval examples",
    ]
  ),
)
def test_what_processes_do_not_have_in_common_is_named(
  config, monkeypatch, place, name
):
  def gather(values):
    others = values.copy()
    others[0, place] += 1
    return np.concatenate([values, others])

  monkeypatch.setattr(parallel, "gather", gather)
  with pytest.raises(ValueError, match=f"do not have the same {name}: "):
    train._check_processes(config, loading.load(config.data), 4)


@pytest.mark.slow
def test_processes_and_devices_give_the_same_numbers_and_checkpoints(
  tmp_path, monkeypatch
):
  """Compares 2 processes of 2 devices, 1 process of 4, and 1 process of 1.

  Training loss and evaluation are the same, although the last batch of the
  evaluation is not full, and each layout continues the run of another one.
  """
  monkeypatch.setattr(evaluate, "report", lambda *_: None)
  monkeypatch.setitem(datasets.DATA_SETS, "sets", SETS)
  config = make_set_config(tmp_path / "data")
  folders = [tmp_path / name for name in ("one", "four", "two_by_two")]
  one, four, two_by_two = folders
  four_to_two_by_two = tmp_path / "four_to_two_by_two"

  train.train(config, four)
  shutil.copytree(four, four_to_two_by_two)
  address = free_address()
  paths = [str(tmp_path / "data_2"), str(two_by_two), str(four_to_two_by_two)]
  processes = [
    start(
      "-c",
      "from tests.training import test_distributed\n"
      f"test_distributed.work({address!r}, {process_id}, *{paths})",
    )
    for process_id in range(2)
  ]
  with monkeypatch.context() as context:
    devices = jax.local_devices()[:1]
    context.setattr(jax, "local_devices", lambda: devices)
    context.setattr(jax, "local_device_count", lambda: 1)
    train.train(config, one)
    noisy = evaluate_noisy_targets(config)
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

  assert_close_lines(read_lines(one), read_lines(four))
  assert_close_lines(read_lines(one), read_lines(two_by_two))
  assert 0.05 < noisy["ap_0.5"] < 0.95
  for process_id in range(2):
    text = (two_by_two / f"noisy_{process_id}.json").read_text()
    assert json.loads(text) == pytest.approx(noisy, abs=1e-5)
  config.num_steps = 9
  train.train(config, two_by_two)  # From two processes to one.
  train.train(config, four)
  assert_close_lines(read_lines(two_by_two), read_lines(four))
  assert_close_lines(read_lines(four_to_two_by_two), read_lines(four))


def take_steps(path):
  """Takes three steps of 8 images on the devices that there are.

  Saves the losses, the parameters [leaves of the tree], and the number of
  all-reduces of the compiled program and their bytes.
  """
  task = tasks.make_task(make_config("unused"))
  # Adam would make large updates of gradients that are zero but for rounding.
  optimizer = optax.sgd(0.01)
  params = task.init(jax.random.key(0), (12, 12, 3))
  state = parallel.replicate(
    train.TrainState(jnp.int32(0), params, optimizer.init(params))
  )
  images = np.random.default_rng(0).integers(
    0, 256, (8, 3, 12, 12, 3), dtype=np.uint8
  )
  ids = np.tile(np.arange(8, dtype=np.int32)[:, None], (1, 3))
  batch = {"images": images, "example_ids": ids}
  batch = parallel.shard(jax.tree.map(parallel.own_part, batch))
  step = train.make_train_step(task, optimizer, jax.random.key(1))
  text = step.lower(state, batch).compile().as_text()
  reduced = re.findall(r" = (.*) all-reduce(?:-start)?\(", text)
  shapes = re.findall(r"f32\[([\d,]*)\]", " ".join(reduced))
  sizes = [np.prod([int(n) for n in x.split(",") if n]) for x in shapes]
  state, losses = step(state, batch)
  np.savez(
    path,
    *jax.tree.leaves(parallel.unreplicate(state.params)),
    losses=parallel.on_host(losses),
    num_reductions=len(reduced),
    reduced_bytes=4 * sum(sizes),
  )


def take_steps_of_a_cluster(
  address, num_processes, process_id, num_devices, to
):
  """Takes the steps in one of several processes."""
  jax.config.update("jax_num_cpu_devices", num_devices)
  parallel.join_cluster(address, num_processes, process_id)
  assert parallel.num_devices() == num_processes * num_devices
  take_steps(f"{to}/{process_id}.npz")


def assert_same_steps(path, one):
  """Compares what `take_steps` has saved with the steps on one device."""
  with np.load(path) as steps, np.load(one) as expected:
    assert steps.keys() == expected.keys() and len(steps) > 20
    for name in steps:
      if name != "num_reductions":
        np.testing.assert_allclose(
          steps[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )
    assert steps["num_reductions"] == 1


def take_steps_on(num_devices, path, monkeypatch):
  with monkeypatch.context() as context:
    devices = jax.local_devices()[:num_devices]
    context.setattr(jax, "local_devices", lambda: devices)
    context.setattr(jax, "local_device_count", lambda: num_devices)
    take_steps(path)
  return path


def test_devices_take_the_same_steps_and_reduce_the_gradients_once(
  tmp_path, monkeypatch
):
  one = take_steps_on(1, tmp_path / "1.npz", monkeypatch)
  with np.load(one) as steps:
    gradients = sum(steps[x].size for x in steps if x.startswith("arr_"))
    assert steps["reduced_bytes"] == 4 * (gradients + 1)  # And the loss.
    assert steps["losses"].shape == (3,)
    assert np.ptp(steps["losses"]) > 1e-4
  for num_devices in (2, 4):
    path = tmp_path / f"{num_devices}.npz"
    assert_same_steps(take_steps_on(num_devices, path, monkeypatch), one)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes, num_devices", [(1, 8), (2, 4), (4, 2)])
def test_eight_devices_of_any_processes_take_the_steps_of_one_device(
  tmp_path, monkeypatch, num_processes, num_devices
):
  address = free_address()
  processes = [
    start(
      "-c",
      "from tests.training import test_distributed\n"
      f"test_distributed.take_steps_of_a_cluster({address!r}, {num_processes},"
      f" {process_id}, {num_devices}, {str(tmp_path)!r})",
    )
    for process_id in range(num_processes)
  ]
  one = take_steps_on(1, tmp_path / "one.npz", monkeypatch)
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
  for process_id in range(num_processes):
    assert_same_steps(tmp_path / f"{process_id}.npz", one)


def flags_of_cluster():
  address = free_address()
  for process_id in range(2):
    yield {
      "arguments": (
        f"--coordinator_address={address}",
        "--num_processes=2",
        f"--process_id={process_id}",
      )
    }


def slurm():
  """Yields the variables of SLURM, from which JAX derives the address."""
  job = int(free_address().split(":")[1])
  for process_id in range(2):
    yield {
      "SLURM_JOB_ID": str(job),
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(process_id),
      "SLURM_LOCALID": str(process_id),
    }


def start_pair(cluster, tmp_path, *arguments, prelude=""):
  return [
    start(
      "-c",
      main_after(prelude),
      *smoke("quickstart", tmp_path),
      f"--workdir={tmp_path}/run",
      *arguments,
      *settings.pop("arguments", ()),
      **settings,
    )
    for settings in cluster()
  ]


def wait_for_step(processes, tmp_path, step):
  """Waits for a checkpoint of at least this step."""
  for _ in range(1200):
    folders = (tmp_path / "run" / "checkpoints").glob("*")
    steps = [int(path.name) for path in folders if path.name.isdecimal()]
    if max(steps, default=0) >= step:
      return max(steps)
    assert all(process.poll() is None for process in processes), [
      process.communicate()[0] for process in processes
    ]
    time.sleep(0.1)
  raise TimeoutError


# Process 0 would take 100 seconds to notice that process 1 is gone.
LISTEN_OFTEN = """
import functools, jax
jax.distributed.initialize = functools.partial(
  jax.distributed.initialize, heartbeat_timeout_seconds=10
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_others_and_sigterm_to_one_saves_for_all(
  tmp_path, victim
):
  """After both, the same command goes on. It also prepares the data."""
  arguments = (
    "--config.num_steps=1000000",
    "--config.log_every=1000",
    "--config.eval_every=1000000",
    "--config.checkpoint_every=10",
    # Processes also agree to stop if a dispatch has several steps.
    "--config.steps_per_dispatch=2",
  )
  processes = start_pair(
    flags_of_cluster, tmp_path, *arguments, prelude=LISTEN_OFTEN
  )
  wait_for_step(processes, tmp_path, 10)
  processes[victim].kill()
  output, _ = processes[1 - victim].communicate(timeout=150)
  assert processes[1 - victim].returncode, output
  processes[victim].communicate()

  steps = [
    int(path.name)
    for path in (tmp_path / "run" / "checkpoints").glob("*")
    if path.name.isdecimal()
  ]
  processes = start_pair(slurm, tmp_path, *arguments)
  wait_for_step(processes, tmp_path, max(steps) + 10)
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  saved = wait_for_step(processes, tmp_path, 0)
  for process, output in zip(processes, outputs):
    assert process.returncode == 75, output
    check_error(output, f"SIGTERM: step {saved} of 1000000 is saved")


def test_impossible_flags_of_a_cluster_are_named(tmp_path):
  for arguments, words in (
    (["--num_processes=2"], "must be given together"),
    (
      ["--num_processes=2", "--process_id=2", "--coordinator_address=x:1"],
      "--process_id=2 must be from 0 to 1",
    ),
  ):
    process = start(
      ROOT / "main.py", *smoke("quickstart", tmp_path), *arguments
    )
    output, _ = process.communicate()
    assert process.returncode == 1
    check_error(output, words)


def test_every_process_takes_its_own_part_of_the_batch(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  parts = []
  for process_id in range(3):
    monkeypatch.setattr(jax, "process_index", lambda i=process_id: i)
    parts.append(parallel.own_part(np.arange(12).reshape(6, 2)))
  assert [len(part) for part in parts] == [2, 2, 2]
  np.testing.assert_array_equal(
    np.concatenate(parts), np.arange(12).reshape(6, 2)
  )


def test_what_consumes_replicated_arrays_leaves_the_originals_as_they_are():
  originals = [jnp.full(size, 5.0) for size in (3, 64, 100_000)]
  copies = parallel.replicate(originals)
  others = parallel.replicate(originals)
  negate = parallel.data_parallel(lambda x: jax.tree.map(jnp.negative, x), (0,))
  for _ in range(3):
    copies = negate(copies)
  for array in (*originals, *jax.tree.leaves(others)):
    np.testing.assert_array_equal(array, 5)
  for array in parallel.on_host(copies):
    np.testing.assert_array_equal(array, -5)
