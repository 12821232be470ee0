"""N-EM and R-NEM: expectation maximisation with a learned M-step.

"N-EM" is Greff et al., Neural Expectation Maximization, NeurIPS 2017,
https://arxiv.org/abs/1708.03498, with the code sjoerdvansteenkiste/Neural-EM.
"R-NEM" is van Steenkiste et al., Relational Neural Expectation Maximization,
ICLR 2018, https://arxiv.org/abs/1802.10353, with the code
sjoerdvansteenkiste/Relational-NEM, whose layers and loss stand here.

Both are models of videos. On a single image, every step sees the same image, as
N-EM does with its static shapes.

Letters in shapes: B batch, K slots, D slot size, T steps, H and W image, F
features. Images have one channel; inside the model, pixels are 0 or 1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.convolutions import Conv, relu
from slot_attention.models.layers import (
  Dense,
  LayerNorm,
  check_images,
  example_noise,
)
from slot_attention.models.mixtures import paint, to_unit

# The E-step adds this to likelihoods, and the loss clips probabilities to stay
# this far from 0 and 1.
_LEAST_PROBABILITY = 1e-6


class InputNetwork(nn.Module):
  """Encodes what each slot has left unexplained.

  A layer norm and an ELU follow every layer. The layer norms of convolutions
  are those of TensorFlow-Slim: they normalise over the whole feature map, and
  scale and shift every channel.

  Attributes:
    features: number of channels of each convolution, of stride 2.
    kernel_size: kernel size of the convolutions, in pixels.
    hidden_size: number of features F of the dense layer after them.
    flip_probability: probability that a pixel of the image is flipped, in
      training and in evaluation; every step draws anew.
  """

  features: tuple[int, ...] = (16, 32, 64)
  kernel_size: int = 4
  hidden_size: int = 512
  flip_probability: float = 0.2

  def __post_init__(self):
    check_at_least("features", self.features, 1)
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("hidden_size", self.hidden_size, 1)
    check_at_least("flip_probability", self.flip_probability, 0)
    if self.flip_probability > 1:
      raise ValueError(
        f"flip_probability={self.flip_probability} must be at most 1"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [B, K, H, W, 1] to features [B, K, F]."""
    batch_size, num_slots = images.shape[:2]
    x = images.reshape(batch_size * num_slots, *images.shape[2:])
    for i, features in enumerate(self.features):
      kernel_size = (self.kernel_size, self.kernel_size)
      x = Conv(features, kernel_size, (2, 2), name=f"conv_{i}")(x)
      x = nn.elu(_layer_norm_of_map(x, f"norm_{i}"))
    x = x.reshape(batch_size, num_slots, -1)
    x = Dense(self.hidden_size, name="dense")(x)
    return nn.elu(LayerNorm(name="norm")(x))


