"""Tests of kills, damaged files, full disks, NaN, and long runs."""

import ctypes
import dataclasses
import gc
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention import tasks
from slot_attention.data import batches, loading
from slot_attention.training import checkpoints, evaluate, runs, train
from tests.runs import (
  assert_equal_trees,
  make_config,
  read_lines,
)
from tests.test_main import ROOT, check_error, smoke

# tensorstore warns if it cannot read or write; `command.run` hides the warning.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(name="config")
def _config(tmp_path):
  return make_config(tmp_path / "data")


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def newest_step(workdir):
  """Returns the step of the newest checkpoint, or 0 if there is none."""
  names = [path.name for path in workdir.glob("checkpoints/*")]
  return max((int(name) for name in names if name.isdecimal()), default=0)


def digests(workdir):
  """Returns step and checksums of the newest checkpoint."""
  step = newest_step(workdir)
  metadata = workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
  return step, json.loads(metadata.read_text())["custom_metadata"]


def start(tmp_path, name, num_steps, log):
  """Starts a run with its own data, which it prepares first."""
  return subprocess.Popen(
    [
      sys.executable,
      ROOT / "main.py",
      *smoke("quickstart", tmp_path / name),
      f"--workdir={tmp_path / name}",
      "--config.num_cpu_devices=1",
      "--config.data.num_examples=8000",
      f"--config.num_steps={num_steps}",
      "--config.log_every=1",
      "--config.eval_every=25",
      "--config.checkpoint_every=4",
    ],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
      "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
    },
    stdout=subprocess.DEVNULL,
    stderr=log,
  )


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
  tmp_path,
):
  """Compares parameters, optimiser and metrics bit for bit.

  The kills come at random times after the first output, after the start of
  the training, and (half of them) after a new checkpoint. So they come during
  preparation, compilation, training, evaluation and saving. Every third kill is
  a SIGTERM.
  """
  num_kills, num_steps = 12, 300
  with (tmp_path / "log").open("w") as log:
    assert start(tmp_path, "whole", num_steps, log).wait() == 0
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  rng = np.random.default_rng(num_kills)
  begun, codes = [], []
  for i in range(num_kills):
    path = tmp_path / f"log_{i}"
    step = newest_step(killed)
    with path.open("w") as log:
      process = start(tmp_path, "killed", num_steps, log)
      while (
        process.poll() is None
        and not (
          path.stat().st_size,
          "from step " in path.read_text(),
          newest_step(killed) > step,
          newest_step(killed) > step,
        )[i % 4]
      ):
        time.sleep(0.01)
      # Preparation is quick, and so are steps.
      time.sleep(rng.uniform(0, (4 if i else 0.1, 4, 1, 1)[i % 4]))
      terminate = i % 3 == 1
      process.send_signal(signal.SIGTERM if terminate else signal.SIGKILL)
      codes.append(process.wait())
      assert codes[-1] in ((75, -15, 0) if terminate else (-9, 0))
    if codes[-1] == 75:
      # A signal before the first step saves nothing and names no step.
      check_error(path.read_text(), "SIGTERM: ", "the same command goes on")
    begun += [
      int(line.split("from step ")[1].split()[0])
      for line in path.read_text().splitlines()
      if "from step " in line
    ]
  with (tmp_path / "log").open("w") as log:
    assert start(tmp_path, "killed", num_steps, log).wait() == 0, (
      tmp_path / "log"
    ).read_text()

  assert digests(killed) == digests(whole) and digests(whole)[0] == num_steps
  assert_equal_trees(runs.load(killed).params, runs.load(whole).params)
  lines = (killed / "metrics.jsonl").read_text()
  assert lines == (whole / "metrics.jsonl").read_text()
  assert len(lines.splitlines()) == num_steps + num_steps // 25
  report = "eval_tetrominoes_procedural/metrics.json"
  assert (killed / report).read_text() == (whole / report).read_text()
  # Half of the kills were in the middle of the training.
  assert len({step for step in begun if 0 < step < num_steps}) > 2, begun
  assert codes.count(-9) > 3 and 75 in codes, codes


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def largest(folder):
  return max(folder.rglob("*"), key=lambda path: path.stat().st_size)


