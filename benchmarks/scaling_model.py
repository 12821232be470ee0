"""The model of `benchmarks.scaling`: times on slices of TPU v5e, computed.

A step is compute, and then one all-reduce of the gradients, which does not
overlap with it. Compute has a shorter and a longer time, see
`compilation.estimate`. Neither includes the cost of starting an instruction.

Operations and bytes are interpolated linearly between the compiled shares of
the batch, and extrapolated on the first and the last line. Below the smallest
compiled share, they are at least proportional to the share; above the largest,
they are at most proportional to it. A config with one compiled share has no
strong scaling.

An all-reduce is a reduce-scatter and an all-gather along both axes of the slice
at once, see `all_reduce_seconds`.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
import numpy as np

import configs
from slot_attention import tasks
from slot_attention.data import clevr_scenes, datasets
from slot_attention.paper import rows
from slot_attention.training import compilation

NUM_CHIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A v5e chip has 4 links, 400 GB/s in both directions together:
# https://cloud.google.com/tpu/docs/v5e
LINK_BYTES_PER_SECOND = 50e9  # In each direction.
# An axis of 16 chips is a ring, a shorter one is a line; a hop takes about a
# microsecond: https://jax-ml.github.io/scaling-book/sharding
RING = 16
HOP_SECONDS = 1e-6
CHIPS_A_HOST = 4  # As in the slices of several hosts that were compiled.
ESTIMATES = ("least", "fetching")
_QUANTITIES = (
  "operations",
  "main_memory_bytes",
  "bytes_accessed",
  "temporary_bytes",
)
_DRAWN = (rows.CLEVR6, rows.CLEVR10_SETS)
MACHINES = (1, 2, 4, 8, 16)


def axes_of(num_chips: int) -> tuple[int, int]:
  """Returns the axes of a slice, as square as can be: (8, 16) for 128."""
  doublings = num_chips.bit_length() - 1
  return 2 ** (doublings // 2), 2 ** (doublings - doublings // 2)


def links_of(num_chips: int) -> int:
  """Counts the links of the chip that has the fewest, at a corner."""
  return sum(1 + (axis == RING) for axis in axes_of(num_chips) if axis > 1)


def hops_of(num_chips: int) -> int:
  """Counts the hops, one after the other, of an all-reduce."""
  return 2 * sum(
    axis // 2 if axis == RING else axis - 1 for axis in axes_of(num_chips)
  )


def all_reduce_seconds(size: float, num_chips: int) -> float:
  """Computes the time of an all-reduce on a slice of v5e.

  A chip receives (n - 1) / n of the bytes twice, first to add them up and then
  to have all sums, over its links in one direction. The latency of the hops is
  added.

  Args:
    size: of the array, in bytes.
    num_chips: n, a power of two.

  Returns:
    Seconds; 0 for one chip.
  """
  if num_chips == 1:
    return 0.0
  moved = 2 * (num_chips - 1) / num_chips * size
  bandwidth = links_of(num_chips) * LINK_BYTES_PER_SECOND
  return moved / bandwidth + hops_of(num_chips) * HOP_SECONDS


def at_share(
  compiled: Mapping[int, Mapping[str, Any]], share: float
) -> dict[str, Any]:
  """Returns the facts of a step with another share of the batch on each chip.

  Args:
    compiled: dict from shares, in images, to what `compilation.compile_step`
      returns.
    share: images on each chip.

  Returns:
    The facts of a compiled step, with the operations, the bytes and the times
    of this share.
  """
  if share in compiled:
    return dict(compiled[share])
  shares = sorted(compiled)
  upper = min(max(np.searchsorted(shares, share), 1), len(shares) - 1)
  low, high = shares[upper - 1], shares[upper]
  facts = dict(compiled[low])
  for name in _QUANTITIES:
    first, second = compiled[low][name], compiled[high][name]
    value = first + (second - first) * (share - low) / (high - low)
    # Arrays of a small share may have their place on the chip.
    if share < low:
      value = max(value, first * share / low)
    elif share > high:
      value = min(value, second * share / high)
    facts[name] = value
  return {**facts, **compilation.estimate(facts)}


def strong_scaling(
  compiled: Mapping[int, Mapping[str, Any]],
  gradient_bytes: int,
  example_bytes: float,
) -> list[dict[str, Any]]:
  """Describes a step of the whole batch, on more and more chips.

  Args:
    compiled: see `at_share`; at least two shares.
    gradient_bytes: of the gradients.
    example_bytes: of an example, for a host that gathers them.

  Returns:
    A dict for each number of chips that has at least one image a chip. Times
    are in seconds, hours are those of the run, and efficiency is the speed-up
    over one chip, divided by the number of chips. memory_bytes is that of a
    chip. host_bytes_per_second is what a host brings if steps take the shorter
    time.
  """
  batch_size = next(iter(compiled.values()))["batch_size"]
  result = []
  for chips in NUM_CHIPS:
    if batch_size % chips:
      break
    facts = at_share(compiled, batch_size // chips)
    row = _row(facts, batch_size, chips, gradient_bytes, example_bytes)
    for x in ESTIMATES:
      first = (result or [row])[0][f"{x}_seconds"]
      row[f"{x}_efficiency"] = first / (chips * row[f"{x}_seconds"])
      row[f"{x}_hours"] = row[f"{x}_seconds"] * facts["num_steps"] / 3600
    result.append(row)
  return result


def line_errors(
  compiled: Mapping[int, Mapping[str, Any]],
) -> dict[str, float]:
  """Compares the smallest compiled share with the line through the others.

  Args:
    compiled: see `at_share`; at least three shares.

  Returns:
    A dict from each of `ESTIMATES` to the time by the line, divided by that of
    the compiled step.
  """
  smallest = min(compiled)
  others = {share: compiled[share] for share in compiled if share != smallest}
  line = at_share(others, smallest)
  return {
    x: line[f"{x}_seconds"] / compiled[smallest][f"{x}_seconds"]
    for x in ESTIMATES
  }


def weak_scaling(
  facts: Mapping[str, Any], gradient_bytes: int, example_bytes: float
) -> list[dict[str, Any]]:
  """Describes a step of one share of the batch on more and more chips.

  Args:
    facts: of the step, see `compilation.compile_step`.
    gradient_bytes: see `strong_scaling`, as the other arguments.
    example_bytes: see there.

  Returns:
    A dict for each number of chips; see `strong_scaling`.
  """
  share = facts["batch_size"] // facts["chips"]
  result = []
  for chips in NUM_CHIPS:
    row = _row(facts, share * chips, chips, gradient_bytes, example_bytes)
    for x in ESTIMATES:
      row[f"{x}_efficiency"] = facts[f"{x}_seconds"] / row[f"{x}_seconds"]
    result.append(row)
  return result


def _row(facts, batch_size, chips, gradient_bytes, example_bytes):
  reduction = all_reduce_seconds(gradient_bytes, chips)
  seconds = {f"{x}_seconds": facts[f"{x}_seconds"] for x in ESTIMATES}
  times = {name: alone + reduction for name, alone in seconds.items()}
  of_a_host = batch_size * min(chips, CHIPS_A_HOST) / chips * example_bytes
  return {
    "chips": chips,
    "batch_size": batch_size,
    "images_a_chip": batch_size // chips,
    "all_reduce_seconds": reduction,
    **times,
    "memory_bytes": compilation.memory_bytes(facts),
    "host_bytes_per_second": of_a_host / times["least_seconds"],
  }


def worth(
  compiled: Mapping[int, Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Says how fast a chip is with different shares, without all-reduce.

  Args:
    compiled: see `at_share`; at least two shares.

  Returns:
    For each power of two up to the batch, the images a second of a chip by both
    times, and whether operations and not the main memory decide the shorter.
  """
  batch_size = next(iter(compiled.values()))["batch_size"]
  result = []
  for share in NUM_CHIPS:
    if share > batch_size:
      break
    facts = at_share(compiled, share)
    result.append(
      {
        "images_a_chip": share,
        **{
          f"{x}_images_per_second": share / facts[f"{x}_seconds"]
          for x in ESTIMATES
        },
        "arithmetic_decides": facts["arithmetic_seconds"]
        > facts["main_memory_seconds"],
      }
    )
  return result


