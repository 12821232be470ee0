"""Data parallelism over the local devices. pmap stands here and nowhere else.

`jax.pmap` is in maintenance mode; whatever replaces it replaces this module.
A batch is split along its first axis: [B, ...] to [devices, B / devices, ...].
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_AXIS = "batch"


def num_devices() -> int:
  """Devices that share a batch."""
  return jax.local_device_count()


def data_parallel(
  function: Callable, donate_argnums: Sequence[int] = ()
) -> Callable:
  """Compiles a function of replicated and sharded arguments for all devices."""
  return jax.pmap(function, axis_name=_AXIS, donate_argnums=donate_argnums)


def mean_over_devices(tree: Any) -> Any:
  """Mean of per-device values, inside `data_parallel`."""
  return jax.lax.pmean(tree, _AXIS)


def check_divisible(field: str, batch_size: int) -> None:
  """Raises a ValueError unless the devices can share a batch equally."""
  if batch_size < 1 or batch_size % num_devices():
    raise ValueError(
      f"{field}={batch_size} is not a multiple of the {num_devices()} devices"
      " that share a batch"
    )


def shard(tree: Any) -> Any:
  """Puts arrays [B, ...] onto the devices, in equal parts."""
  return jax.tree.map(
    lambda x: jax.device_put(
      x.reshape(num_devices(), -1, *x.shape[1:]), _sharding()
    ),
    tree,
  )


def unshard(tree: Any) -> Any:
  """Brings arrays [devices, B / devices, ...] to the host as [B, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(tree)
  )


def replicate(tree: Any) -> Any:
  """Copies arrays to every device: [...] to [devices, ...]."""

  def copy(x):
    # Host arrays, which may be large, are not copied on their way.
    library = np if isinstance(x, np.ndarray) else jnp
    copies = library.broadcast_to(x, (num_devices(), *x.shape))
    return jax.device_put(copies, _sharding())

  return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
  """The first device's copy."""
  return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def _sharding() -> jax.sharding.NamedSharding:
  # What pmap returns; anything else would compile its function once more.
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(_AXIS))
