"""Tests of compiling for TPUs; some need libtpu, which `jax[tpu]` installs."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
import types

import jax
import pytest

import configs
import main
from slot_attention import command, validation
from slot_attention.training import chips, compilation, train

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
  not importlib.util.find_spec("libtpu"), reason="libtpu is not installed"
)
# What a compiler says of a step that needs 1 GiB and 2 GiB of examples.
FACTS = {
  "topology": "v5e:4x4",
  "chips": 16,
  "hosts": 4,
  "batch_size": 64,
  "compute_dtype": "float32",
  "num_steps": 7200,
  "seconds_to_compile": 90.0,
  "argument_bytes": 2**28,
  "output_bytes": 2**28,
  "unaliased_bytes": 2**27,
  "temporary_bytes": 2**29,
  "code_bytes": 2**27,
  "data_bytes": 2 * 2**30,
  "operations": 197e12 * 1.5,
  "bytes_accessed": 819e9 * 3,
  "main_memory_bytes": 819e9 * 2,
  "loops": 3,
  "fusions": 500,
  "collectives": {"all-reduce": 1},
  "host_transfers": {},
  "donated": 150,
  "aliased": 150,
  "compiler_seconds": None,
}


def compile_in_own_process(name, topology, **changes):
  """Compiles a step; returns standard output, which has its facts, and error.

  The compiler of TPUs shall not see the flags of the tests.
  """
  program = f"""
