"""Adjusted Rand index and average precision, and their clu wrappers.

Letters in shapes: B batch, H and W image, K slots, M targets, P numbers per
object (19 on CLEVR).
"""

from collections.abc import Sequence

from clu import metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np

# The numbers that describe a CLEVR object, and the unit of its coordinates:
# x, y, z in [-3, 3] are stored as (xyz + 3) / 6.
COORDINATES = slice(0, 3)
CATEGORIES = {
  "size": slice(3, 5),
  "material": slice(5, 7),
  "shape": slice(7, 10),
  "color": slice(10, 18),
}
REAL_OBJECT = 18
COORDINATE_RANGE = 6.0

# Distances in scene units (Figure 5, Table 3).
DISTANCE_THRESHOLDS = (np.inf, 1.0, 0.5, 0.25, 0.125)


def adjusted_rand_index(
  true_ids: jax.Array,
  pred_ids: jax.Array,
  *,
  num_true: int,
  num_pred: int,
) -> jax.Array:
  """Adjusted Rand index of the foreground (Hubert and Arabie, 1985).

  Args:
    true_ids: int [B, ...], segment of every pixel; 0 is background (or
      padding), which is left out, and 1 .. num_true - 1 are objects.
    pred_ids: int, same shape: the predicted segment, 0 .. num_pred - 1.
    num_true: upper bound of the ids in true_ids, background included.
    num_pred: upper bound of the ids in pred_ids.

  Returns:
    float32 [B]: 1 for equal partitions, 0 on average for random ones. 1 also
    where both put all pixels in one segment, and where there is no foreground.
  """
  batch_size = true_ids.shape[0]
  true = jax.nn.one_hot(true_ids.reshape(batch_size, -1), num_true)[..., 1:]
  pred = jax.nn.one_hot(pred_ids.reshape(batch_size, -1), num_pred)
  counts = jnp.einsum("bnt,bnp->btp", true, pred)

  def pairs(n):
    return n * (n - 1) / 2

  all_pairs = jnp.maximum(pairs(counts.sum((1, 2))), 1)
  # Shares of all pairs of pixels: together in both partitions, in each one.
  both = pairs(counts).sum((1, 2)) / all_pairs
  in_true = pairs(counts.sum(2)).sum(1) / all_pairs
  in_pred = pairs(counts.sum(1)).sum(1) / all_pairs
  expected = in_true * in_pred
  headroom = (in_true + in_pred) / 2 - expected
  defined = headroom > 0
  return jnp.where(
    defined, (both - expected) / jnp.where(defined, headroom, 1), 1.0
  )


def foreground_ari(
  masks: jax.Array, segments: jax.Array, *, num_segments: int
) -> jax.Array:
  """`adjusted_rand_index` of soft masks: a pixel belongs to its largest mask.

  Args:
    masks: [B, K, H, W, 1].
    segments: int [B, H, W], 0 is background.
    num_segments: upper bound of the ids in segments, background included.

  Returns:
    float32 [B].
  """
  return adjusted_rand_index(
    segments,
    jnp.argmax(masks[..., 0], axis=1),
    num_true=num_segments,
    num_pred=masks.shape[1],
  )


def map_size(num_inputs: int, height: int, width: int) -> tuple[int, int]:
  """Height and width of the feature map of an image.

  Args:
    num_inputs: N, places in the map.
    height: of the image, whose proportions the map has.
    width: of the image.

  Raises:
    ValueError: if N inputs do not make a map of those proportions.
  """
  h = round((num_inputs * height / width) ** 0.5)
  w = round(h * width / height)
  if h * w != num_inputs:
    raise ValueError(
      f"{num_inputs} inputs are no map of a {height}x{width} image"
    )
  return h, w


def attention_ari(
  attn: jax.Array, segments: jax.Array, *, num_segments: int
) -> jax.Array:
  """`adjusted_rand_index` of attention: an input belongs to its largest slot.

  The segments are scaled down to the feature map, by the nearest pixel
  (Section 4.2: to 32x32).

  Args:
    attn: [B, N, K] of one iteration.
    segments: int [B, H, W], 0 is background.
    num_segments: upper bound of the ids in segments, background included.

  Returns:
    float32 [B].
  """
  batch_size, num_inputs, num_slots = attn.shape
  size = map_size(num_inputs, *segments.shape[1:])
  return adjusted_rand_index(
    jax.image.resize(segments, (batch_size, *size), "nearest"),
    jnp.argmax(attn, axis=-1).reshape(batch_size, *size),
    num_true=num_segments,
    num_pred=num_slots,
  )