def stops_at(scaling: Sequence[Mapping[str, Any]], estimate: str) -> int | None:
  """Returns the first number of chips whose efficiency is below a half."""
  return next(
    (x["chips"] for x in scaling if x[f"{estimate}_efficiency"] < 0.5), None
  )


def preparation(
  num_examples: int, renderer: Mapping[str, Any]
) -> list[dict[str, float]]:
  """Computes what drawing CLEVR takes on machines that share the chunks.

  A machine is one core that does nothing else.

  Args:
    num_examples: number of scenes.
    renderer: what `benchmarks.clevr_renderer` has written.

  Returns:
    For each number of machines, the core-hours of all and the minutes of the
    slowest, without merging the chunks.
  """
  size, seconds = clevr_scenes.CHUNK_SIZE, renderer["cpu_seconds_per_image"]
  result = []
  for machines in MACHINES:
    most = math.ceil(math.ceil(num_examples / size) / machines) * size
    result.append(
      {
        "machines": machines,
        "core_hours": num_examples * seconds / 3600,
        "minutes": min(most, num_examples) * seconds / 60,
      }
    )
  return result


def gradient_bytes(name: str) -> int:
  """Returns the bytes of the gradients of a config, in float32."""
  config = configs.load(name)
  task = tasks.make_task(config)
  shape = datasets.image_shape(config.data)
  params = jax.eval_shape(lambda: task.init(jax.random.key(0), shape))
  return sum(4 * x.size for x in jax.tree.leaves(params))


