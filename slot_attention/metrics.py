"""Adjusted Rand index, mean best overlap and average precision.

Each has a clu metric, and `tasks` chooses among them.

Letters in shapes: B batch, H and W image, N inputs, K slots, M targets, P
numbers per object (19 on CLEVR).
"""

from collections.abc import Iterable, Sequence

from clu import metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np

# Positions of the numbers that describe a CLEVR object. The coordinates x, y, z
# in [-3, 3] are stored as (xyz + 3) / COORDINATE_RANGE.
COORDINATES = slice(0, 3)
CATEGORIES = {
  "size": slice(3, 5),
  "material": slice(5, 7),
  "shape": slice(7, 10),
  "color": slice(10, 18),
}
REAL_OBJECT = 18
COORDINATE_RANGE = 6.0

# Metrics whose names begin with one of these are shares, shown in percent. The
# others are losses, squared errors and numbers of slots.
PERCENT_PREFIXES = ("ap_", "ari", "attn_", "fg_", "mbo")

# Distance thresholds of average precision, in scene units (Figure 5, Table 3).
DISTANCE_THRESHOLDS = (np.inf, 1.0, 0.5, 0.25, 0.125)


def adjusted_rand_index(
  true_ids: jax.Array,
  pred_ids: jax.Array,
  *,
  num_true: int,
  num_pred: int,
  use_background: bool = False,
) -> jax.Array:
  """Computes the adjusted Rand index (Hubert and Arabie, 1985).

  Args:
    true_ids: int [B, ...], the true segment of every pixel. 0 is background or
      padding; 1 .. num_true - 1 are objects.
    pred_ids: int [B, ...], the predicted segment, 0 .. num_pred - 1.
    num_true: number of possible ids in true_ids, with the background.
    num_pred: number of possible ids in pred_ids.
    use_background: whether the background counts as one more segment. Else the
      pixels of the background are left out, as in the paper.

  Returns:
    float32 [B]: 1 for equal partitions, 0 on average for random ones. It is
    also 1 if both partitions have a single segment, or if no pixel counts.
  """
  counts = _count_overlaps(true_ids, pred_ids, num_true, num_pred)
  if not use_background:
    counts = counts[:, 1:]

  def pairs(n):
    return n * (n - 1) / 2

  all_pairs = jnp.maximum(pairs(counts.sum((1, 2))), 1)
  # Shares of the pairs of pixels that are in one segment in both partitions, in
  # the true one, and in the predicted one.
  both = pairs(counts).sum((1, 2)) / all_pairs
  in_true = pairs(counts.sum(2)).sum(1) / all_pairs
  in_pred = pairs(counts.sum(1)).sum(1) / all_pairs
  expected = in_true * in_pred
  headroom = (in_true + in_pred) / 2 - expected
  defined = headroom > 0
  return jnp.where(
    defined, (both - expected) / jnp.where(defined, headroom, 1), 1.0
  )


def mean_best_overlap(
  true_ids: jax.Array, pred_ids: jax.Array, *, num_true: int, num_pred: int
) -> jax.Array:
  """Computes the mean best overlap, mBO (Pont-Tuset et al., 2017).

  The overlap of two segments is their intersection over their union. Every
  object takes the predicted segment that overlaps it most; several objects may
  take the same one.

  Args:
    true_ids: int [B, ...], the true segment of every pixel. 0 is background; it
      is no object, but predicted segments that reach into it overlap less.
    pred_ids: int [B, ...], the predicted segment, 0 .. num_pred - 1.
    num_true: number of possible ids in true_ids, with the background.
    num_pred: number of possible ids in pred_ids.

  Returns:
    float32 [B] in [0, 1], the mean over the objects of an image; 1 if it has
    none.
  """
  counts = _count_overlaps(true_ids, pred_ids, num_true, num_pred)
  predicted = counts.sum(1, keepdims=True)
  counts = counts[:, 1:]
  objects = counts.sum(2, keepdims=True)
  overlaps = counts / jnp.maximum(objects + predicted - counts, 1)
  num_objects = (objects > 0).sum((1, 2))
  total = overlaps.max(2).sum(1)
  return jnp.where(num_objects, total / jnp.maximum(num_objects, 1), 1.0)


def _count_overlaps(true_ids, pred_ids, num_true, num_pred):
  """Counts the pixels of every pair of segments, float32 [B, true, pred]."""
  batch_size = true_ids.shape[0]
  true = jax.nn.one_hot(true_ids.reshape(batch_size, -1), num_true)
  pred = jax.nn.one_hot(pred_ids.reshape(batch_size, -1), num_pred)
  return jnp.einsum("bnt,bnp->btp", true, pred)


