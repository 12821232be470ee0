"""Tests of the order of the examples and of the batches on the devices."""

import jax
import numpy as np
import pytest

from slot_attention.data import batches, store


@pytest.fixture(name="images")
def _images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)


def split_of(**arrays):
  return store.Split(arrays, np.arange(len(arrays["images"])))


def test_every_epoch_shows_every_example_once():
  options = {"batch_size": 4, "num_examples": 10, "seed": 5}
  seen = np.concatenate(
    [batches.examples_of_step(step, **options) for step in range(10)]
  )
  for epoch in seen.reshape(4, 10):
    assert sorted(epoch) == list(range(10))
  assert (seen[:10] != seen[10:20]).any()
  other = batches.examples_of_step(0, **{**options, "seed": 6})
  assert (other != seen[:4]).any()


def feed(split, placement, steps=range(2, 7)):
  feeder = batches.Feeder(split, placement)
  return [
    jax.tree.map(np.asarray, batch)
    for batch in feeder.train_batches(steps, batch_size=8, seed=1)
  ]


def test_host_and_device_give_the_same_examples_in_the_same_order(images):
  split = split_of(images=images, segments=images[..., 0])
  from_device, from_host = feed(split, "device"), feed(split, "host")
  assert len(from_device) == len(from_host) == 5
  for a, b in zip(from_device, from_host):
    # Devices, examples per device, steps.
    assert a["images"].shape == (4, 2, 1, 4, 5, 3)
    jax.tree.map(np.testing.assert_array_equal, a, b)
  flat = from_host[0]["images"].reshape(8, 4, 5, 3)
  examples = batches.examples_of_step(2, batch_size=8, num_examples=10, seed=1)
  np.testing.assert_array_equal(flat, images[examples])
  with pytest.raises(ValueError, match="data_placement='disk'"):
    feed(split, "disk")


@pytest.mark.parametrize("placement", batches.PLACEMENTS)
def test_steps_of_one_dispatch_have_the_same_examples_as_single_steps(
  images, placement
):
  split = split_of(images=images)
  apart = feed(split, placement, range(2, 8))
  together = feed(split, placement, range(2, 8, 3))
  assert len(together) == 2
  for i, batch in enumerate(together):
    jax.tree.map(
      lambda x, *xs: np.testing.assert_array_equal(x, np.concatenate(xs, 2)),
      batch,
      *apart[3 * i : 3 * i + 3],
    )


@pytest.mark.parametrize("placement", batches.PLACEMENTS)
def test_evaluation_sees_every_example_exactly_once(images, placement):
  feeder = batches.Feeder(split_of(images=images), placement)
  seen, ids = [], []
  for batch, size in feeder.eval_batches(4):
    seen.append(np.asarray(batch["images"]).reshape(4, 4, 5, 3)[:size])
    ids.append(np.asarray(batch["example_ids"]).reshape(4)[:size])
  np.testing.assert_array_equal(np.concatenate(seen), images)
  np.testing.assert_array_equal(np.concatenate(ids), np.arange(10))