class RecurrentCell(nn.Module):
  """The M-step: updates every slot; the slots share it.

  Attributes:
    num_slots: number of slots K; a call of `NeuralEM` can override it.
    num_iterations: number of steps T; a call of `NeuralEM` can override it.
    slot_size: number of units D of the state and of the relational layers.
    use_relations: whether a slot sees the others (R-NEM, Section 2.2), or only
      its own state (N-EM).
    attention_size: number of hidden units of the attention between slots; not
      used without relations.
  """

  num_slots: int
  num_iterations: int = 30
  slot_size: int = 250
  use_relations: bool = True
  attention_size: int = 100

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("attention_size", self.attention_size, 1)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, inputs: jax.Array, state: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Maps inputs [B, K, F] and a state [B, K, D] to slots and a state.

    Returns:
      The slots that are decoded and the next state, [B, K, D] each. The layer
      norm acts on the slots only, not on the state, as in the code.
    """
    if self.use_relations:
      state = self._layer(state, self.slot_size, "encoder")
      state = jnp.concatenate([state, self._effects(state)], axis=-1)
    inputs = jnp.concatenate([state, inputs], axis=-1)
    x = Dense(self.slot_size, name="recurrent")(inputs)
    return nn.sigmoid(LayerNorm(name="norm")(x)), nn.sigmoid(x)

  def _effects(self, encoded):
    """Sums what the other slots do to each slot: [B, K, D] to [B, K, D].

    Axis 1 is the slot in focus, axis 2 that of its context.
    """
    num_slots = encoded.shape[1]
    shape = (*encoded.shape[:2], *encoded.shape[1:])
    focus = jnp.broadcast_to(encoded[:, :, None], shape)
    context = jnp.broadcast_to(encoded[:, None], shape)
    pairs = jnp.concatenate([focus, context], axis=-1)
    core = self._layer(pairs, self.slot_size, "core")
    effects = self._layer(core, self.slot_size, "context")
    attention = self._layer(core, self.attention_size, "attention", jnp.tanh)
    attention = nn.sigmoid(Dense(1, name="attention_out")(attention))
    others = 1 - jnp.eye(num_slots)[None, ..., None]
    return jnp.sum(others * attention * effects, axis=2)

  def _layer(self, x, size, name, activate=relu):
    x = Dense(size, name=f"{name}_dense")(x)
    return activate(LayerNorm(name=f"{name}_norm")(x))


class BernoulliDecoder(nn.Module):
  """Decodes every slot to the probability that a pixel is white.

  Dense layers are followed by convolutions, each after a resizing to twice the
  size by nearest neighbour. A layer norm and a ReLU follow every layer but the
  last, which has a sigmoid.

  Attributes:
    image_size: H and W, multiples of 2 to the power of the number of features.
    features: number of channels of the input of each convolution.
    kernel_size: kernel size of the convolutions, in pixels.
    hidden_size: number of units of the first layer.
  """

  image_size: tuple[int, int]
  features: tuple[int, ...] = (64, 32, 16)
  kernel_size: int = 4
  hidden_size: int = 512

  def __post_init__(self):
    check_at_least("image_size", self.image_size, 1)
    check_at_least("features", self.features, 1)
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("hidden_size", self.hidden_size, 1)
    if not self.features:
      raise ValueError("features=() must have an entry for each convolution")
    times = 2 ** len(self.features)
    if any(side % times for side in self.image_size):
      raise ValueError(
        f"image_size={tuple(self.image_size)} must be multiples of {times}:"
        f" features={tuple(self.features)} doubles {len(self.features)} times"
      )
    super().__post_init__()

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns height, width and channels of the decoded images."""
    return (*self.image_size, 1)

  @nn.compact
  def __call__(self, slots: jax.Array) -> jax.Array:
    """Maps slots [B, K, D] to probabilities [B, K, H, W, 1]."""
    batch_size, num_slots, _ = slots.shape
    height, width = (x // 2 ** len(self.features) for x in self.image_size)
    x = slots
    sizes = (self.hidden_size, height * width * self.features[0])
    for i, size in enumerate(sizes):
      x = Dense(size, name=f"dense_{i}")(x)
      x = relu(LayerNorm(name=f"dense_norm_{i}")(x))
    x = x.reshape(batch_size * num_slots, height, width, -1)
    kernel_size = (self.kernel_size, self.kernel_size)
    for i, features in enumerate((*self.features[1:], 1)):
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      x = Conv(features, kernel_size, name=f"conv_{i}")(x)
      if i + 1 < len(self.features):
        x = relu(_layer_norm_of_map(x, f"norm_{i}"))
    return nn.sigmoid(x).reshape(batch_size, num_slots, *self.image_shape)


class NeuralEM(nn.Module):
  """Object discovery by expectation maximisation in a spatial mixture."""

  input_network: InputNetwork
  cell: RecurrentCell
  bernoulli_decoder: BernoulliDecoder

  def __call__(
    self,
    images: jax.Array,
    *,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    noise: jax.Array | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Decomposes images into slots and reconstructs them.

    Args:
      images: [B, H, W, 1], -1 for black and 1 for white.
      num_slots: number of slots K in this call; None takes the module's. The
        slots share all parameters.
      num_iterations: number of steps T in this call; None takes the module's.
      noise: standard normal noise [B, K + T, H, W, 1]: of the first
        responsibilities, and of the flips of each step. If None, it is drawn
        from the random stream "slots".
      example_ids: int [B], default 0 .. B-1, see `SlotAttention`.

    Returns:
      A dict of
        slots: [B, K, D], of the last step;
        recons, masks, recon_combined: of these slots, see `mixtures.paint`. The
          masks are the responsibilities, so they depend on the image;
        nll: [B, T], the cross-entropy of the image under each slot, weighted by
          its responsibility, after every step;
        kl: [B, T], the KL divergence of a black pixel from each slot's
          prediction, weighted by 1 - responsibility. Both are summed over slots
          and pixels.

    Raises:
      ValueError: if the images do not have the shape that the decoder draws, or
        if K or T is below 1.
    """
    check_images(images, self.bernoulli_decoder)
    if num_slots is None:
      num_slots = self.cell.num_slots
    if num_iterations is None:
      num_iterations = self.cell.num_iterations
    check_at_least("num_slots", num_slots, 1)
    check_at_least("num_iterations", num_iterations, 1)
    if noise is None:
      noise = self._noise(images.shape, num_slots, num_iterations, example_ids)
    unit_images = to_unit(images)[:, None]

    masks = jnp.abs(noise[:, :num_slots])
    masks /= masks.sum(axis=1, keepdims=True)
    state = jnp.zeros((len(images), num_slots, self.cell.slot_size))
    first = (state, jnp.zeros_like(masks), masks)
    # A loop, since T is large: unrolled, it would take minutes to compile.
    (_, probabilities, masks), (slots, nll, kl) = nn.scan(
      lambda model, carry, noise: model.step(unit_images, *carry, noise),
      variable_broadcast="params",
      split_rngs={"params": False},
      in_axes=1,
      out_axes=1,
      length=num_iterations,
    )(self, first, noise[:, num_slots:])
    return {
      "slots": slots[:, -1],
      **paint(probabilities, masks),
      "nll": nll,
      "kl": kl,
    }

  def step(
    self,
    images: jax.Array,
    state: jax.Array,
    probabilities: jax.Array,
    masks: jax.Array,
    noise: jax.Array,
  ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Does an M-step and an E-step.

    Args:
      images: [B, 1, H, W, 1] in {0, 1}.
      state: [B, K, D], of the cell.
      probabilities: [B, K, H, W, 1], as decoded before.
      masks: [B, K, H, W, 1], the responsibilities before; no gradient flows
        through them.
      noise: [B, H, W, 1], standard normal.

    Returns:
      The next state, probabilities and masks; and the slots, [B, K, D], with
      the two terms of the loss, [B] each, see `__call__`.
    """
    is_flipped = jax.scipy.stats.norm.cdf(noise)[:, None] < (
      self.input_network.flip_probability
    )
    flipped = jnp.where(is_flipped, 1 - images, images)
    masks = jax.lax.stop_gradient(masks)
    inputs = self.input_network(masks * (flipped - probabilities))
    slots, state = self.cell(inputs, state)
    probabilities = self.bernoulli_decoder(slots)
    # The E-step sees the image without flips.
    likelihood = images * probabilities + (1 - images) * (1 - probabilities)
    likelihood += _LEAST_PROBABILITY
    masks = likelihood / likelihood.sum(axis=1, keepdims=True)
    terms = _terms(images, probabilities, jax.lax.stop_gradient(masks))
    return (state, probabilities, masks), (slots, *terms)

  def _noise(self, shape, num_slots, num_iterations, example_ids):
    batch_size, *rest = shape
    key = self.make_rng("slots")
    # What a step draws depends neither on K nor on T.
    steps = [
      example_noise(
        jax.random.fold_in(key, t), example_ids, (batch_size, count, *rest)
      )
      for t, count in enumerate((num_slots, *[1] * num_iterations))
    ]
    return jnp.concatenate(steps, axis=1)


def _terms(images, probabilities, masks):
  """Returns the two terms of a step's loss, [B] each (N-EM, equation 4)."""
  p = jnp.clip(probabilities, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
  black = -jnp.log(1 - p)  # The divergence of a pixel that is never white.
  cross_entropy = images * -jnp.log(p) + (1 - images) * black
  axes = (1, 2, 3, 4)
  return (
    jnp.sum(masks * cross_entropy, axis=axes),
    jnp.sum((1 - masks) * black, axis=axes),
  )


def _layer_norm_of_map(x, name):
  return LayerNorm(reduction_axes=(-3, -2, -1), name=name)(x)