DAMAGES = {
  "half a file": lambda folder: truncate(largest(folder / "params")),
  "one bit": lambda folder: flip(largest(folder / "params")),
  "one bit of the optimiser": lambda folder: flip(
    largest(folder / "optimizer")
  ),
  "no file": lambda folder: largest(folder / "params").unlink(),
  "no parameters": lambda folder: shutil.rmtree(folder / "params"),
  "no metadata": lambda folder: (folder / "params" / "_METADATA").unlink(),
  "empty metadata": lambda folder: (folder / "params" / "_METADATA").write_text(
    ""
  ),
}


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  config, finished_run, tmp_path, caplog
):
  whole = tmp_path / "whole"
  finished_run(whole)
  newest = runs.load(whole)
  assert newest.step == 6
  for name, damage in DAMAGES.items():
    workdir = Path(shutil.copytree(whole, tmp_path / name))
    damage(workdir / "checkpoints" / "6")
    before = contents(workdir)
    caplog.clear()
    if "optimiser" not in name:  # Only training reads the optimiser.
      run = runs.load(workdir)
      assert run.step == 3, name
      assert f"{workdir}/checkpoints/6 is damaged (" in caplog.text
    assert contents(workdir) == before

  for name in ("one bit", "one bit of the optimiser"):
    caplog.clear()
    workdir = tmp_path / name
    train.train(config, workdir)
    assert f"{workdir}/checkpoints/6 is damaged (" in caplog.text
    assert digests(workdir) == digests(whole)
    assert read_lines(workdir) == read_lines(whole)
    (aside,) = workdir.glob("damaged-checkpoint-6-*")
    assert largest(aside)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_damaged(
  finished_run, tmp_path, monkeypatch, caplog
):
  """A run with keep_checkpoints=1 deletes what another process reads."""
  finished_run(tmp_path)
  restore = checkpoints._restore

  def replace_and_restore(*args):
    monkeypatch.setattr(checkpoints, "_restore", restore)
    folder = tmp_path / "checkpoints"
    shutil.move(folder / "6", folder / "9")
    return restore(*args)

  monkeypatch.setattr(checkpoints, "_restore", replace_and_restore)
  assert runs.load(tmp_path).step == 9
  assert "damaged" not in caplog.text


def test_no_flipped_bit_is_taken_for_a_number(config, finished_run, tmp_path):
  """Flips random bits of random files of the newest checkpoint.

  The restored parameters are the same, if the bit has no meaning, or those of
  the checkpoint before.
  """
  finished_run(tmp_path / "whole")
  params = {6: runs.load(tmp_path / "whole").params}
  workdir = Path(shutil.copytree(tmp_path / "whole", tmp_path / "flipped"))
  shutil.move(workdir / "checkpoints" / "6", tmp_path / "6")
  params[3] = runs.load(workdir).params
  files = [
    path.relative_to(tmp_path / "6")
    for path in (tmp_path / "6").rglob("*")
    if path.is_file() and path.stat().st_size
  ]
  rng = np.random.default_rng(0)
  found = []
  for _ in range(40):
    shutil.copytree(tmp_path / "6", workdir / "checkpoints" / "6")
    path = workdir / "checkpoints" / "6" / files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    run = runs.load(workdir)
    assert_equal_trees(run.params, params[run.step])
    found.append(run.step)
    shutil.rmtree(workdir / "checkpoints" / "6")
  assert set(found) == {3, 6}


def test_if_all_checkpoints_are_damaged_nothing_is_changed(
  config, finished_run, tmp_path
):
  finished_run(tmp_path / "run")
  for folder in (tmp_path / "run" / "checkpoints").iterdir():
    truncate(largest(folder / "params"))
  before = contents(tmp_path / "run")
  for use in (
    lambda: train.train(config, tmp_path / "run"),
    lambda: evaluate.evaluate_run(config, tmp_path / "run"),
  ):
    with pytest.raises(
      ValueError, match="no checkpoint can be restored: .*/6 .*/3 .*Nothing was"
    ):
      use()
    assert contents(tmp_path / "run") == before


def test_going_on_with_another_model_names_the_parameter(
  config, finished_run, tmp_path
):
  finished_run(tmp_path)
  config.model.slot_attention.mlp_hidden_size = 8
  runs.save_config(tmp_path, config)
  config.num_steps = 9
  with pytest.raises(ValueError) as error:
    train.train(config, tmp_path)
  assert (
    "slot_attention/mlp/dense_0/kernel is saved as (8, 7), the config needs"
    " (8, 8)" in str(error.value)
  )
  assert (tmp_path / "checkpoints" / "6").is_dir()


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("a small file system cannot be mounted here")
  yield disk
  subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk):
  with pytest.raises(OSError), (disk / "ballast").open("wb", 0) as file:
    for size in (65536, 1):
      try:
        while file.write(bytes(size)):
          pass
      except OSError:
        if size == 1:
          raise


