"""Tests of the command line and of the configs, most in their own process."""

import importlib
import inspect
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

import configs
from configs import smoke as smoke_config
from slot_attention.__main__ import main
from slot_attention.command import UsageError
from slot_attention.data import loading, tetrominoes
from tests.data.test_image_files import write_folder
from tests.data.test_originals import write_records
from tests.data.test_tetrominoes import GENUINE

ROOT = Path(__file__).parents[1]
# Configs with an argument, the small ones, and the variants have other values
# than these. `tests/test_validation.py` checks all values;
# `tests/test_rivals.py` and `tests/test_successors.py` train other models.
VARIANTS = (
  "clevr6_grayscale_object_discovery",
  "clevr6_set_prediction",
  "tetrominoes_fast_object_discovery",
)
CONFIGS = [
  pytest.param(name, marks=[pytest.mark.slow] * (name != "quickstart"))
  for name in configs.names()
  if not name.endswith("_small")
  and name not in VARIANTS
  and not inspect.signature(
    importlib.import_module(f"configs.{name}").get_config
  ).parameters
]


def main_after(prelude):
  """Returns a program that runs main.py after other statements."""
  return (
    f"{prelude}\nimport runpy, sys\nsys.argv = ['main.py', *sys.argv[1:]]\n"
    f"sys.path.insert(0, {str(ROOT)!r})\n"
    f"runpy.run_path({str(ROOT / 'main.py')!r}, run_name='__main__')"
  )


