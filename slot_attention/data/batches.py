"""Orders the examples and brings them to the devices as batches.

A batch is a dict of arrays, distributed by `parallel.shard`, with B examples
over all devices of all processes:
  images: uint8 [B, H, W, C], or videos [B, F, H, W, C];
  segments: uint8 [B, H, W] or [B, F, H, W], if the data set has them;
  targets: float32 [B, M, P], if the data set has them;
  example_ids: int32 [B], which select the noise of the initial slots.
The batches of n training steps form one dict with shapes [B, n, ...].
"""

import collections
from collections.abc import Iterable, Iterator
import concurrent.futures
import functools

import jax
import numpy as np

from slot_attention import parallel
from slot_attention.checks import check_choice
from slot_attention.data import store

PLACEMENTS = ("device", "host")
_PREFETCH = 2

Batch = dict[str, jax.Array]
# The examples of a batch and their ids, int [B] or [B, n] each, for all
# processes. Each process loads only its own part.
Request = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(num_examples)


def examples_of_step(
  step: int, *, batch_size: int, num_examples: int, seed: int
) -> np.ndarray:
  """Returns the examples of one training step, int [batch_size].

  Every epoch is a permutation of all examples. The batches are consecutive
  parts of the concatenated epochs, so a batch may reach into the next epoch.
  The result depends only on the arguments, not on earlier steps.

  Args:
    step: number of the step, from 0.
    batch_size: number of examples per step.
    num_examples: number of examples to choose from.
    seed: seed of the permutations.
  """
  positions = np.arange(step * batch_size, (step + 1) * batch_size)
  epochs, places = np.divmod(positions, num_examples)
  examples = np.empty(batch_size, np.int32)
  for epoch in np.unique(epochs):
    order = _epoch_order(seed, int(epoch), num_examples)
    examples[epochs == epoch] = order[places[epochs == epoch]]
  return examples


class Feeder:
  """Brings the examples of a split to the devices as batches."""

  def __init__(self, split: store.Split, placement: str):
    """Prepares the examples for feeding.

    Args:
      split: the examples.
      placement: "device" copies all examples to every device once; "host"
        gathers each batch on the host and sends it while the devices compute.
    """
    check_choice("data_placement", placement, PLACEMENTS)
    self._num_examples = len(split)
    if placement == "device":
      self._feed = _feed_from_devices(split)
    else:
      self._feed = _feed_from_host(split)

  def train_batches(
    self, steps: range, *, batch_size: int, seed: int
  ) -> Iterator[Batch]:
    """Yields the batches of the given steps, counted from 0.

    The id of an example is its position in the batch, so that the results do
    not depend on the number of devices.

    Args:
      steps: range of steps. Its step n is the number of training steps whose
        batches are yielded together, with shapes [B, n, ...].
      batch_size: number of examples B of one training step.
      seed: seed of the order of the examples.
    """

    def request(first):
      examples = [
        examples_of_step(
          step,
          batch_size=batch_size,
          num_examples=self._num_examples,
          seed=seed,
        )
        for step in range(first, first + steps.step)
      ]
      ids = np.arange(batch_size, dtype=np.int32)
      return np.stack(examples, 1), np.stack([ids] * steps.step, 1)

    return self._feed(map(request, steps))

  def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """Yields batches with every example once, in order.

    The last batch is filled up with copies of the last example. The id of an
    example is its position in the split.

    Args:
      batch_size: number of examples B of a batch.

    Yields:
      A batch, and how many of its examples, from the first, are not copies.
    """
    starts = range(0, self._num_examples, batch_size)

    def request(start):
      examples = np.arange(start, start + batch_size, dtype=np.int32)
      examples = np.minimum(examples, self._num_examples - 1)
      return examples, examples

    sizes = (min(batch_size, self._num_examples - start) for start in starts)
    return zip(self._feed(map(request, starts)), sizes)


def _feed_from_devices(split):
  resident = parallel.replicate(split.take(np.arange(len(split))))
  gather = parallel.data_parallel(
    lambda data, examples: {name: data[name][examples] for name in data}
  )

  def feed(requests: Iterable[Request]) -> Iterator[Batch]:
    for request in requests:
      examples, ids = parallel.shard(tuple(map(parallel.own_part, request)))
      yield {**gather(resident, examples), "example_ids": ids}

  return feed


def _feed_from_host(split):
  def load(request):
    examples, ids = map(parallel.own_part, request)
    return parallel.shard({**split.take(examples), "example_ids": ids})

  def feed(requests: Iterable[Request]) -> Iterator[Batch]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
      loading = collections.deque()
      for request in requests:
        loading.append(pool.submit(load, request))
        if len(loading) > _PREFETCH:
          yield loading.popleft().result()
      while loading:
        yield loading.popleft().result()

  return feed
