"""Order of the examples, and their way to the devices.

A batch is a dict of arrays, on the devices as `parallel.shard` lays them, with
B examples over all devices of all processes:
  images: uint8 [B, H, W, C]; segments: uint8 [B, H, W]; targets, if any;
  example_ids: int32 [B], to which the noise of the slots is tied.
Batches of n training steps come together, with [B, n, ...] in the place of
[B, ...].
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
# Which examples make a batch, and their ids, int [B] or [B, n] each; of these a
# process loads its own part.
Request = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(num_examples)


def examples_of_step(
  step: int, *, batch_size: int, num_examples: int, seed: int
) -> np.ndarray:
  """Examples of the batch of a 0-based step, int [batch_size].

  Batches are cut from the epochs' permutations laid end to end, so that every
  example is seen equally often and the step alone tells which are its own.
  """
  positions = np.arange(step * batch_size, (step + 1) * batch_size)
  epochs, places = np.divmod(positions, num_examples)
  examples = np.empty(batch_size, np.int32)
  for epoch in np.unique(epochs):
    order = _epoch_order(seed, int(epoch), num_examples)
    examples[epochs == epoch] = order[places[epochs == epoch]]
  return examples


class Feeder:
  """Brings the examples of a split to the devices, in batches."""

  def __init__(self, split: store.Split, placement: str):
    """Takes the examples.

    Args:
      split: the examples.
      placement: "device" keeps all examples on every device; "host" gathers
        and sends each batch while the devices compute.
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
    """Yields the batches of the given 0-based steps.

    An example's id is its place in the batch, so that the numbers do not depend
    on how many devices share it.

    Args:
      steps: which; as many as its `step` says come together, [B, n, ...].
      batch_size: B.
      seed: of the order.
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
    """Yields every example once, in order, and how many of a batch count.

    The last batch is filled up with its last example. An example's id is its
    place in the split.
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
