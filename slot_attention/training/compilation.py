"""Compiles the train step for TPUs on a machine that has none.

The compiler of TPUs comes with `pip install "jax[tpu]"` and runs on any x86-64
Linux machine. It says how much memory a step needs on a chip. The time of a
step is not measured; it is computed from the chip's published numbers.
"""

from collections.abc import Mapping
import math
import re
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections

from slot_attention import tasks, validation
from slot_attention.data import clevr, datasets
from slot_attention.training import chips, optimizers, programs, train

_COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_HOST_TRANSFERS = ("infeed", "outfeed", "send", "recv")
# Changes that may make a step fit, in the order in which they are tried.
# They are bfloat16, rematerialisation in the decoder, or both.
_REMEDIES = ((True, False), (False, True), (True, True))


class DoesNotFitError(ValueError):
  """The step needs more memory than a chip has."""


def describe(config: ml_collections.ConfigDict, topology: str) -> None:
  """Compiles the train step for a slice of TPUs and prints what it needs.

  Args:
    config: that `validation.checked` has returned.
    topology: chip and shape of the slice, for example "v5e:4x4".

  Raises:
    ValueError: for an unknown topology, or a batch that its chips cannot share.
    DoesNotFitError: says what would fit.
    ImportError: if the compiler of TPUs is not installed.
  """
  try:
    facts = compile_step(config, topology)
  except DoesNotFitError as error:
    remedy = _find_remedy(config, topology)
    raise DoesNotFitError(f"{error}. {remedy}") from error
  needed, limit = memory_bytes(facts), chips.of(topology).memory_bytes
  if needed > limit:
    if needed - facts["data_bytes"] <= limit:
      remedy = (
        f"{_size(facts['data_bytes'])} of them are examples, which"
        " --config.data_placement=host leaves on the hosts"
      )
    else:
      remedy = _find_remedy(config, topology)
    raise DoesNotFitError(
      f"training needs {_size(needed)} on each chip of {topology}, which has"
      f" {_size(limit)}. {remedy}"
    )
  for name, value in to_rows(facts):
    print(f"{name:<24} {value}".rstrip())


def compile_step(
  config: ml_collections.ConfigDict, topology: str
) -> dict[str, Any]:
  """Compiles the train step and returns what the compiler says of it.

  Returns:
    A dict of
      topology, chips, hosts, config's batch_size, compute_dtype and num_steps;
      seconds_to_compile: on this machine;
      argument_bytes, output_bytes, temporary_bytes, code_bytes: of one call on
        each chip. The outputs lie in the place of donated arguments, except
        unaliased_bytes;
      data_bytes: at most, of the examples that lie on each chip;
      operations, bytes_accessed: of one step on each chip, as the compiler
        counts them, in all memories. Loops inside a step count once;
      main_memory_bytes: those of them in the chip's main memory, counted from
        the text of the program;
      loops: number of loops, that over the steps of a dispatch included;
      fusions: number of instructions that XLA has made of several;
      collectives, host_transfers: dicts of the number of each kind in a step;
      donated, aliased: number of arrays of the state, and of those whose place
        the next state takes;
      compiler_seconds: the compiler's own estimate of a step, None if it has
        none.

  Raises:
    ValueError, DoesNotFitError, ImportError: see `describe`.
  """
  config = validation.checked(
    config, num_devices=chips.number(topology), is_trained=True
  )
  devices = chips.devices(topology)
  task = tasks.make_task(config)
  optimizer, _ = optimizers.from_config(config)
  state, batch = _abstract(config, task, optimizer, len(devices))
  step = train.make_train_step(
    task, optimizer, jax.random.key(config.seed), devices
  )
  start = time.monotonic()
  try:
    compiled = step.lower(state, batch).compile()
  except jax.errors.JaxRuntimeError as error:
    share = config.batch_size // len(devices)
    problem = _explain(str(error), topology, share)
    if not problem:
      raise
    raise DoesNotFitError(problem) from error
  seconds = time.monotonic() - start
  memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
  text = compiled.as_text()
  return {
    "topology": topology,
    "chips": len(devices),
    "hosts": len({device.process_index for device in devices}),
    "batch_size": config.batch_size,
    "compute_dtype": config.compute_dtype,
    "num_steps": config.num_steps,
    "seconds_to_compile": seconds,
    "argument_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "unaliased_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
    "data_bytes": _data_bytes(config, task),
    "operations": costs["flops"],
    "bytes_accessed": costs["bytes accessed"],
    "main_memory_bytes": programs.main_memory_bytes(text),
    "loops": programs.count(text, ["while"]).get("while", 0),
    "fusions": programs.count(text, ["fusion"]).get("fusion", 0),
    "collectives": programs.count(text, _COLLECTIVES),
    "host_transfers": programs.count(text, _HOST_TRANSFERS),
    "donated": len(jax.tree.leaves(state)),
    "aliased": programs.count_aliased(text),
    "compiler_seconds": max(costs.get("optimal_seconds", 0), 0) or None,
  }


