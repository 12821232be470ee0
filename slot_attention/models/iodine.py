"""IODINE: iterative refinement of the posteriors of K slots.

"Paper" is Greff et al., Multi-Object Representation Learning with Iterative
Variational Inference, ICML 2019, https://arxiv.org/abs/1903.00450. "Official
code" is the folder iodine of google-deepmind/deepmind-research.

Letters in shapes: B batch, K slots, D slot size, T refinements, H and W image,
C colour channels. Inside the model, images are in [0, 1].
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, check_choice
from slot_attention.models import layers
from slot_attention.models.convolutions import Conv
from slot_attention.models.layers import Dense, check_images, example_noise
from slot_attention.models.mixtures import (
  PixelDecoder,
  mixture_log_prob,
  paint,
  to_unit,
)

COORDINATE_ENCODINGS = ("linear", "cosine")

# The prior is not a standard normal distribution: the official code makes it
# from zeros, as it makes a posterior from its numbers. Its mean is 0.
PRIOR_VARIANCE = math.log(2)  # softplus(0)

# Inputs of the refinement network that have a layer norm and pass no gradient
# on: the two gradients and, as in the official code, two more.
_NORMALIZED = (
  "colors_gradient", "logits_gradient", "log_prob", "counterfactual",
)  # fmt: skip
# The official code appends these constants and calls them "legacy".
_DECODER_CONSTANT = 5.0
_REFINEMENT_CONSTANT = 0.5


class LSTM(nn.Module):
  """Long short-term memory with a forget gate that starts open, as Sonnet's.

  Attributes:
    size: number of units.
  """

  size: int

  @nn.compact
  def __call__(
    self, inputs: jax.Array, state: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Maps inputs [..., D_in] and a state to outputs [..., size] and a state.

    A state is (outputs, cells), [..., size] each.
    """
    outputs, cells = state
    gates = Dense(4 * self.size, name="gates")(
      jnp.concatenate([inputs, outputs], axis=-1)
    )
    input_, candidate, forget, output = jnp.split(gates, 4, axis=-1)
    cells = nn.sigmoid(forget + 1) * cells
    cells += nn.sigmoid(input_) * jnp.tanh(candidate)
    outputs = nn.sigmoid(output) * jnp.tanh(cells)
    return outputs, (outputs, cells)


class RefinementNetwork(nn.Module):
  """Updates the posterior of every slot; the slots share it.

  Attributes:
    num_slots: number of slots K, at least 2; a call of `Iodine` can override
      it.
    num_iterations: number of refinements T; a call of `Iodine` can override it.
    slot_size: size D of a slot. A posterior has 2 D numbers.
    features: number of channels of each convolution, of stride 2.
    kernel_size: kernel size of the convolutions, in pixels.
    mlp_sizes: sizes of the MLP after the average over the pixels.
    lstm_size: number of units of the LSTM after the MLP; 0 for none.
    coordinates: "linear" for two coordinate channels, or "cosine" for the 8
      channels cos(i x) cos(j y) with i and j from 0 to 2, without i = j = 0.
    scale: of the logistic distribution of a pixel's colours, which are in [0,
      1].
  """

  num_slots: int
  num_iterations: int = 5
  slot_size: int = 64
  features: tuple[int, ...] = (64, 64, 64, 64)
  kernel_size: int = 3
  mlp_sizes: tuple[int, ...] = (256, 256)
  lstm_size: int = 256
  coordinates: str = "linear"
  scale: float = 0.03

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 2)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("features", self.features, 1)
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("mlp_sizes", self.mlp_sizes, 1)
    check_at_least("lstm_size", self.lstm_size, 0)
    check_choice("coordinates", self.coordinates, COORDINATE_ENCODINGS)
    check_at_least("scale", self.scale, 1e-3)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    spatial: dict[str, jax.Array],
    posteriors: jax.Array,
    posteriors_gradient: jax.Array,
    state: tuple[jax.Array, jax.Array] | None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """Refines posteriors once.

    Args:
      spatial: see `Iodine.refinement_inputs`.
      posteriors: [B, K, 2 D].
      posteriors_gradient: [B, K, 2 D].
      state: of the LSTM; None before the first refinement.

    Returns:
      The next posteriors, [B, K, 2 D], and the next state.
    """
    batch_size, num_slots, _ = posteriors.shape
    images = [
      _layer_norm(x, (-3, -2, -1), name) if name in _NORMALIZED else x
      for name, x in spatial.items()
    ]
    height, width = images[0].shape[2:4]
    coordinates = self._coordinates(height, width)[None]
    constant = jnp.full((1, 1, height, width, 1), _REFINEMENT_CONSTANT)
    shape = (batch_size, num_slots, height, width)
    x = jnp.concatenate(
      [
        jnp.broadcast_to(x, (*shape, x.shape[-1]))
        for x in (*images, coordinates, constant)
      ],
      axis=-1,
    )
    x = x.reshape(batch_size * num_slots, height, width, -1)
    for i, features in enumerate(self.features):
      conv = Conv(
        features, (self.kernel_size, self.kernel_size), (2, 2), name=f"conv_{i}"
      )
      x = nn.elu(conv(x))
    x = x.mean(axis=(1, 2)).reshape(batch_size, num_slots, -1)
    for i, size in enumerate(self.mlp_sizes):
      x = Dense(size, name=f"dense_{i}")(nn.elu(x) if i else x)
    constant = jnp.full((batch_size, num_slots, 1), _REFINEMENT_CONSTANT)
    gradient = _layer_norm(posteriors_gradient, (-1,), "posteriors_gradient")
    x = jnp.concatenate([x, posteriors, gradient, constant], axis=-1)
    if self.lstm_size:
      if state is None:
        zeros = jnp.zeros((batch_size, num_slots, self.lstm_size))
        state = (zeros, zeros)
      x, state = LSTM(self.lstm_size, name="lstm")(x, state)
    return posteriors + Dense(2 * self.slot_size, name="head")(x), state

  def _coordinates(self, height, width):
    """Returns the coordinate channels, [1, height, width, 2 or 8]."""
    linear = layers.linear_coordinates(height, width)
    if self.coordinates == "linear":
      return linear
    angles = jnp.pi / 2 * (linear + 1)  # From 0 to pi.
    frequencies = jnp.arange(3.0)[None, None, None]
    y = jnp.cos(angles[..., :1] * frequencies)
    x = jnp.cos(angles[..., 1:] * frequencies)
    products = x[..., :, None] * y[..., None, :]
    return products.reshape(1, height, width, 9)[..., 1:]


