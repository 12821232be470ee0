"""Keeps the programs that XLA compiles, so that the next start has them."""

import hashlib
import os
from pathlib import Path
import platform
import re
import tempfile

from absl import logging
import jax

_MAX_BYTES = 2**30  # JAX removes the programs used longest ago.


def default_folder() -> str:
  """Returns a folder for compiled programs in the user's cache, or "".

  A user without a home has no cache. A program for one CPU may crash on another
  that has fewer instructions. Each kind of CPU therefore has its own folder,
  for homes that several machines use.
  """
  features = platform.processor()
  information = Path("/proc/cpuinfo")
  if information.exists():
    # "flags" on x86, "Features" on ARM.
    pattern = r"^(?:flags|Features)\s*:(.*)$"
    (features, *_) = re.findall(pattern, information.read_text(), re.M) or [""]
  digest = hashlib.sha256(f"{platform.machine()} {features}".encode())
  root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  if root.startswith("~"):
    return ""
  return str(Path(root, "slot_attention", f"compiled-{digest.hexdigest()[:8]}"))


def keep(folder: str) -> None:
  """Turns on JAX's compilation cache, if JAX has no other setting for it.

  Args:
    folder: where to keep the programs; "" keeps none.
  """
  if not folder or jax.config.jax_compilation_cache_dir:
    return
  if "onednn_custom_call=true" in os.environ.get("XLA_FLAGS", ""):
    logging.info("Compiled programs are not kept: XLA cannot save oneDNN's.")
    return
  try:
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    logging.info("Compiled programs are not kept in %s: %s", folder, error)
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  # A limit also makes JAX lock the cache while it reads and writes.
  jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