def estimate(facts: Mapping[str, Any]) -> dict[str, float]:
  """Computes times of a step and of the run by the roofline model.

  A step cannot be faster than its operations at the chip's published peak, nor
  than its bytes in the main memory at the published bandwidth. The longer of
  the two is least_seconds. Some of the bytes that the compiler counts lie in
  memory on the chip, whose bandwidth is not published; fetching_seconds assumes
  that all of them lie in the main memory. A real step can take longer still: a
  matrix unit is not full if a layer has fewer features than the unit has
  columns, short instructions and the loops of the matching wait for each other,
  and chips wait for the gradients of the others.

  Args:
    facts: see `compile_step`.

  Returns:
    A dict of arithmetic_seconds, main_memory_seconds, all_memory_seconds,
    least_seconds and fetching_seconds of a step, and of least_hours and
    fetching_hours of all steps of the run.
  """
  chip = chips.of(facts["topology"])
  arithmetic = facts["operations"] / chip.operations_per_second
  main_memory = facts["main_memory_bytes"] / chip.bytes_per_second
  all_memory = facts["bytes_accessed"] / chip.bytes_per_second
  least, fetching = max(arithmetic, main_memory), max(arithmetic, all_memory)
  return {
    "arithmetic_seconds": arithmetic,
    "main_memory_seconds": main_memory,
    "all_memory_seconds": all_memory,
    "least_seconds": least,
    "fetching_seconds": fetching,
    "least_hours": least * facts["num_steps"] / 3600,
    "fetching_hours": fetching * facts["num_steps"] / 3600,
  }


def memory_bytes(facts: Mapping[str, Any]) -> int:
  """Returns the bytes that training needs on each chip, at most."""
  parts = ("argument", "unaliased", "temporary", "code", "data")
  return sum(facts[f"{part}_bytes"] for part in parts)


