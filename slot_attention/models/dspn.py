"""DSPN: a set that gradient descent moves until its code is that of the image.

"Paper" is Zhang et al., Deep Set Prediction Networks, NeurIPS 2019,
https://arxiv.org/abs/1906.06565. "Official code" is Cyanogenoid/dspn. FSPool is
Zhang et al., FSPool: Learning Set Representations with Featurewise Sort
Pooling, ICLR 2020, https://arxiv.org/abs/1906.02795.

Letters in shapes: B batch, K elements, M targets, N elements of any set, P
numbers per element, D code size, T iterations, H and W image, C colour
channels, h and w feature map.

An element has the coordinates x / 3, y / 3 and z / 3, from -1 to 1, the one-hot
classes, and the mask, which is 1 for a real object. Padding is zero.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from slot_attention.checks import check_at_least
from slot_attention.models.convolutions import Conv, relu
from slot_attention.models.layers import MLP, Dense
from slot_attention.models.slot_models import Encoder

_COORDINATES = slice(0, 3)
_MASK = -1
# Channels of a group of the group norms (Wu and He, 2018).
_GROUP_SIZE = 16


class ResNet(nn.Module):
  """ResNet-34 without pooling and classifier, and one more convolution.

  The official code uses batch norm. This module uses group norm, so that the
  features of an image depend neither on its batch nor on training statistics.

  Attributes:
    features: number of channels of each stage, at most 16 or multiples of 16.
      Every stage but the first has stride 2.
    blocks: number of residual blocks of each stage.
  """

  features: tuple[int, ...] = (64, 128, 256, 512)
  blocks: tuple[int, ...] = (3, 4, 6, 3)

  def __post_init__(self):
    if len(self.features) != len(self.blocks) or not self.features:
      raise ValueError(
        f"features={tuple(self.features)} and blocks={tuple(self.blocks)} must"
        " have one entry for each stage"
      )
    check_at_least("features", self.features, 1)
    check_at_least("blocks", self.blocks, 1)
    if any(x > _GROUP_SIZE and x % _GROUP_SIZE for x in self.features):
      raise ValueError(
        f"features={tuple(self.features)} must be at most {_GROUP_SIZE} or"
        f" multiples of {_GROUP_SIZE}, the size of a group"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps images [B, H, W, C] in [-1, 1] to [B, h, w, features[-1]].

    h and w are H and W divided by 64 and rounded up, for four stages.
    """
    x = Conv(self.features[0], (7, 7), (2, 2), use_bias=False, name="stem")(
      images
    )
    x = relu(_norm(x, "stem_norm"))
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    for i, (features, blocks) in enumerate(zip(self.features, self.blocks)):
      for j in range(blocks):
        x = self._block(x, features, 2 if i and not j else 1, f"stage_{i}_{j}")
    x = Conv(self.features[-1], (3, 3), (2, 2), name="end")(x)
    return _norm(x, "end_norm")

  def _block(self, x, features, stride, name):
    def conv(x, size, stride, part):
      layer = Conv(
        features,
        (size, size),
        (stride, stride),
        use_bias=False,
        name=f"{name}_{part}",
      )
      return _norm(layer(x), f"{name}_{part}_norm")

    shortcut = x
    if stride > 1 or x.shape[-1] != features:
      shortcut = conv(x, 1, stride, "shortcut")
    x = relu(conv(x, 3, stride, "conv_0"))
    return relu(conv(x, 3, 1, "conv_1") + shortcut)


def _norm(x, name):
  group_size = min(_GROUP_SIZE, x.shape[-1])
  return nn.GroupNorm(
    num_groups=None, group_size=group_size, epsilon=1e-5, name=name
  )(x)