class Iodine(nn.Module):
  """Object discovery by iterative variational inference (Algorithm 1)."""

  refinement: RefinementNetwork
  pixel_decoder: PixelDecoder

  @nn.compact
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
      images: [B, H, W, C] in [-1, 1].
      num_slots: number of slots K in this call, at least 2; None takes the
        module's. The slots share all parameters.
      num_iterations: number of refinements T in this call; None takes the
        module's.
      noise: standard normal noise [B, T + 1, K, D] of the samples. If None, it
        is drawn from the random stream "slots".
      example_ids: int [B], default 0 .. B-1, see `SlotAttention`.

    Returns:
      A dict of
        slots: [B, K, D], sampled from the last posteriors;
        slots_per_iteration: [B, T + 1, K, D], those of the first posteriors
          first;
        posteriors: [B, T + 1, K, 2 D], the means, then what softplus maps to
          the variances;
        recons, masks, recon_combined: of these slots, see `mixtures.paint`;
        nll: [B, T + 1], the negative log probability of the image in [0, 1],
          summed over its pixels, before and after every refinement;
        kl: [B, T + 1], the divergence of the posteriors from the prior, summed
          over slots and D.

    Raises:
      ValueError: if the images do not have the shape that the decoder draws, if
        K is below 2, or if T is below 1.
    """
    check_images(images, self.pixel_decoder)
    if num_slots is None:
      num_slots = self.refinement.num_slots
    if num_iterations is None:
      num_iterations = self.refinement.num_iterations
    check_at_least("num_slots", num_slots, 2)
    check_at_least("num_iterations", num_iterations, 1)
    batch_size, size = len(images), self.refinement.slot_size
    shape = (batch_size, num_slots, size)
    if noise is None:
      key = self.make_rng("slots")
      steps = [
        example_noise(jax.random.fold_in(key, t), example_ids, shape)
        for t in range(num_iterations + 1)
      ]
      noise = jnp.stack(steps, axis=1)

    unit_images = to_unit(images)[:, None]
    # One learned vector for all slots: only the noise tells them apart.
    first = self.param("first_posterior", _first_posterior, (2 * size,))
    posteriors = jnp.broadcast_to(
      first[None, None], (batch_size, num_slots, 2 * size)
    )
    state = None
    steps = []
    for t in range(num_iterations + 1):
      slots = _sample(posteriors, noise[:, t])
      colors, logits = self.pixel_decoder(_decoder_inputs(slots))
      log_probs = self._log_probs(unit_images, colors)
      log_prob = mixture_log_prob(log_probs, nn.log_softmax(logits, axis=1))
      steps.append(
        {
          "slots": slots,
          "posteriors": posteriors,
          "nll": -log_prob.sum(axis=(1, 2, 3)),
          "kl": _divergence(posteriors).sum(axis=1),
        }
      )
      if t < num_iterations:
        gradients = self._gradients(
          unit_images, posteriors, noise[:, t], colors, logits
        )
        spatial = self.refinement_inputs(unit_images, colors, logits, gradients)
        posteriors, state = self.refinement(
          spatial, posteriors, gradients[0], state
        )

    steps = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *steps)
    return {
      "slots": slots,
      "slots_per_iteration": steps.pop("slots"),
      **steps,
      **paint(colors, nn.softmax(logits, axis=1)),
    }

  def decode(self, slots: jax.Array) -> dict[str, jax.Array]:
    """Decodes slots [B, K, D] to the dict of `mixtures.paint`."""
    colors, logits = self.pixel_decoder(_decoder_inputs(slots))
    return paint(colors, nn.softmax(logits, axis=1))

  def refinement_inputs(
    self,
    images: jax.Array,
    colors: jax.Array,
    logits: jax.Array,
    gradients: tuple[jax.Array, jax.Array, jax.Array],
  ) -> dict[str, jax.Array]:
    """Makes the images that the refinement network sees.

    Args:
      images: [B, 1, H, W, C] in [0, 1].
      colors: [B, K, H, W, C], of the slots.
      logits: [B, K, H, W, 1], of the masks.
      gradients: of posteriors, colours and logits.

    Returns:
      A dict of arrays [B, K, H, W, ...], or [B, 1, H, W, ...] if the slots
      share them. The layer norms are not yet applied. Gradients flow through
      images, colours, logits, masks and posterior only.
    """
    log_probs = self._log_probs(images, colors)
    log_masks = nn.log_softmax(logits, axis=1)
    log_prob = mixture_log_prob(log_probs, log_masks)[:, None]
    # The log probability without each slot; the other masks are normalised.
    others = [
      mixture_log_prob(
        jnp.delete(log_probs, k, axis=1),
        nn.log_softmax(jnp.delete(logits, k, axis=1), axis=1),
      )
      for k in range(logits.shape[1])
    ]
    probs = jnp.exp(log_probs)  # The posterior is that of equal masks.
    _, colors_gradient, logits_gradient = gradients
    spatial = {
      "images": images,
      "colors": colors,
      "logits": logits,
      "masks": nn.softmax(logits, axis=1),
      "posterior": probs / (probs.sum(axis=1, keepdims=True) + 1e-6),
      "colors_gradient": colors_gradient,
      "logits_gradient": logits_gradient,
      "log_prob": log_prob,
      "counterfactual": log_prob - jnp.stack(others, axis=1),
    }
    return {
      name: jax.lax.stop_gradient(x) if name in _NORMALIZED else x
      for name, x in spatial.items()
    }

  def _log_probs(self, images, colors):
    """Computes log densities [B, K, H, W, 1] of logistic distributions."""
    z = jnp.abs(images - colors) / self.refinement.scale
    log_probs = -z - 2 * nn.softplus(-z) - jnp.log(self.refinement.scale)
    return log_probs.sum(axis=-1, keepdims=True)

  def _gradients(self, images, posteriors, noise, colors, logits):
    """Differentiates NLL + KL by posteriors, colours and logits.

    Training does not differentiate through these gradients, so it needs no
    second derivatives. XLA merges this use of the decoder with the other one.
    """
    decoder, variables = self.pixel_decoder.unbind()
    variables, posteriors = jax.lax.stop_gradient((variables, posteriors))

    # Both additions are zero: their gradients are those of colours and logits.
    def loss(posteriors, more_colors, more_logits):
      slots = _sample(posteriors, noise)
      colors, logits = decoder.apply(variables, _decoder_inputs(slots))
      log_masks = nn.log_softmax(logits + more_logits, axis=1)
      log_probs = self._log_probs(images, colors + more_colors)
      nll = -mixture_log_prob(log_probs, log_masks).sum()
      return nll + _divergence(posteriors).sum()

    gradients = jax.grad(loss, argnums=(0, 1, 2))(
      posteriors, jnp.zeros_like(colors), jnp.zeros_like(logits)
    )
    return jax.lax.stop_gradient(gradients)


def _layer_norm(x, axes, name):
  """Normalises over `axes`, with scale and bias of the last one, as Sonnet."""
  return nn.LayerNorm(
    epsilon=1e-5, reduction_axes=axes, name=f"layer_norm_{name}"
  )(x)


def _first_posterior(key, shape):
  """Draws Glorot uniform, which TensorFlow also does for a vector."""
  limit = (3 / shape[0]) ** 0.5
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def _moments(posteriors):
  """Returns mean and variance, [..., D] each, of posteriors [..., 2 D]."""
  mean, variance = jnp.split(posteriors, 2, axis=-1)
  return mean, nn.softplus(variance)


def _sample(posteriors, noise):
  mean, variance = _moments(posteriors)
  return mean + jnp.sqrt(variance) * noise


def _divergence(posteriors):
  """Returns the KL divergence from the prior, summed over D: [B, K]."""
  mean, variance = _moments(posteriors)
  ratio = variance / PRIOR_VARIANCE
  square = jnp.square(mean) / PRIOR_VARIANCE
  return jnp.sum(ratio + square - 1 - jnp.log(ratio), axis=-1) / 2


def _decoder_inputs(slots):
  """Appends the constant: [B, K, D] to [B, K, D + 1]."""
  padding = ((0, 0), (0, 0), (0, 1))
  return jnp.pad(slots, padding, constant_values=_DECODER_CONSTANT)
