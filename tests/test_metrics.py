"""Tests of the metrics against scikit-learn and against loops."""

import math
import time

import numpy as np
import pytest
import sklearn.metrics

from slot_attention import metrics


def ari(true, pred, num_true=6, num_pred=5):
  return np.asarray(
    metrics.adjusted_rand_index(
      true, pred, num_true=num_true, num_pred=num_pred
    )
  )


def test_ari_equals_sklearn_on_the_foreground():
  rng = np.random.default_rng(0)
  true = rng.integers(0, 6, (20, 30, 40))
  # The noise grows from almost none to nothing but noise.
  noise = rng.random((20, 30, 40)) < np.linspace(0.02, 1, 20)[:, None, None]
  pred = np.where(noise, rng.integers(0, 5, true.shape), true % 5)
  actual = ari(true, pred)
  expected = [
    sklearn.metrics.adjusted_rand_score(t[t > 0], p[t > 0])
    for t, p in zip(true, pred)
  ]
  assert max(expected) > 0.6 and min(expected) < 0.01
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_ari_of_large_images_keeps_its_precision():
  rng = np.random.default_rng(1)
  true = rng.integers(0, 11, (3, 240, 320))
  pred = np.where(rng.random(true.shape) < 0.01, 3, true)
  actual = ari(true, pred, num_true=11, num_pred=11)
  expected = [
    sklearn.metrics.adjusted_rand_score(t[t > 0], p[t > 0])
    for t, p in zip(true, pred)
  ]
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_ari_of_trivial_partitions():
  one, two = np.ones((1, 8), int), np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
  assert ari(one, 0 * one) == 1  # Both have a single segment.
  assert ari(two, 0 * two) == 0  # Two segments are merged.
  assert ari(one, two) == 0  # One segment is split.
  assert ari(two, 3 - two) == 1  # The ids are swapped.
  assert ari(0 * one, two) == 1  # There is no foreground.
  assert ari(np.array([[0, 0, 1]]), np.array([[0, 1, 2]])) == 1  # One pixel.
  singletons = np.arange(1, 5)[None]
  assert ari(singletons, singletons) == 1


def test_ari_leaves_the_background_out():
  true = np.array([[0, 0, 0, 1, 1, 2, 2]])
  for background in ([0, 1, 2], [3, 3, 3]):
    pred = np.array([[*background, 0, 0, 1, 1]])
    assert ari(true, pred) == 1


def test_ari_with_background_equals_sklearn_on_all_pixels():
  rng = np.random.default_rng(3)
  true = rng.integers(0, 6, (7, 20, 30))
  pred = np.where(rng.random(true.shape) < 0.3, 4, true % 5)
  actual = metrics.adjusted_rand_index(
    true, pred, num_true=6, num_pred=5, use_background=True
  )
  expected = [
    sklearn.metrics.adjusted_rand_score(t.ravel(), p.ravel())
    for t, p in zip(true, pred)
  ]
  np.testing.assert_allclose(actual, expected, atol=1e-6)
  assert np.abs(actual - ari(true, pred)).min() > 1e-3


def test_mean_best_overlap_equals_its_definition():
  rng = np.random.default_rng(4)
  true = rng.integers(0, 4, (6, 9, 11))
  true[0] = np.minimum(true[0], 1)  # One object.
  pred = np.where(rng.random(true.shape) < 0.4, 2, true)
  expected = []
  for t, p in zip(true, pred):
    best = [
      max(
        np.sum((t == i) & (p == j)) / np.sum((t == i) | (p == j))
        for j in range(5)
      )
      for i in set(t.ravel()) - {0}
    ]
    expected.append(np.mean(best))
  actual = metrics.mean_best_overlap(true, pred, num_true=6, num_pred=5)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
  assert 0.3 < min(expected) and max(expected) < 0.9


