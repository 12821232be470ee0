"""Data parallelism over all devices of all processes.

This is the only module that calls `jax.pmap`, which is in maintenance mode.
`training.train` and `training.compilation` also rely on the shapes below.

A batch [B, ...] is split along its first axis into equal parts for the
processes. Each process loads only its own part and splits it into equal parts
for its devices, [local devices, B / devices, ...]. Replicated arrays have the
shape [local devices, ...] in each process.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import signal
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

_AXIS = "batch"


def join_cluster(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Connects this process to the other processes, if there are any.

  Call this before the first use of a device. Without arguments, JAX detects the
  cluster (TPU pods, SLURM, Open MPI, and Kubernetes with the kubernetes
  package). If it detects none, the process works alone.

  Args:
    coordinator_address: HOST:PORT of process 0.
    num_processes: number of processes. If it is 1, the process works alone, and
      no cluster is detected.
    process_id: number of this process, from 0.

  Raises:
    ValueError: if only some of the three arguments are given and num_processes
      is not 1, or process_id is out of range.
    RuntimeError: if the other processes do not connect.
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
      "--coordinator_address, --num_processes and --process_id must be given"
      " together"
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id} must be from 0 to {num_processes - 1}"
    )
  logging.info(
    "Process %d of %d is waiting for the others at %s",
    process_id,
    num_processes,
    coordinator_address,
  )
  jax.distributed.initialize(*cluster, cluster_detection_method="deactivate")


def is_first_process() -> bool:
  """Returns whether this is the process that writes files and progress."""
  return jax.process_index() == 0


def num_devices() -> int:
  """Returns the number of devices of all processes together."""
  return jax.process_count() * jax.local_device_count()


def data_parallel(
  function: Callable,
  donate_argnums: Sequence[int] = (),
  devices: Sequence[jax.Device] | None = None,
) -> Callable:
  """Compiles a function of replicated and sharded arrays for all devices.

  Args:
    function: of arrays without their first axis, which is that of the devices.
    donate_argnums: positions of the arguments that a call consumes.
    devices: for which it is compiled; None takes those that are there.
  """
  return jax.pmap(
    function,
    axis_name=_AXIS,
    donate_argnums=donate_argnums,
    devices=devices,
  )


def mean_over_devices(tree: Any) -> Any:
  """Averages values over all devices, inside a `data_parallel` function."""
  return jax.lax.pmean(tree, _AXIS)


def own_part(array: np.ndarray) -> np.ndarray:
  """Returns the part of an array [B, ...] that belongs to this process."""
  size = len(array) // jax.process_count()
  return array[jax.process_index() * size :][:size]


def shard(tree: Any) -> Any:
  """Distributes arrays, this process' part of a batch, over its devices."""
  return jax.tree.map(
    lambda x: jax.device_put(
      x.reshape(jax.local_device_count(), -1, *x.shape[1:]), _sharding()
    ),
    tree,
  )


def unshard(tree: Any) -> Any:
  """Gathers sharded arrays from all processes as host arrays [B, ...]."""
  return jax.tree.map(
    lambda x: gather(x.reshape(-1, *x.shape[2:])), jax.device_get(tree)
  )


def replicate(tree: Any) -> Any:
  """Copies arrays [...] to every device, as [local devices, ...]."""

  def copy(x):
    # On the host, this is a view. On a device, each shape would be compiled.
    copies = np.broadcast_to(x, (jax.local_device_count(), *x.shape))
    return jax.device_put(copies, _sharding())

  return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
  """Returns the first device's copy of replicated arrays."""
  return _without_first_axis(_first_shards(tree))


def on_host(tree: Any) -> Any:
  """Returns the first device's copy of replicated arrays as host arrays."""
  return jax.tree.map(lambda x: x[0], jax.device_get(_first_shards(tree)))


def gather(array: np.ndarray) -> np.ndarray:
  """Concatenates the arrays [n, ...] of all processes in every process."""
  return multihost_utils.process_allgather(array, tiled=True)


def any_process(flag: bool) -> bool:
  """Returns whether the flag is set in any process.

  All processes must call this function; it waits for all of them.
  """
  return bool(gather(np.array([flag])).any())


def wait_for_all() -> None:
  """Waits until all processes have called this."""
  any_process(False)


def check_agreement(values: Mapping[str, int]) -> None:
  """Raises a ValueError in all processes if their values differ.

  Args:
    values: dict from name to value, from 0 to 2**31 - 1.
  """
  all_values = gather(np.array([list(values.values())], np.int32))
  for name, column in zip(values, all_values.T):
    if (column != column[0]).any():
      raise ValueError(
        f"the processes do not have the same {name}: {column.tolist()}"
      )


def agree_to_stop(stop: bool, dispatch: int) -> bool:
  """Returns whether all processes stop after this dispatch.

  All processes must call this function after every dispatch. If there are
  several, JAX catches SIGTERM: once one process receives it, they agree on a
  dispatch soon after. Until then, the call only reads a local flag.

  Args:
    stop: whether this process asks all to stop.
    dispatch: number of finished dispatches. It must grow by one with each call:
      JAX stops at the number after the highest one that any process has
      reached, and a process that skips this number would not stop.
  """
  if jax.process_count() == 1:
    return stop
  if stop:
    os.kill(os.getpid(), signal.SIGTERM)
  return multihost_utils.reached_preemption_sync_point(dispatch)


def _first_shards(tree):
  return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


@jax.jit  # A single program, where indexing would compile two for each shape.
def _without_first_axis(tree):
  return jax.tree.map(lambda x: x[0], tree)


def _sharding() -> jax.sharding.NamedSharding:
  # pmap returns this sharding. Any other would make it compile again.
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(_AXIS))
