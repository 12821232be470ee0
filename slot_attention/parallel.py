"""Data parallelism over all devices of all processes. pmap stands here only.

`jax.pmap` is in maintenance mode; whatever replaces it replaces this module.
A batch [B, ...] is cut along its first axis: into equal parts for the
processes, each of which only loads its own, and those into equal parts for the
process' devices, [local devices, B / devices, ...]. Every process holds its own
copies of what is replicated, [local devices, ...].
"""

from collections.abc import Callable, Mapping, Sequence
import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

_AXIS = "batch"


def join_cluster(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Connects this process to the others, if there are any.

  To be called before the first use of a device. Without arguments the cluster
  is the one JAX detects (TPU pods, SLURM, Open MPI, Kubernetes with the
  kubernetes package); where it detects none, the process is alone.

  Args:
    coordinator_address: HOST:PORT of process 0.
    num_processes: of the cluster; 1 is alone, whatever could be detected.
    process_id: of this one, from 0.

  Raises:
    ValueError: unless all three are given, or none, or num_processes=1.
    RuntimeError: if the others do not come.
  """
  cluster = (coordinator_address, num_processes, process_id)
  if num_processes == 1:
    return
  if cluster == (None, None, None):
    try:
      jax.distributed.initialize()
    except ValueError as error:
      if "coordinator_address should be defined" not in str(error):
        raise
    return
  if None in cluster:
    raise ValueError(
      "--coordinator_address, --num_processes and --process_id go together"
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id} must be from 0 to {num_processes - 1}"
    )
  jax.distributed.initialize(*cluster, cluster_detection_method="deactivate")


def is_first_process() -> bool:
  """Whether this process writes and shows what all of them know."""
  return jax.process_index() == 0


def num_devices() -> int:
  """Devices that share a batch; every process has equally many."""
  return jax.process_count() * jax.local_device_count()


def data_parallel(
  function: Callable, donate_argnums: Sequence[int] = ()
) -> Callable:
  """Compiles a function of replicated and sharded arguments for all devices."""
  return jax.pmap(function, axis_name=_AXIS, donate_argnums=donate_argnums)


def mean_over_devices(tree: Any) -> Any:
  """Mean of per-device values, inside `data_parallel`."""
  return jax.lax.pmean(tree, _AXIS)


def own_part(array: np.ndarray) -> np.ndarray:
  """This process' part of [B, ...]."""
  size = len(array) // jax.process_count()
  return array[jax.process_index() * size :][:size]


def shard(tree: Any) -> Any:
  """Puts this process' part of arrays [B, ...] onto its devices."""
  return jax.tree.map(
    lambda x: jax.device_put(
      x.reshape(jax.local_device_count(), -1, *x.shape[1:]), _sharding()
    ),
    tree,
  )


def unshard(tree: Any) -> Any:
  """Brings what `shard` cut, from all processes, to every host as [B, ...]."""
  return jax.tree.map(
    lambda x: gather(x.reshape(-1, *x.shape[2:])), jax.device_get(tree)
  )


def replicate(tree: Any) -> Any:
  """Copies arrays to every device: [...] to [local devices, ...]."""

  def copy(x):
    # Host arrays, which may be large, are not copied on their way.
    library = np if isinstance(x, np.ndarray) else jnp
    copies = library.broadcast_to(x, (jax.local_device_count(), *x.shape))
    return jax.device_put(copies, _sharding())

  return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
  """The first device's copy."""
  return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def gather(array: np.ndarray) -> np.ndarray:
  """Joins the processes' arrays [n, ...] to [processes * n, ...]."""
  return multihost_utils.process_allgather(array, tiled=True)


def any_process(flag: bool) -> bool:
  """Whether a flag is set in any process. All wait for each other."""
  return bool(gather(np.array([flag])).any())


def check_agreement(values: Mapping[str, int]) -> None:
  """Raises a ValueError in all processes if their values differ.

  Args:
    values: by name, from 0 to 2**31 - 1.
  """
  all_values = gather(np.array([list(values.values())], np.int32))
  for name, column in zip(values, all_values.T):
    if (column != column[0]).any():
      raise ValueError(
        f"the processes do not have the same {name}: {column.tolist()}"
      )


def agree_to_stop(stop: bool, dispatch: int) -> bool:
  """Whether all processes stop after this dispatch, of which all are asked.

  Where there are many, this only looks at a flag of the process: SIGTERM to one
  of them makes all agree on a step soon after it. It is JAX that catches
  SIGTERM then.

  Args:
    stop: whether this process wants to.
    dispatch: that it has done, one more each time: JAX picks the one after the
      last that any process has reached, and waits for just its number.
  """
  if jax.process_count() == 1:
    return stop
  if stop:
    os.kill(os.getpid(), signal.SIGTERM)
  return multihost_utils.reached_preemption_sync_point(dispatch)


def _sharding() -> jax.sharding.NamedSharding:
  # What pmap returns; anything else would compile its function once more.
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(_AXIS))