def to_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Describes what `compile_step` has returned, as pairs of name and value."""
  chip = chips.of(facts["topology"])
  times = estimate(facts)
  estimated = facts["compiler_seconds"]
  each = facts["batch_size"] // facts["chips"]
  return [
    (
      "slice",
      f"{facts['topology']}: {facts['chips']} chip(s) of {facts['hosts']}"
      f" host(s), {each} images each; {facts['compute_dtype']}",
    ),
    ("compiled in", f"{facts['seconds_to_compile']:.0f} s, on this machine"),
    (
      "memory of a chip",
      f"{_size(memory_bytes(facts))} of {_size(chip.memory_bytes)}",
    ),
    ("  arguments", _size(facts["argument_bytes"])),
    ("  outputs beside them", _size(facts["unaliased_bytes"])),
    ("  temporary arrays", _size(facts["temporary_bytes"])),
    ("  code", _size(facts["code_bytes"])),
    ("  examples, at most", _size(facts["data_bytes"])),
    ("loops", f"{facts['loops']}, whose bodies count once in what follows"),
    ("operations", f"{facts['operations'] / 1e9:,.4g} GFLOP a step and chip"),
    (
      "bytes accessed",
      f"{_size(facts['bytes_accessed'])} a step and chip,"
      f" {_size(facts['main_memory_bytes'])} in the main memory",
    ),
    ("collectives", _counted(facts["collectives"])),
    ("transfers to hosts", _counted(facts["host_transfers"])),
    ("computed, not measured", ""),
    (
      "  a step",
      f"{_range(times, 'seconds', 1e3)} ms:"
      f" {_number(times['arithmetic_seconds'], 1e3)} by arithmetic,"
      f" {_number(times['main_memory_seconds'], 1e3)} by the main memory,"
      f" {_number(times['all_memory_seconds'], 1e3)} if all bytes were there",
    ),
    (
      "  by the compiler",
      f"{_number(estimated, 1e3)} ms" if estimated else "no estimate",
    ),
    (
      "  the run",
      f"{_range(times, 'hours')} hours for {facts['num_steps']:,} steps",
    ),
    ("  chip-hours", _range(times, "hours", facts["chips"])),
  ]


def _abstract(config, task, optimizer, num_devices):
  """Returns shapes and types of the state and of the batches of a dispatch."""
  shape = datasets.image_shape(config.data)

  def make_state():
    params = task.init(jax.random.key(config.seed), shape)
    return train.TrainState(jnp.int32(0), params, optimizer.init(params))

  examples = {"images": (shape, jnp.uint8), "example_ids": ((), jnp.int32)}
  if task.num_outputs:
    sets = (config.data.max_objects, clevr.TARGET_SIZE)
    examples["targets"] = (sets, jnp.float32)
  share = config.batch_size // num_devices
  batch = {
    name: jax.ShapeDtypeStruct(
      (num_devices, share, config.steps_per_dispatch, *shape), dtype
    )
    for name, (shape, dtype) in examples.items()
  }
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((num_devices, *x.shape), x.dtype),
    jax.eval_shape(make_state),
  )
  return state, batch


def _data_bytes(config, task):
  """Returns the bytes of the examples that lie on every device, at most.

  Each has an image, at most one segment a pixel, and at most one set. Images
  with too many objects, which are left out, count.
  """
  if config.data_placement != "device":
    return 0
  *size, channels = datasets.image_shape(config.data)
  size = math.prod(size) * (channels + 1)
  if task.num_outputs:
    size += 4 * config.data.max_objects * clevr.TARGET_SIZE
  return size * (config.data.num_train + config.data.num_eval)


def _explain(error, topology, share):
  """Explains the compiler's error, or returns "" if it is not about memory.

  The memory that a step needs grows with a chip's share of the batch.
  """
  sizes = re.findall(r"([\d.]+)([KMGT])\b", error)
  if "RESOURCE_EXHAUSTED" not in error or len(sizes) < 2:
    return ""
  exponents = {"K": 10, "M": 20, "G": 30, "T": 40}
  needed, limit = (
    float(number) * 2 ** exponents[unit] for number, unit in sizes[:2]
  )
  return (
    f"the step needs {_size(needed)} on each chip of {topology}, which has"
    f" {_size(limit)} for it: enough for about {int(share * limit / needed)}"
    f" of the {share} images of a chip"
  )


def _find_remedy(config, topology):
  """Tries changes to a step that does not fit; says which one makes it fit."""
  decoders = [x for x in config.model if "remat_chunk_size" in config.model[x]]
  for change_dtype, remat in _REMEDIES:
    changes = {"compute_dtype": "bfloat16"} if change_dtype else {}
    # A model without a section encoder computes in float32 alone.
    if change_dtype and "encoder" not in config.model:
      continue
    if remat and not decoders:
      continue
    if remat:
      changes[f"model.{decoders[0]}.remat_chunk_size"] = 8
    flags = " ".join(f"--config.{name}={new}" for name, new in changes.items())
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    logging.info("It does not fit. Compiling with %s", flags)
    try:
      facts = compile_step(changed, topology)
    except DoesNotFitError:
      continue
    needed, limit = memory_bytes(facts), chips.of(topology).memory_bytes
    if needed > limit:
      flags += " --config.data_placement=host"
      needed -= facts["data_bytes"]
    if needed > limit:
      continue
    return f"With {flags} it takes {_size(needed)} and fits"
  return "Take a smaller batch_size or more chips"


def _size(size):
  """Writes a number of bytes."""
  if size < 2**30:
    return f"{size / 2**20:.3g} MiB"
  return f"{size / 2**30:,.4g} GiB"


def _range(times, unit, factor=1):
  """Writes the two estimates of a time."""
  least, fetching = times[f"least_{unit}"], times[f"fetching_{unit}"]
  return f"{_number(least, factor)} to {_number(fetching, factor)}"


def _number(x, factor):
  return f"{x * factor:,.3g}"


def _counted(counts):
  return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"
