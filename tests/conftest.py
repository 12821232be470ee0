"""Sets up four CPU devices, fast compilation, and errors on rank promotion."""

import atexit
import ctypes
import gc
import os
from pathlib import Path
import shutil
import sys
import tempfile

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=4"
  + " --xla_backend_optimization_level=0"
)
# Many tests, and processes that they start, train the same small models. This
# cache lets them share the compiled functions.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
  atexit.register(
    shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
  )
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
from ml_collections import ConfigDict
import pytest

from slot_attention.data import datasets
from slot_attention.training import evaluate, sweep, train
from tests.runs import BINARY, SETS, make_config

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _forget_compiled_functions():
  jax.clear_caches()
  gc.collect()
  if sys.platform == "linux":
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def _little_memory():
  """Keeps a process below 3 GB, and below the memory maps that it may have."""
  yield
  process = Path("/proc/self")  # On Linux.
  if process.exists():
    pages = int((process / "statm").read_text().split()[1])  # Those in use.
    maps = (process / "maps").read_bytes().count(b"\n")  # Linux allows 65,530.
    if pages * os.sysconf("SC_PAGE_SIZE") > 2e9 or maps > 30_000:
      _forget_compiled_functions()


def draw_nothing(monkeypatch):
  """Lets evaluations draw no pictures."""
  monkeypatch.setattr(evaluate, "make_artist", lambda *_: lambda params: [])


@pytest.fixture(autouse=True)
def _few_pictures(request, monkeypatch):
  """Lets evaluations draw nothing, unless the test has `with_pictures`."""
  if "with_pictures" not in request.fixturenames:
    draw_nothing(monkeypatch)


@pytest.fixture(name="with_pictures")
def _with_pictures():
  """Lets the evaluations of a test draw pictures."""


@pytest.fixture(name="short_sweeps")
def _short_sweeps(monkeypatch):
  """Leaves T = 1 and that of training, and one K more, to sweeps."""
  monkeypatch.setattr(sweep, "SWEPT_ITERATIONS", (1,))
  monkeypatch.setattr(sweep, "SWEPT_MANY_ITERATIONS", ())
  monkeypatch.setattr(sweep, "SWEPT_MORE_SLOTS", (0, 1))


@pytest.fixture(name="data_dir", scope="session")
def _data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(name="small_data")
def _small_data(monkeypatch):
  """Adds the small data sets of `tests.runs` to those that configs name."""
  monkeypatch.setitem(datasets.DATA_SETS, "sets", SETS)
  monkeypatch.setitem(datasets.DATA_SETS, "binary", BINARY)


@pytest.fixture(name="config")
def _config(data_dir, small_data):
  return make_config(data_dir)


@pytest.fixture(name="finished_run", scope="session")
def _finished_run(data_dir, tmp_path_factory):
  """Returns a function that copies a finished run of `config` to a folder.

  The function returns the run's metrics. The run is trained only once, and has
  no pictures.
  """
  finished = tmp_path_factory.mktemp("finished")
  with pytest.MonkeyPatch.context() as monkeypatch:
    draw_nothing(monkeypatch)
    metrics = train.train(make_config(data_dir), finished)

  def copy(workdir):
    shutil.copytree(finished, workdir, dirs_exist_ok=True)
    return dict(metrics)

  return copy


@pytest.fixture(name="set_config")
def _set_config(data_dir, small_data):
  config = make_config(data_dir, "set_prediction")
  config.data.name = "sets"
  config.data.max_objects = 5
  config.data.procedural = ConfigDict({"seed": 0})
  return config
