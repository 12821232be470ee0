"""The TPUs for which a step can be compiled on a machine that has none.

A slice of TPUs is named by the kind of its chips and by how many of them stand
along each axis: "v5e:4x4".
"""

from collections.abc import Mapping
import dataclasses
import importlib.util
import math
import os

import jax
from jax.experimental import topologies

from slot_attention.checks import check_choice

# What libtpu reads: there is no chip and no cluster to ask, and another process
# may compile at the same time.
_ENVIRONMENT = {
  "TPU_HOST_BOUNDS": "1,1,1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU chip, by the numbers that its maker publishes.

  Attributes:
    operations_per_second: for bfloat16 inputs. The matrix units also round
      float32 inputs to them, unless `jax_default_matmul_precision` says
      otherwise.
    bytes_per_second: between the chip and its memory.
    memory_bytes: of that memory.
    shapes: of slices, as chips along each axis.
    options: of the description of a slice, so that a chip is one device.
  """

  operations_per_second: float
  bytes_per_second: float
  memory_bytes: int
  shapes: tuple[str, ...]
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_MEGACORE = {"chip_config_name": "megacore"}
# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm
CHIPS = {
  "v4": Chip(275e12, 1228e9, 32 * 2**30, _CUBIC, _MEGACORE),
  "v5e": Chip(197e12, 819e9, 16 * 2**30, _FLAT),
  "v5p": Chip(459e12, 2765e9, 95 * 2**30, _CUBIC),
  "v6e": Chip(918e12, 1640e9, 32 * 2**30, _FLAT),
}
TOPOLOGIES = tuple(
  f"{name}:{shape}" for name, chip in CHIPS.items() for shape in chip.shapes
)


def of(topology: str) -> Chip:
  """Returns the chip of a slice of TPUs.

  Raises:
    ValueError: if there is no such topology; names the choices.
  """
  check_choice("topology", topology, TOPOLOGIES)
  return CHIPS[topology.partition(":")[0]]


def number(topology: str) -> int:
  """Returns the number of chips of a slice of TPUs.

  Raises:
    ValueError: if there is no such topology; names the choices.
  """
  check_choice("topology", topology, TOPOLOGIES)
  _, _, shape = topology.partition(":")
  return math.prod(map(int, shape.split("x")))


def devices(topology: str) -> list[jax.Device]:
  """Returns the devices of a slice of TPUs, on which nothing can run.

  There is one for each chip. JAX then uses the CPU of this machine, and no
  compilation cache, because programs for absent devices cannot be loaded from
  it. Call this before the first use of a device.

  Args:
    topology: chip and shape, for example "v5e:4x4".

  Raises:
    ImportError: if the compiler of TPUs is not installed.
  """
  if not importlib.util.find_spec("libtpu"):
    raise ImportError(
      'the compiler of TPUs is not installed: pip install "jax[tpu]"'
    )
  os.environ.update(_ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  return topologies.get_topology_desc(
    topology, platform="tpu", **of(topology).options
  ).devices