@pytest.mark.parametrize(
  "module, name, words",
  [
    (checkpoints, "save", "a checkpoint cannot be saved in .*No space left"),
    (train, "make_train_step", "metrics.jsonl cannot be written .No space"),
  ],
)
def test_a_full_disk_leaves_the_earlier_checkpoints_intact(
  config, finished_run, tmp_path, small_disk, monkeypatch, module, name, words
):
  """The disk is full before the second checkpoint or the first metric."""
  finished_run(tmp_path / "whole")
  workdir = small_disk / "run"
  config.num_steps = 3
  train.train(config, workdir)
  before = digests(workdir)
  config.num_steps = 6

  original = getattr(module, name)

  def fill_before(*args):
    if not (small_disk / "ballast").exists():
      fill(small_disk)
    return original(*args)

  with monkeypatch.context() as context:
    context.setattr(module, name, fill_before)
    context.setattr(
      threading, "excepthook", lambda _: None
    )  # As in `command.run`.
    with pytest.raises(OSError, match=words):
      train.train(config, workdir)
  (small_disk / "ballast").unlink()
  assert digests(workdir) == before
  assert runs.load(workdir).step == 3

  train.train(config, workdir)
  assert digests(workdir) == digests(tmp_path / "whole")
  lines = [
    line
    for line in read_lines(workdir)
    # Only the shorter run logs its last step, 3.
    if (line["step"], line["split"]) != (3, "train")
  ]
  assert lines == read_lines(tmp_path / "whole")


def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved(
  config, tmp_path, monkeypatch
):
  """One example, first seen in step 5, has a finite loss and NaN gradients."""
  split = loading.load(config.data).splits["train"]
  order = {"batch_size": 4, "num_examples": 18, "seed": 0}
  seen = [batches.examples_of_step(step, **order) for step in range(5)]
  (bad,) = (i for i in seen[4][:1] if i not in np.concatenate(seen[:4]))
  image = tasks.normalize(split.take(np.array([bad])))["images"]
  make_task = tasks.make_task

  def with_bad_example(config):
    task = make_task(config)

    def loss(outputs, batch):
      is_bad = (abs(batch["images"] - image) < 1e-3).all(axis=(1, 2, 3))
      slots = outputs["slots"].sum(axis=(1, 2))
      # The square root has no finite derivative at 0.
      return task.loss(outputs, batch) + jnp.sqrt(
        jnp.where(is_bad, 0.0, 1.0) * (1.0 + 0.0 * slots)
      )

    return dataclasses.replace(task, loss=loss)

  monkeypatch.setattr(tasks, "make_task", with_bad_example)
  config.log_every = config.eval_every = 100
  with pytest.raises(FloatingPointError) as error:
    train.train(config, tmp_path)
  message = str(error.value)
  assert "the loss or a gradient is not finite at step 5" in message
  assert f"the last checkpoint is of step 3, in {tmp_path}" in message
  examples = ", ".join(map(str, split.examples[seen[4]]))
  assert message.endswith(f"in the data set: {examples}")
  params = runs.load(tmp_path).params
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_two_runs_in_one_folder_are_refused(
  config, finished_run, tmp_path, monkeypatch
):
  finished_run(tmp_path)
  runs.save_config(tmp_path, config)
  before = contents(tmp_path)
  config.num_steps = 9
  with (
    runs.lock(tmp_path),
    monkeypatch.context() as context,
    pytest.raises(ValueError, match="another process is training in"),
  ):
    # Checkpoints that are read before the lock may be older than the newest.
    context.delattr(checkpoints, "restore_newest")
    train.train(config, tmp_path)
  config.num_steps = 6
  runs.save_config(tmp_path, config)
  assert contents(tmp_path) == before


def test_evaluating_a_run_whose_config_misses_a_field_ends_in_one_message(
  tmp_path,
):
  config = make_config(tmp_path / "data").to_dict()
  for delete in ("data_placement", "num_cpu_devices"):
    old = json.loads(json.dumps(config))
    del old[delete]
    (tmp_path / "config.json").write_text(json.dumps(old))
    done = subprocess.run(
      [
        sys.executable, ROOT / "main.py", f"--workdir={tmp_path}",
        "--mode=eval",
      ],
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    check_error(done.stderr, f"{delete} is missing")


def resident_bytes():
  pages = Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_twenty_thousand_steps_take_no_more_memory_and_files(
  config, tmp_path, monkeypatch
):
  devices = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  config.data_placement = "host"  # A thread reads batches ahead.
  config.num_steps = 20_000
  config.log_every = 100
  config.eval_every = config.checkpoint_every = 500
  used = []
  save = checkpoints.save

  def measure_and_save(*args):
    files = len(list(Path("/proc/self/fd").iterdir()))
    threads = len(list(Path("/proc/self/task").iterdir()))
    # Memory that Python or the C library only keeps for later does not count.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    used.append((resident_bytes() / 2**20, files, threads))
    save(*args)

  monkeypatch.setattr(checkpoints, "save", measure_and_save)
  train.train(config, tmp_path)
  memory, files, threads = np.array(used).T
  assert len(memory) == 40
  print(f"memory {memory} MiB, files {files}, threads {threads}")
  # Memory and files after 2,000 steps are compared with those at the end.
  assert memory[-5:].mean() - memory[4:9].mean() < 20
  assert files[-5:].max() - files[4:9].max() < 5
  assert threads[-5:].max() - threads[4:9].max() < 5