def test_mean_best_overlap_of_simple_cases():
  def mbo(true, pred):
    true, pred = np.array([true]), np.array([pred])
    return metrics.mean_best_overlap(true, pred, num_true=4, num_pred=4)

  assert mbo([0, 1, 2, 2], [3, 0, 1, 1]) == 1  # Equal but for the ids.
  assert mbo([0, 1, 1, 2], [0, 0, 0, 0]) == pytest.approx((2 / 4 + 1 / 4) / 2)
  assert mbo([0, 0, 1, 1], [1, 1, 2, 3]) == 0.5  # One object is split.
  assert mbo([0, 0, 0, 0], [0, 1, 2, 3]) == 1  # There is no object.


def test_segmentation_metrics_take_the_largest_mask():
  rng = np.random.default_rng(2)
  segments = rng.integers(0, 4, (2, 6, 7))
  masks = rng.random((2, 5, 6, 7, 1))
  ids = masks[..., 0].argmax(1)
  actual = metrics.segmentation_metrics(masks, segments, num_segments=4)
  sizes = {"num_true": 4, "num_pred": 5}
  expected = {
    "fg_ari": ari(segments, ids, num_true=4),
    "ari": metrics.adjusted_rand_index(
      segments, ids, **sizes, use_background=True
    ),
    "mbo": metrics.mean_best_overlap(segments, ids, **sizes),
  }
  assert actual.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(actual[name], values)
  foreground = metrics.foreground_ari(masks, segments, num_segments=4)
  np.testing.assert_array_equal(foreground, actual["fg_ari"])


def slow_average_precision(predictions, targets, threshold):
  """Follows the definition, one detection at a time."""
  detections = [
    (p[18], b, p) for b, image in enumerate(predictions) for p in image
  ]
  detections.sort(key=lambda detection: -detection[0])  # Stable.
  num_real = sum(t[18] == 1 for image in targets for t in image)
  taken = set()
  precisions, recalls = [], []
  true_positives = 0
  for rank, (_, b, p) in enumerate(detections, 1):
    best, best_distance = None, math.inf
    for j, t in enumerate(targets[b]):
      same = t[18] == 1 and all(
        np.argmax(p[part]) == np.argmax(t[part])
        for part in (slice(3, 5), slice(5, 7), slice(7, 10), slice(10, 18))
      )
      if not same:
        continue
      distance = np.sqrt(sum((6 * (p[c] - t[c])) ** 2 for c in range(3)))
      if distance < best_distance:
        best, best_distance = j, distance
    if best is not None and best_distance < threshold:
      if (b, best) not in taken:
        taken.add((b, best))
        true_positives += 1
    precisions.append(true_positives / rank)
    recalls.append(true_positives / num_real)
  area, previous = 0.0, 0.0
  for i, recall in enumerate(recalls):
    area += (recall - previous) * max(precisions[i:])
    previous = recall
  return area


def random_sets(rng, num_images, num_slots, num_targets, noise):
  """Draws targets with padding, and predictions near some of them."""
  targets = np.zeros((num_images, num_targets, 19))
  for image in targets:
    for row in image[: rng.integers(1, num_targets + 1)]:
      row[:3] = rng.random(3)
      for part in metrics.CATEGORIES.values():
        row[rng.integers(part.start, part.stop)] = 1
      row[18] = 1
  order = rng.permutation(num_targets)
  predictions = targets[:, np.resize(order, num_slots)]
  predictions = predictions + noise * rng.normal(size=predictions.shape)
  return predictions, targets


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("num_slots, num_targets", [(5, 5), (4, 7), (9, 3)])
def test_average_precision_equals_a_loop(noise, num_slots, num_targets):
  rng = np.random.default_rng(0)
  predictions, targets = random_sets(rng, 12, num_slots, num_targets, noise)
  actual = metrics.average_precision(predictions, targets)
  assert list(actual) == [math.inf, 1, 0.5, 0.25, 0.125]
  for threshold, value in actual.items():
    expected = slow_average_precision(predictions, targets, threshold)
    assert value == pytest.approx(expected, abs=1e-12)
  assert actual[math.inf] > 0