class FSPool(nn.Module):
  """Featurewise sort pooling: a sum of every feature, weighted by rank.

  The weight is a piecewise linear function of the rank, which goes from 0 for
  the largest value to 1 for the smallest. The function's values at the ends of
  its pieces are learned, for each feature.

  Attributes:
    num_pieces: number of pieces of the function.
  """

  num_pieces: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps a set [B, N, D] to [B, D], for any N."""
    _, size, features = inputs.shape
    weights = self.param(
      "weights", nn.initializers.normal(1.0), (self.num_pieces + 1, features)
    )
    place = self.num_pieces * jnp.linspace(0, 1, size)[:, None]
    left = jnp.minimum(place.astype(int), self.num_pieces - 1)[:, 0]
    share = place - left[:, None]
    weights = (1 - share) * weights[left] + share * weights[left + 1]
    # The sum of weighted values needs their ranks only, not their sorted order.
    weights = jnp.take_along_axis(weights[None], _descending_ranks(inputs), 1)
    return jnp.sum(weights * inputs, axis=1)


def _descending_ranks(inputs):
  """Ranks each feature of a set [B, N, D], from 0 for the largest value.

  A rank is the number of elements that come before, which one pass over the
  elements counts. On a CPU, XLA's sort takes longer.
  """
  inputs = jax.lax.stop_gradient(inputs)
  size = inputs.shape[1]
  places = jnp.arange(size)[None, :, None]

  def count(place, ranks):
    other = jax.lax.dynamic_slice_in_dim(inputs, place, 1, axis=1)
    # Of equal values, the first one has the smaller rank.
    return ranks + jnp.where(place < places, other >= inputs, other > inputs)

  zeros = jnp.zeros(inputs.shape, int)
  return jax.lax.fori_loop(0, size, count, zeros, unroll=5)


class SetEncoder(nn.Module):
  """Relation network with FSPool; the official code's RNFSEncoder.

  Attributes:
    code_size: size D of a code.
    hidden_size: number of units of the hidden layer.
    num_pieces: see `FSPool`.
  """

  code_size: int = 512
  hidden_size: int = 512
  num_pieces: int = 20

  def __post_init__(self):
    check_at_least("code_size", self.code_size, 1)
    check_at_least("hidden_size", self.hidden_size, 1)
    check_at_least("num_pieces", self.num_pieces, 1)
    super().__post_init__()

  @nn.compact
  def __call__(self, sets: jax.Array) -> jax.Array:
    """Maps sets [B, K, P], with the mask as a number, to codes [B, D]."""
    batch_size, num_elements, size = sets.shape
    shape = (batch_size, num_elements, num_elements, size)
    pairs = jnp.concatenate(
      [
        jnp.broadcast_to(sets[:, :, None], shape),
        jnp.broadcast_to(sets[:, None], shape),
      ],
      axis=-1,
    )
    x = MLP((self.hidden_size, self.code_size), name="mlp")(pairs)
    x = x.reshape(batch_size, num_elements**2, -1) / num_elements**2
    return FSPool(self.num_pieces, name="pool")(x)


class SetDecoder(nn.Module):
  """Moves a learned set by gradient descent (Algorithm 1).

  Attributes:
    num_slots: number of elements K, fixed by the learned first set.
    num_iterations: number of gradient steps T; a call can override it.
    inner_learning_rate: rate of these steps. The official code has 800 for a
      loss that is averaged over a batch of 32. The loss here is that of one
      example, for which the same rate is 800 / 32 = 25.
    num_outputs: numbers P of an element, with the mask; 19 on CLEVR.
  """

  num_slots: int
  num_iterations: int = 10
  inner_learning_rate: float = 25.0
  num_outputs: int = 19

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("inner_learning_rate", self.inner_learning_rate, 0)
    check_at_least("num_outputs", self.num_outputs, 4)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    codes: jax.Array,
    encode: Callable[[jax.Array], jax.Array],
    num_iterations: int | None = None,
  ) -> jax.Array:
    """Decodes codes [B, D] to sets [B, T + 1, K, P], the first set first.

    Args:
      codes: of the images.
      encode: a pure function from sets [B, K, P] to codes [B, D]. Gradients of
        a loss of the sets flow through its derivatives.
      num_iterations: number of gradient steps T; None takes the module's.
    """
    elements = self.param(
      "elements",
      nn.initializers.uniform(1.0),
      (self.num_slots, self.num_outputs - 1),
    )
    mask = self.param(
      "mask", nn.initializers.constant(0.5), (self.num_slots, 1)
    )
    first = _clip_mask(jnp.concatenate([elements, mask], axis=-1))
    first = jnp.broadcast_to(first[None], (len(codes), *first.shape))

    def step(sets, _):
      gradient = jax.grad(lambda x: code_loss(encode(x), codes).sum())(sets)
      sets = _clip_mask(sets - self.inner_learning_rate * gradient)
      return sets, sets

    length = self.num_iterations if num_iterations is None else num_iterations
    _, sets = jax.lax.scan(step, first, length=length)
    return jnp.moveaxis(jnp.concatenate([first[None], sets]), 0, 1)


class DSPN(nn.Module):
  """Predicts the set of objects in an image (Section 3.2)."""

  encoder: Encoder | ResNet
  set_encoder: SetEncoder
  set_decoder: SetDecoder

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    targets: jax.Array | None = None,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Predicts the properties of the objects in images.

    Args:
      images: [B, H, W, C] in [-1, 1].
      targets: [B, M, P], in the format of set prediction; only for the loss.
      num_slots: must be None or the module's.
      num_iterations: number of gradient steps T in this call; None takes the
        module's.
      example_ids: ignored, since nothing is random.

    Returns:
      A dict of
        slots: [B, K, P], the last set;
        slots_per_iteration: [B, T + 1, K, P], the learned first set first;
        predictions: [B, K, P], the last set in the format of set prediction;
        predictions_per_iteration: [B, T, K, P];
        codes: [B, D], of the images;
        target_codes: [B, D], of the targets, if they are given.

    Raises:
      ValueError: for another number of slots, or no gradient step.
    """
    del example_ids
    if num_slots not in (None, self.set_decoder.num_slots):
      raise ValueError(
        f"DSPN has no num_slots: its first set has {self.set_decoder.num_slots}"
        " learned elements"
      )
    if num_iterations is not None:
      check_at_least("num_iterations", num_iterations, 1)
    features = self.encoder(images).astype(jnp.float32)
    # The official code's last convolution covers the whole feature map.
    codes = Dense(self.set_encoder.code_size, name="code")(
      features.reshape(len(features), -1)
    )
    outputs = {"codes": codes}
    if self.is_initializing():  # `unbind` needs the parameters.
      self.set_encoder(jnp.zeros((1, 2, self.set_decoder.num_outputs)))
    if targets is not None:
      outputs["target_codes"] = self.set_encoder(self._elements(targets))
    set_encoder, variables = self.set_encoder.unbind()
    sets = self.set_decoder(
      codes, lambda x: set_encoder.apply(variables, x), num_iterations
    )
    predictions = to_predictions(sets[:, 1:])
    return {
      **outputs,
      "slots": sets[:, -1],
      "slots_per_iteration": sets,
      "predictions": predictions[:, -1],
      "predictions_per_iteration": predictions,
    }

  def _elements(self, targets):
    """Maps targets to elements, and appends padding until there are K.

    A code depends on the number of elements, and the predicted sets have K.
    """
    missing = max(0, self.set_decoder.num_slots - targets.shape[1])
    return jnp.pad(from_targets(targets), ((0, 0), (0, missing), (0, 0)))


def code_loss(codes: jax.Array, others: jax.Array) -> jax.Array:
  """Returns the Huber loss of codes [B, D], averaged over D: [B]."""
  return optax.losses.huber_loss(codes, others, delta=1.0).mean(axis=-1)


def from_targets(targets: jax.Array) -> jax.Array:
  """Maps targets [..., P] of set prediction to elements; padding stays zero."""
  is_real = targets[..., _MASK:]
  return targets.at[..., _COORDINATES].set(
    (2 * targets[..., _COORDINATES] - 1) * is_real
  )


def to_predictions(sets: jax.Array) -> jax.Array:
  """Maps elements [..., P] to the format of targets: coordinates in [0, 1]."""
  return sets.at[..., _COORDINATES].set((sets[..., _COORDINATES] + 1) / 2)


def _clip_mask(sets):
  return sets.at[..., _MASK].set(jnp.clip(sets[..., _MASK], 0, 1))