def run(*arguments, cwd=ROOT, code=0, prelude=""):
  """Runs main.py on one device; returns standard output and error."""
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }
  done = subprocess.run(
    [sys.executable, "-c", main_after(prelude), *map(str, arguments)],
    cwd=cwd, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  return done.stdout, done.stderr


def smoke(name, tmp_path):
  return (
    f"--config={ROOT}/configs/smoke.py:{name}",
    f"--config.data.data_dir={tmp_path}/data",
  )


def check_error(stderr, *words):
  """Checks that the error is one line, without a traceback."""
  (line,) = [x for x in stderr.splitlines() if x.startswith("error: ")]
  assert "Traceback" not in stderr
  for word in words:
    assert word in line


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_evaluates_and_draws(name, data_dir, tmp_path):
  if name == "image_folder_object_discovery":
    folder = tmp_path / "images"
    write_folder(folder / "images", 64, masks=folder / "masks")
  arguments = [*smoke(name, tmp_path), f"--config.data.data_dir={data_dir}"]
  stdout, _ = run(*arguments, cwd=tmp_path)
  workdir = tmp_path / "runs" / f"smoke_{name}"
  lines = (workdir / "metrics.jsonl").read_text()
  assert json.loads(lines.splitlines()[-1])["step"] == 6
  assert "fg_ari" in stdout or "ap_0.125" in stdout
  assert "attention.png" in stdout


@pytest.mark.slow
def test_a_run_is_evaluated_again_and_goes_on(tmp_path):
  arguments = smoke("quickstart", tmp_path)
  stdout, _ = run(*arguments, cwd=tmp_path)
  workdir = tmp_path / "runs" / "smoke_quickstart"
  lines = (workdir / "metrics.jsonl").read_text()
  again, _ = run("--workdir=runs/smoke_quickstart", "--mode=eval", cwd=tmp_path)
  assert again.splitlines()[-5:] == stdout.splitlines()[-5:]
  prelude = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from slot_attention.training import sweep
sweep.SWEPT_ITERATIONS = (1, 4)
sweep.SWEPT_MORE_SLOTS = (0,)
"""
  swept, _ = run(*arguments, "--mode=sweep", cwd=tmp_path, prelude=prelude)
  assert "sweep.png" in swept
  run(*arguments, "--config.num_steps=7", cwd=tmp_path)
  assert (workdir / "metrics.jsonl").read_text().startswith(lines)
  assert (workdir / "checkpoints" / "7").is_dir()


def test_training_needs_neither_tensorflow_nor_the_network(tmp_path):
  """No module imports TensorFlow or matplotlib when it is imported itself.

  The page is left out, since it needs NiceGUI.
  """
  prelude = """
import socket, sys
def no_network(*_):
  raise OSError("no network")
socket.getaddrinfo = no_network
for name in ("tensorflow", "tensorflow_datasets", "tensorboard"):
  sys.modules[name] = None
"""
  arguments = smoke("tetrominoes_object_discovery", tmp_path)
  _, stderr = run(*arguments, cwd=tmp_path, prelude=prelude)
  assert "No TensorBoard files: TensorFlow is not installed." in stderr
  prelude += "sys.modules['matplotlib'] = None\n"
  modules = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "slot_attention").rglob("*.py")
    if path.parent.name != "explore"
  )
  subprocess.run(
    [sys.executable, "-c", prelude + "import " + ", ".join(["main", *modules])],
    cwd=ROOT, check=True,
  )  # fmt: skip


WITH_CTRL_C = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from slot_attention import tasks
from slot_attention.data import store
from slot_attention.training import train
# A shell that starts a process in the background has it ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
make_train_step = train.make_train_step
def with_ctrl_c(function, number=signal.SIGINT):
  def interrupted(*args, **kwargs):
    os.kill(os.getpid(), number)
    return function(*args, **kwargs)
  return interrupted
"""
# A run that is interrupted at each of these moments in turn: where Ctrl-C or
# SIGTERM comes, and how the message begins.
MOMENTS = {
  "while data is prepared": (
    "store._write_chunk = with_ctrl_c(store._write_chunk)",
    "error: interrupted; the same command goes on",
  ),
  "SIGTERM while data is prepared": (
    "store._write_chunk = with_ctrl_c(store._write_chunk, signal.SIGTERM)",
    "error: SIGTERM: the same command goes on",
  ),
  "while the parameters are made": (
    "tasks.Task.init = with_ctrl_c(tasks.Task.init)",
    "error: interrupted; the same command goes on",
  ),
  "while the first step is compiled": (
    "train.make_train_step = lambda *args: with_ctrl_c(make_train_step(*args))",
    "error: SIGINT: step 1 of 6 is saved",
  ),
}


@pytest.mark.slow
def test_ctrl_c_at_any_moment_is_one_line_and_the_command_goes_on(tmp_path):
  arguments = smoke("quickstart", tmp_path)
  for statement, words in MOMENTS.values():
    prelude = WITH_CTRL_C + statement
    _, stderr = run(*arguments, cwd=tmp_path, code=75, prelude=prelude)
    check_error(stderr, words)
    assert ("finishes this step and saves it" in stderr) == ("SIGINT" in words)
  run(*arguments, cwd=tmp_path)
  lines = (tmp_path / "runs/smoke_quickstart/metrics.jsonl").read_text()
  assert json.loads(lines.splitlines()[-1])["step"] == 6


def write_genuine(path):
  """Writes the ten genuine Tetrominoes in the format of the original file."""
  drawn = tetrominoes.render(GENUINE)
  masks = 255 * np.eye(4, dtype=np.uint8)[drawn["segments"]]
  floats = {
    "x": GENUINE.rows,
    "y": GENUINE.columns,
    "shape": GENUINE.shapes,
    "color": GENUINE.colors,
    "visibility": np.ones((10, 3)),
  }
  write_records(
    path,
    [
      {
        "image": drawn["images"][i],
        "mask": np.moveaxis(masks[i], -1, 0),
        **{
          # The background is the first entity.
          name: np.concatenate([np.zeros_like(x[i, :1]), x[i]]).astype("f4")
          for name, x in floats.items()
        },
      }
      for i in range(10)
    ],
  )
  return path


@pytest.mark.slow
def test_genuine_records_through_the_command_line(tmp_path):
  """One flag makes the same command read the original data."""
  records = write_genuine(tmp_path / "tetrominoes.tfrecords")
  stdout, _ = run(
    *smoke("tetrominoes_object_discovery", tmp_path),
    f"--workdir={tmp_path}/run",
    "--config.data.source=original",
    f"--config.data.path={records}",
    "--config.data.num_examples=10",
    "--config.data.num_train=8",
    "--config.data.num_eval=2",
  )
  assert "2 evaluation examples (original tetrominoes" in stdout
  assert (tmp_path / "run/eval_tetrominoes_original/slots.png").exists()


def test_bad_usage_ends_in_one_message_and_code_2(tmp_path):
  _, stderr = run(*smoke("quickstart", tmp_path), "x", cwd=tmp_path, code=2)
  check_error(stderr, "arguments without a flag: x")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--config.colour=1"], ["no field colour", "--config.colour=1"]),
    (["--config.model.encoder.colour=1"], ["no field colour: ", "encoder"]),
    (["--config.seed.x=1"], ["no field seed.x", "--config.seed.x=1"]),
    (["--config.seed=zero"], ["--config.seed=zero", "invalid literal"]),
    (
      ["--config=configs/nothing.py"],
      ["there is no config configs/nothing.py"],
    ),
  ],
)
def test_bad_usage_is_explained(tmp_path, monkeypatch, arguments, words):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UsageError) as error:
    main([*smoke("quickstart", tmp_path), *arguments])
  assert all(word in str(error.value) for word in words)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--config.batch_size=0"], ["batch_size=0 must be at least 1"]),
    (
      ["--config.data.procedural.image_size=36"],
      ["images of 36x36x3", "draws 16x16x3"],
    ),
    (
      ["--config.data.source=original"],
      ["images of 35x35x3", "draws 16x16x3"],
    ),
    (["--workdir=/dev/null/run"], ["/dev/null/run cannot be written"]),
    (["--mode=eval"], ["there is no run in"]),
    (
      ["--config.num_cpu_devices=3"],
      ["batch_size=8 is not a multiple of the 3 devices"],
    ),
  ],
)
def test_bad_values_end_in_one_message_and_code_1(tmp_path, arguments, words):
  _, stderr = run(
    *smoke("quickstart", tmp_path), *arguments, cwd=tmp_path, code=1
  )
  check_error(stderr, *words)