import json, sys
import configs
from slot_attention.training import compilation
config = configs.load({name!r})
config.update({changes!r})
json.dump(compilation.compile_step(config, {topology!r}), sys.stdout)
"""
  names = ("XLA_FLAGS", "JAX_PLATFORMS")
  return subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT, capture_output=True, text=True,
    env={k: v for k, v in os.environ.items() if k not in names},
  )  # fmt: skip


@needs_libtpu
@pytest.mark.parametrize(
  "name, topology",
  [
    ("tetrominoes_object_discovery", "v5e:2x2"),
    ("clevr_set_prediction", "v5e:2x4"),
  ],
)
def test_a_step_reduces_once_and_never_asks_the_host(name, topology):
  done = compile_in_own_process(f"smoke:{name}", topology)
  assert done.returncode == 0, done.stderr
  facts = json.loads(done.stdout)
  assert facts["collectives"] == {"all-reduce": 1}
  assert facts["host_transfers"] == {}
  assert facts["aliased"] == facts["donated"] > 100
  assert 0 < facts["main_memory_bytes"] < facts["bytes_accessed"]
  assert facts["chips"] == chips.number(topology)
  assert 0 < facts["unaliased_bytes"] < 2**12 < facts["argument_bytes"]


@needs_libtpu
def test_a_step_that_needs_too_much_memory_says_how_much():
  done = compile_in_own_process(
    "smoke:tetrominoes_object_discovery", "v5e:1x1", batch_size=2**20
  )
  assert "DoesNotFitError: the step needs " in done.stderr, done.stderr
  assert " on each chip of v5e:1x1, which has 15.75 GiB for it" in done.stderr


@needs_libtpu
def test_the_command_needs_neither_data_nor_a_folder(tmp_path):
  done = subprocess.run(
    [
      sys.executable, ROOT / "main.py", "--mode=compile",
      f"--config={ROOT}/configs/smoke.py:clevr_set_prediction",
      "--topology=v4:2x2x1",
    ],
    cwd=tmp_path, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "v4:2x2x1: 4 chip(s) of 1 host(s), 2 images each" in done.stdout
  assert not list(tmp_path.iterdir())


def test_every_topology_has_a_number_of_chips():
  assert chips.number("v5e:16x16") == 256
  assert chips.number("v5p:2x2x4") == 16
  assert all(map(chips.number, chips.TOPOLOGIES))


def test_an_unknown_topology_is_refused():
  with pytest.raises(ValueError, match="'v5e:3x3' is not one of v4:2x2x1, "):
    chips.number("v5e:3x3")
  arguments = ["--config=configs/quickstart.py", "--mode=compile"]
  with pytest.raises(command.UsageError, match="v5e:3x3.*v5e:2x2"):
    main.main([*arguments, "--topology=v5e:3x3"])
  with pytest.raises(command.UsageError, match="needs --topology"):
    main.main(arguments)


def test_a_batch_that_the_chips_cannot_share_is_refused():
  config = configs.load("clevr6_object_discovery")
  message = "batch_size=64 is not a multiple of the 256 devices"
  with pytest.raises(ValueError, match=message):
    compilation.compile_step(config, "v5e:16x16")


def test_without_its_compiler_the_command_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  config = configs.load("clevr6_object_discovery")
  with pytest.raises(ImportError, match=r'pip install "jax\[tpu\]"'):
    compilation.compile_step(config, "v5e:4x4")


@pytest.mark.parametrize(
  "message",
  [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
    " for HLO temporaries (25.20G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 25.20G of"
    " 15.75G hbm. Exceeded hbm capacity by 9.45G.",
  ],
)
def test_what_the_compiler_says_of_memory_is_understood(message, monkeypatch):
  def fail(*_):
    raise jax.errors.JaxRuntimeError(message)

  step = types.SimpleNamespace(lower=fail)
  monkeypatch.setattr(chips, "devices", lambda _: [None] * 16)
  monkeypatch.setattr(train, "make_train_step", lambda *_: step)
  config = configs.load("clevr_set_prediction")
  expected = (
    "25.2 GiB on each .* 15.75 GiB for it: enough for about 20 of the 32"
  )
  with pytest.raises(compilation.DoesNotFitError, match=expected):
    compilation.compile_step(config, "v5e:4x4")
  message = "INTERNAL: 3G of 4G"
  with pytest.raises(jax.errors.JaxRuntimeError):
    compilation.compile_step(config, "v5e:4x4")


def describe(monkeypatch, fits, name="clevr6_object_discovery"):
  """Describes a config; `fits` says whether a changed one does."""
  compiled = []

  def compile_step(config, topology):
    compiled.append(config)
    if not fits(config):
      raise compilation.DoesNotFitError("too large")
    return FACTS

  monkeypatch.setattr(compilation, "compile_step", compile_step)
  config = validation.checked(configs.load(name))
  try:
    compilation.describe(config, "v5e:4x4")
  finally:
    assert compiled[0].model == config.model


def test_a_step_that_does_not_fit_names_the_first_change_that_makes_it_fit(
  monkeypatch,
):
  with pytest.raises(
    compilation.DoesNotFitError,
    match="too large. With --config.compute_dtype=bfloat16 it takes 3 GiB and"
    " fits",
  ):
    describe(monkeypatch, lambda config: config.compute_dtype == "bfloat16")
  with pytest.raises(
    compilation.DoesNotFitError,
    match="With --config.model.decoder.remat_chunk_size=8 it takes",
  ):
    describe(monkeypatch, lambda x: x.model.decoder.remat_chunk_size == 8)


def test_a_step_that_fits_without_its_examples_says_so(monkeypatch):
  monkeypatch.setitem(FACTS, "data_bytes", 15.5 * 2**30)
  with pytest.raises(
    compilation.DoesNotFitError,
    match="too large. With --config.compute_dtype=bfloat16"
    " --config.data_placement=host it takes 1 GiB and fits",
  ):
    describe(monkeypatch, lambda config: config.compute_dtype == "bfloat16")


def test_a_step_that_never_fits_needs_a_smaller_batch(monkeypatch):
  message = "too large. Take a smaller batch_size or more chips"
  for name in (
    "clevr6_object_discovery",
    "clevr_set_prediction",
    "iodine:clevr6_object_discovery",  # It has no other compute_dtype.
  ):
    with pytest.raises(compilation.DoesNotFitError, match=message):
      describe(monkeypatch, lambda config: False, name)


def test_examples_that_do_not_fit_can_stay_on_the_hosts(monkeypatch):
  monkeypatch.setitem(FACTS, "data_bytes", 15.5 * 2**30)
  with pytest.raises(
    compilation.DoesNotFitError,
    match="needs 16.5 GiB .* 16 GiB. 15.5 GiB of them are examples, which"
    " --config.data_placement=host",
  ):
    describe(monkeypatch, lambda config: True)


def test_examples_on_the_hosts_are_not_advised_to_go_there(monkeypatch):
  monkeypatch.setitem(FACTS, "data_bytes", 0)
  monkeypatch.setitem(FACTS, "temporary_bytes", 2**40)
  message = "16 GiB. Take a smaller batch_size or more chips"
  with pytest.raises(compilation.DoesNotFitError, match=message):
    describe(monkeypatch, lambda config: True)


def test_the_table_says_what_is_computed(monkeypatch, capsys):
  describe(monkeypatch, lambda config: True)
  table = capsys.readouterr().out
  assert "16 chip(s) of 4 host(s), 4 images each; float32" in table
  assert "3 GiB of 16 GiB" in table
  assert "computed, not measured" in table
  assert "no estimate" in table
  assert "2e+03 to 3e+03 ms: 1.5e+03 by arithmetic" in table
  assert "4 to 6 hours for 7,200 steps" in table
  assert "64 to 96" in table
  assert "3, whose bodies count once in what follows" in table


def test_the_roofline_by_hand():
  assert compilation.estimate(FACTS) == {
    "arithmetic_seconds": 1.5,
    "main_memory_seconds": 2.0,
    "all_memory_seconds": 3.0,
    "least_seconds": 2.0,
    "fetching_seconds": 3.0,
    "least_hours": 4.0,  # Of 7,200 steps.
    "fetching_hours": 6.0,
  }
  busy = {**FACTS, "operations": 197e12 * 5}
  assert compilation.estimate(busy)["least_seconds"] == 5
  assert compilation.estimate(busy)["fetching_seconds"] == 5


@pytest.mark.parametrize(
  "name, size",
  [
    ("tetrominoes_object_discovery", 35 * 35 * 4),
    ("multi_dsprites_binarized_object_discovery", 64 * 64 * 2),
    ("clevr_set_prediction", 128 * 128 * 4 + 4 * 10 * 19),
  ],
)
def test_examples_count_once_on_each_chip(name, size):
  config = configs.load(name)
  data = config.data
  task = types.SimpleNamespace(num_outputs=19 * ("set" in name))
  expected = size * (data.num_train + data.num_eval)
  assert compilation._data_bytes(config, task) == expected
  config.data_placement = "host"
  assert compilation._data_bytes(config, task) == 0
