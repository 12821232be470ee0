"""Four CPU devices, cheap compilation, and no silent broadcasting of ranks."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=4"
  + " --xla_backend_optimization_level=0"
)

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same small models are trained over and over.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_functions():
  """Or a process would come to hold more of them than it may map."""
  yield
  jax.clear_caches()