def test_damaged_data_ends_in_one_message_and_nothing_is_lost(tmp_path):
  config = smoke_config.get_config("quickstart")
  config.data.data_dir = str(tmp_path / "data")
  path = loading.prepare(config.data) / "images.npy"
  damaged = bytearray(path.read_bytes())
  damaged[-1] ^= 1
  path.write_bytes(damaged)
  _, stderr = run(*smoke("quickstart", tmp_path), cwd=tmp_path, code=1)
  check_error(stderr, str(path.parent), "checksum", "Delete that folder")
  assert path.read_bytes() == damaged


def test_truncated_records_end_in_one_message(tmp_path):
  records = write_genuine(tmp_path / "tetrominoes.tfrecords")
  records.write_bytes(records.read_bytes()[:1500])
  _, stderr = run(
    *smoke("tetrominoes_object_discovery", tmp_path),
    "--config.data.source=original",
    f"--config.data.path={records}",
    "--config.data.num_examples=10",
    "--config.data.num_train=8",
    "--config.data.num_eval=2",
    cwd=tmp_path,
    code=1,
  )
  check_error(stderr, str(records), "truncated")
  assert not any((tmp_path / "data").glob("[!.]*"))  # Nothing to train on.


def test_without_config_and_workdir_there_is_nothing_to_do(tmp_path):
  _, stderr = run(cwd=tmp_path, code=2)
  check_error(stderr, "give --config or --workdir")
  _, stderr = run("--config=quickstart", "--workdir=", cwd=tmp_path, code=2)
  check_error(stderr, "--workdir is empty: it must name a folder")
  assert not list(tmp_path.iterdir())


def test_missing_records_are_named(tmp_path):
  _, stderr = run(
    *smoke("tetrominoes_object_discovery", tmp_path),
    "--config.data.source=original",
    "--config.data.path=nothing",
    cwd=tmp_path,
    code=1,
  )
  check_error(stderr, "there is no TFRecord file nothing")


def test_verbosity_shows_where_an_error_happened(tmp_path):
  _, stderr = run(
    *smoke("quickstart", tmp_path),
    "--config.task=sleep", "--verbosity=1", cwd=tmp_path, code=1,
  )  # fmt: skip
  assert "Traceback" in stderr