def foreground_ari(
  masks: jax.Array, segments: jax.Array, *, num_segments: int
) -> jax.Array:
  """Computes the adjusted Rand index of soft masks on the foreground.

  Every pixel belongs to its largest mask, see `adjusted_rand_index`.

  Args:
    masks: [B, K, H, W, 1].
    segments: int [B, H, W], the true segments; 0 is background.
    num_segments: number of possible ids in segments, with the background.

  Returns:
    float32 [B].
  """
  return segmentation_metrics(masks, segments, num_segments=num_segments)[
    "fg_ari"
  ]


def segmentation_metrics(
  masks: jax.Array, segments: jax.Array, *, num_segments: int
) -> dict[str, jax.Array]:
  """Compares soft masks with the true segments.

  Every pixel belongs to its largest mask.

  Args:
    masks: [B, K, H, W, 1].
    segments: int [B, H, W], the true segments; 0 is background.
    num_segments: number of possible ids in segments, with the background.

  Returns:
    A dict of float32 [B]: fg_ari, the adjusted Rand index of the foreground,
    which the paper reports; ari, which counts the background too; and mbo, the
    mean best overlap.
  """
  pred_ids = jnp.argmax(masks[..., 0], axis=1)
  sizes = {"num_true": num_segments, "num_pred": masks.shape[1]}
  return {
    "fg_ari": adjusted_rand_index(segments, pred_ids, **sizes),
    "ari": adjusted_rand_index(
      segments, pred_ids, **sizes, use_background=True
    ),
    "mbo": mean_best_overlap(segments, pred_ids, **sizes),
  }


def map_size(num_inputs: int, height: int, width: int) -> tuple[int, int]:
  """Returns height and width of the feature map of an image.

  Args:
    num_inputs: number of positions N in the feature map.
    height: height of the image. The feature map has the same proportions.
    width: width of the image.

  Raises:
    ValueError: if N positions cannot form a map of these proportions.
  """
  h = round((num_inputs * height / width) ** 0.5)
  w = round(h * width / height)
  if h * w != num_inputs:
    raise ValueError(
      f"{num_inputs} inputs do not form a feature map with the proportions of"
      f" a {height}x{width} image"
    )
  return h, w


def attention_ari(
  attn: jax.Array, segments: jax.Array, *, num_segments: int
) -> jax.Array:
  """Computes the adjusted Rand index of attention.

  Every input belongs to the slot with the largest attention. The segments are
  resized to the feature map by nearest neighbour (to 32x32 in Section 4.2).

  Args:
    attn: [B, N, K], the attention of one iteration.
    segments: int [B, H, W], the true segments; 0 is background.
    num_segments: number of possible ids in segments, with the background.

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
  """Computes the average precision (AP) on CLEVR (Section 4.2, Figure 5).

  The predictions of all images are sorted together by their real-object number,
  the confidence, in descending order. For each prediction, the nearest real
  target of its image is found among those with the same size, material, shape
  and colour. The prediction is a true positive if that target is nearer than
  the threshold and no earlier prediction has taken it. AP is the area under the
  precision-recall curve, where the precision at a recall is the largest one at
  that or any higher recall.

  Predictions of equal confidence keep their order: by image, then by slot. The
  official code sorts by NumPy's default algorithm, which leaves the order of
  equal values undefined. This matters where sigmoids saturate at 1.

  Args:
    predictions: [B, K, 19], in [0, 1].
    targets: [B, M, 19]; rows with real-object number 0 are padding.
    thresholds: distances in scene units. A hit must be strictly nearer.

  Returns:
    A dict from threshold to AP in [0, 1]. AP is 0 if no target is real.
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
  # Index of the nearest target among the targets of all images.
  target = (nearest + num_targets * np.arange(num_images)[:, None]).reshape(-1)

  order = np.argsort(-predictions[..., REAL_OBJECT].reshape(-1), kind="stable")
  distance, has_candidate = distance[order], has_candidate[order]
  target = target[order]
  rank = np.arange(1, num_images * num_slots + 1)

  results = {}
  for threshold in thresholds:
    (hits,) = np.nonzero(has_candidate & (distance < threshold))
    # If several predictions hit one target, only the first takes it.
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
  """The clu metric of `average_precision` over all collected examples."""

  def compute(self) -> dict[float, float]:
    """Returns a dict from threshold to average precision in [0, 1]."""
    values = super().compute()
    return average_precision(values["predictions"], values["targets"])


def averages(names: Iterable[str]) -> type[metrics.Collection]:
  """Makes a collection of numbers that are averaged over examples."""
  return metrics.Collection.create(
    **{name: metrics.Average.from_output(name) for name in names}
  )


@flax.struct.dataclass
class SetPredictionMetrics(metrics.Collection):
  """Hungarian Huber loss, averaged over examples, and average precision."""

  loss: metrics.Average.from_output("loss")
  ap: AveragePrecision


@flax.struct.dataclass
class SetPredictionWithMasksMetrics(metrics.Collection):
  """`SetPredictionMetrics`, and the mean ARI of the attention over examples."""

  loss: metrics.Average.from_output("loss")
  ap: AveragePrecision
  attn_ari: metrics.Average.from_output("attn_ari")