def average_precision(
  predictions: np.ndarray,
  targets: np.ndarray,
  thresholds: Sequence[float] = DISTANCE_THRESHOLDS,
) -> dict[float, float]:
  """Average precision of sets of CLEVR objects (Section 4.2, Figure 5).

  All predictions of all images are sorted by their real-object number,
  descending. A prediction is a true positive if the nearest real target of its
  image that has its size, material, shape and colour is nearer than the
  threshold and was not taken by an earlier one. The result is the area under
  the precision-recall curve, precision made monotone from the right.

  Args:
    predictions: [B, K, 19], in [0, 1].
    targets: [B, M, 19]; rows with real-object number 0 are padding.
    thresholds: distances in scene units, strict.

  Returns:
    Threshold to average precision in [0, 1]; 0 where no target is real.
  """
  predictions, targets = np.asarray(predictions), np.asarray(targets)
  num_images, num_slots, _ = predictions.shape
  num_targets = targets.shape[1]
  num_real = np.count_nonzero(targets[..., REAL_OBJECT])

  distances = COORDINATE_RANGE * np.linalg.norm(
    predictions[:, :, None, COORDINATES] - targets[:, None, :, COORDINATES],
    axis=-1,
  )
  candidates = np.broadcast_to(
    targets[:, None, :, REAL_OBJECT] != 0, distances.shape
  )
  for category in CATEGORIES.values():
    candidates = candidates & (
      predictions[..., category].argmax(-1)[:, :, None]
      == targets[..., category].argmax(-1)[:, None, :]
    )
  distances = np.where(candidates, distances, np.inf)
  nearest = distances.argmin(-1)
  distance = distances.min(-1).reshape(-1)
  has_candidate = candidates.any(-1).reshape(-1)
  # The nearest target's number among all targets of all images.
  target = (nearest + num_targets * np.arange(num_images)[:, None]).reshape(-1)

  order = np.argsort(-predictions[..., REAL_OBJECT].reshape(-1), kind="stable")
  distance, has_candidate = distance[order], has_candidate[order]
  target = target[order]
  rank = np.arange(1, num_images * num_slots + 1)

  results = {}
  for threshold in thresholds:
    (hits,) = np.nonzero(has_candidate & (distance < threshold))
    # Of the hits on one target, the first takes it.
    _, first = np.unique(target[hits], return_index=True)
    true_positive = np.zeros(len(rank), dtype=bool)
    true_positive[hits[first]] = True
    precision = np.cumsum(true_positive) / rank
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / num_real at each true positive.
    area = monotone[true_positive].sum()
    results[threshold] = float(area / num_real) if num_real else 0.0
  return results


@flax.struct.dataclass
class AveragePrecision(
  metrics.CollectingMetric.from_outputs(("predictions", "targets"))
):
  """clu metric: `average_precision` over everything collected."""

  def compute(self) -> dict[float, float]:
    """Threshold to average precision in [0, 1]."""
    values = super().compute()
    return average_precision(values["predictions"], values["targets"])


@flax.struct.dataclass
class ObjectDiscoveryMetrics(metrics.Collection):
  """Mean reconstruction loss over examples."""

  loss: metrics.Average.from_output("loss")


@flax.struct.dataclass
class ObjectDiscoveryWithMasksMetrics(metrics.Collection):
  """The same where masks are known, and the mean foreground ARI."""

  loss: metrics.Average.from_output("loss")
  fg_ari: metrics.Average.from_output("fg_ari")


@flax.struct.dataclass
class SetPredictionMetrics(metrics.Collection):
  """Mean Hungarian Huber loss, and average precision over all examples."""

  loss: metrics.Average.from_output("loss")
  ap: AveragePrecision


@flax.struct.dataclass
class SetPredictionWithMasksMetrics(metrics.Collection):
  """The same where masks are known, and the mean ARI of the attention."""

  loss: metrics.Average.from_output("loss")
  ap: AveragePrecision
  attn_ari: metrics.Average.from_output("attn_ari")