def compute(
  cases: Sequence[Mapping[str, Any]],
  feeding: Mapping[str, Any],
  renderer: Mapping[str, Any],
) -> dict[str, Any]:
  """Computes everything from the records.

  Args:
    cases: of the records of `benchmarks.tpu`.
    feeding: what `benchmarks.feeding` has written for Tetrominoes.
    renderer: what `benchmarks.clevr_renderer` has written.

  Returns:
    A dict of
      configs: a list with a dict for each config and precision;
      preparation: dict from configs to `preparation`;
      host_bytes_per_second: that a host has gathered and sent.
  """
  groups = {}
  for case in cases:
    if (
      case["variant"] == "as it is"
      and case["topology"].startswith("v5e:")
      and "does_not_fit" not in case
    ):
      group = groups.setdefault((case["config"], case["precision"]), {})
      group[case["batch_size"] // case["chips"]] = case
  scaled = []
  for (name, precision), compiled in groups.items():
    data, size = configs.load(name).data, gradient_bytes(name)
    largest = compiled[max(compiled)]
    example_bytes = largest["data_bytes"] / (data.num_train + data.num_eval)
    has_strong = len(compiled) > 1
    strong = strong_scaling(compiled, size, example_bytes) if has_strong else []
    scaled.append(
      {
        "config": name,
        "precision": precision,
        "batch_size": largest["batch_size"],
        "compiled_shares": sorted(compiled),
        "gradient_bytes": size,
        "example_bytes": example_bytes,
        "line_errors": line_errors(compiled) if len(compiled) > 2 else {},
        "strong": strong,
        "stops_at": {x: stops_at(strong, x) for x in ESTIMATES},
        "weak": weak_scaling(largest, size, example_bytes),
        "worth": worth(compiled) if has_strong else [],
      }
    )
  tetrominoes = next(x for x in scaled if x["config"] == rows.TETROMINOES)
  return {
    "configs": scaled,
    "preparation": {
      name: preparation(configs.load(name).data.num_examples, renderer)
      for name in _DRAWN
    },
    "host_bytes_per_second": tetrominoes["example_bytes"]
    * feeding["batch_size"]
    / feeding["seconds_per_batch"]["batches from the host"],
  }