def test_average_precision_equals_a_loop_if_everything_is_tied():
  rng = np.random.default_rng(1)
  predictions, targets = random_sets(rng, 15, 6, 5, 0.0)
  # There are few positions and few confidences, so that distances, ranks and
  # targets coincide and some distances are exactly 1, the strict threshold.
  targets[..., :3] = rng.integers(0, 3, (15, 5, 3)) / 6
  targets[..., 3:18] = 0
  targets[..., [3, 5, 7, 10]] = targets[..., 18:]
  predictions[..., :3] = rng.integers(0, 3, (15, 6, 3)) / 6
  predictions[..., 18] = rng.integers(0, 3, (15, 6)) / 2
  for threshold, value in metrics.average_precision(
    predictions, targets
  ).items():
    expected = slow_average_precision(predictions, targets, threshold)
    assert value == pytest.approx(expected, abs=1e-12)


def test_predictions_of_equal_confidence_keep_their_order():
  """An unstable sort would mix hits and misses."""
  targets = np.zeros((400, 1, 19))
  targets[:200, :, [3, 5, 7, 10, metrics.REAL_OBJECT]] = 1
  predictions = np.zeros((400, 2, 19))
  predictions[:, 0, metrics.REAL_OBJECT] = 1  # A hit if there is a target.
  for ordered, expected in ((targets, 1.0), (targets[::-1], 0.5)):
    actual = metrics.average_precision(predictions, ordered)
    assert set(actual.values()) == {expected}


def test_average_precision_of_the_truth_is_1_and_of_nothing_0():
  predictions, targets = random_sets(np.random.default_rng(2), 9, 5, 5, 0.0)
  assert set(metrics.average_precision(targets, targets).values()) == {1.0}
  wrong = np.roll(predictions, 1, axis=-1)
  assert set(metrics.average_precision(wrong, 0 * targets).values()) == {0.0}


def test_average_precision_of_15000_images_takes_seconds():
  rng = np.random.default_rng(3)
  predictions, targets = random_sets(rng, 15_000, 10, 10, 0.1)
  start = time.process_time()
  results = metrics.average_precision(predictions, targets)
  assert time.process_time() - start < 10
  assert len(results) == 5


def test_merged_clu_metrics_equal_those_of_all_examples():
  rng = np.random.default_rng(4)
  predictions, targets = random_sets(rng, 10, 5, 5, 0.1)
  loss = rng.random(10).astype(np.float32)
  collected = metrics.SetPredictionMetrics.empty()
  for part in (slice(0, 7), slice(7, 10)):
    collected = collected.merge(
      metrics.SetPredictionMetrics.single_from_model_output(
        loss=loss[part], predictions=predictions[part], targets=targets[part]
      )
    )
  computed = collected.compute()
  assert computed["loss"] == pytest.approx(loss.mean())
  expected = metrics.average_precision(
    predictions.astype(np.float32), targets.astype(np.float32)
  )
  assert computed["ap"] == pytest.approx(expected)


def test_attention_ari_uses_segments_of_the_size_of_the_feature_map():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 4, (3, 4, 6))
  segments = coarse.repeat(5, axis=1).repeat(5, axis=2)
  attn = np.eye(7)[(coarse + 2).reshape(3, -1)]

  def attention_ari(attn):
    return np.asarray(metrics.attention_ari(attn, segments, num_segments=4))

  np.testing.assert_array_equal(attention_ari(attn), 1)
  noise = rng.random((3, 24, 7))
  expected = [
    sklearn.metrics.adjusted_rand_score(t[t > 0], p[t > 0])
    for t, p in zip(coarse.reshape(3, -1), noise.argmax(-1))
  ]
  np.testing.assert_allclose(attention_ari(noise), expected, atol=1e-6)
  with pytest.raises(ValueError, match="23 inputs .* of a 20x30 image"):
    attention_ari(attn[:, :23])
