"""MONet: a recurrent attention network, and a VAE for what it attends to.

"Paper" is Burgess et al., MONet: Unsupervised Scene Decomposition and
Representation, 2019, https://arxiv.org/abs/1901.11390. Its code is not public.
"Genesis" is the reimplementation in applied-ai-lab/genesis, whose choices stand
where the paper is silent.

Letters in shapes: B batch, K slots, D slot size, H and W image, C colour
channels. Inside the model, images are in [0, 1].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.convolutions import Conv, relu
from slot_attention.models.layers import (
  MLP,
  Dense,
  check_images,
  example_noise,
)
from slot_attention.models.mixtures import (
  PixelDecoder,
  mixture_log_prob,
  paint,
  to_unit,
)

# Masks are clipped from below for their divergence (Genesis).
_LEAST_MASK = 1e-5


class AttentionNetwork(nn.Module):
  """U-Net that splits the scope (appendix B).

  Every block has a 3x3 convolution without bias, instance norm and ReLU. On
  the downward path, nearest-neighbour sampling halves height and width between
  blocks and rounds them up. The upward path mirrors the downward path and
  receives its outputs through skip connections.

  Attributes:
    num_slots: number of slots K, at least 2; a call of `MONet` can override it.
    features: number of channels of each block on the way down. Genesis has 4
      blocks for 32 pixels, 5 for 64 and 6 for 128.
    mlp_size: number of units of the two hidden layers between the two ways.
  """

  num_slots: int
  features: tuple[int, ...] = (32, 32, 64, 64, 64)
  mlp_size: int = 128

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 2)
    check_at_least("features", self.features, 1)
    if not self.features:
      raise ValueError("features=() must have an entry for each block")
    check_at_least("mlp_size", self.mlp_size, 1)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, log_scope: jax.Array) -> jax.Array:
    """Returns the logits [B, H, W, 1] of the share of the scope to attend to.

    Args:
      images: [B, H, W, C] in [0, 1].
      log_scope: [B, H, W, 1], at most 0.
    """
    x = jnp.concatenate([images, log_scope], axis=-1)
    skips = []
    for i, features in enumerate(self.features):
      x = _block(x[:, ::2, ::2] if i else x, features, f"down_{i}")
      skips.append(x)
    flat = x.reshape(len(x), -1)
    sizes = (self.mlp_size, self.mlp_size, flat.shape[-1])
    x = relu(MLP(sizes, name="mlp")(flat)).reshape(x.shape)
    # A block on the way up has as many channels as the next skip connection.
    for i, features in enumerate((*self.features[-2::-1], self.features[0])):
      skip = skips[-1 - i]
      x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
      x = _block(jnp.concatenate([x, skip], axis=-1), features, f"up_{i}")
    return Conv(1, (1, 1), name="conv_out")(x)


def _block(x, features, name):
  x = Conv(features, (3, 3), use_bias=False, name=f"{name}_conv")(x)
  return relu(nn.InstanceNorm(epsilon=1e-5, name=f"{name}_norm")(x))


class ComponentEncoder(nn.Module):
  """Encoder of the component VAE (appendix B).

  Attributes:
    slot_size: size D of a slot.
    features: number of channels of each convolution, 3x3 of stride 2; ReLU
      follows each one.
    mlp_size: number of units of the one hidden layer.
  """

  slot_size: int = 16
  features: tuple[int, ...] = (32, 32, 64, 64)
  mlp_size: int = 256

  def __post_init__(self):
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("features", self.features, 1)
    check_at_least("mlp_size", self.mlp_size, 1)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, images: jax.Array, log_masks: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes what each mask shows of the whole image.

    Args:
      images: [B, H, W, C] in [0, 1].
      log_masks: [B, K, H, W, 1].

    Returns:
      Mean and standard deviation of the posteriors, [B, K, D] each.
    """
    batch_size, num_slots, *size, _ = log_masks.shape
    images = jnp.broadcast_to(
      images[:, None], (batch_size, num_slots, *images.shape[1:])
    )
    x = jnp.concatenate([images, log_masks], axis=-1)
    x = x.reshape(batch_size * num_slots, *size, -1)
    for i, features in enumerate(self.features):
      x = relu(Conv(features, (3, 3), (2, 2), name=f"conv_{i}")(x))
    x = x.reshape(batch_size, num_slots, -1)
    x = relu(Dense(self.mlp_size, name="dense_0")(x))
    x = Dense(2 * self.slot_size, name="dense_1")(x)
    mean, deviation = jnp.split(x, 2, axis=-1)
    return mean, nn.softplus(deviation + 0.5) + 1e-8  # As Genesis.


class MONet(nn.Module):
  """Object discovery slot after slot.

  Raises:
    ValueError: if the images are too small for the attention network.
  """

  attention: AttentionNetwork
  component_encoder: ComponentEncoder
  pixel_decoder: PixelDecoder

  def __post_init__(self):
    halvings = len(self.attention.features) - 1
    height, width = self.pixel_decoder.image_size
    if min(height, width) < 2**halvings:
      raise ValueError(
        f"attention.features={self.attention.features} halves images {halvings}"
        f" times, so {height}x{width} pixels are too few: each side needs at"
        f" least {2**halvings}"
      )
    super().__post_init__()

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
      num_slots: number of slots K in this call; None takes the module's. The
        attention network makes K - 1 passes.
      num_iterations: must be None.
      noise: standard normal noise [B, K, D] of the samples. If None, it is
        drawn from the random stream "slots".
      example_ids: int [B], default 0 .. B-1, see `SlotAttention`.

    Returns:
      A dict of
        slots: [B, K, D], sampled from the posteriors;
        recons, masks, recon_combined: see `mixtures.paint`. The masks are those
          of the attention network;
        log_masks: [B, K, H, W, 1];
        decoded_log_masks: [B, K, H, W, 1], as the VAE reconstructs them;
        scopes: [B, K, H, W, 1], what is left before each pass, 1 before the
          first;
        kl: [B], the divergence of the posteriors from the standard normal
          distribution, summed over slots and D.

    Raises:
      ValueError: if the images do not have the shape that the decoder draws, if
        K is below 1, or if num_iterations is given.
    """
    check_images(images, self.pixel_decoder)
    if num_iterations is not None:
      raise ValueError(
        "MONet has no num_iterations: it makes one pass for each slot but one"
      )
    if num_slots is None:
      num_slots = self.attention.num_slots
    check_at_least("num_slots", num_slots, 1)

    unit_images = to_unit(images)
    log_masks, log_scopes = self._attend(unit_images, num_slots)
    mean, deviation = self.component_encoder(unit_images, log_masks)
    if noise is None:
      noise = example_noise(self.make_rng("slots"), example_ids, mean.shape)
    slots = mean + deviation * noise
    divergence = jnp.square(mean) + jnp.square(deviation) - 1
    divergence = divergence / 2 - jnp.log(deviation)

    colors, logits = self.pixel_decoder(slots)
    return {
      "slots": slots,
      **paint(colors, jnp.exp(log_masks)),
      "log_masks": log_masks,
      "decoded_log_masks": nn.log_softmax(logits, axis=1),
      "scopes": jnp.exp(log_scopes),
      "kl": divergence.sum(axis=(1, 2)),
    }

  def _attend(self, images, num_slots):
    """Returns log masks and log scopes, [B, K, H, W, 1] each."""
    log_scopes = [jnp.zeros_like(images[..., :1])]
    log_masks = []
    for _ in range(num_slots - 1):
      logits = self.attention(images, log_scopes[-1])
      log_masks.append(log_scopes[-1] + nn.log_sigmoid(logits))
      log_scopes.append(log_scopes[-1] + nn.log_sigmoid(-logits))
    log_masks.append(log_scopes[-1])  # The last mask is what is left.
    return jnp.stack(log_masks, axis=1), jnp.stack(log_scopes, axis=1)


def monet_loss(
  outputs: dict[str, jax.Array],
  images: jax.Array,
  *,
  sigma_background: float,
  sigma_foreground: float,
  beta: float,
  gamma: float,
) -> jax.Array:
  """Computes the loss of MONet.

  It is the negative log probability of the image in [0, 1] under a mixture of
  Gaussians, plus beta times the divergence of the slots, plus gamma times the
  divergence of the masks from the masks that the VAE reconstructs. The first
  and the last term are sums over the image.

  Args:
    outputs: of `MONet`.
    images: [B, H, W, C] in [-1, 1].
    sigma_background: standard deviation of the colours of the first slot, which
      is meant for the background.
    sigma_foreground: that of the other slots.
    beta: weight of the divergence of the slots.
    gamma: weight of the divergence of the masks.

  Returns:
    [B].
  """
  num_slots = outputs["masks"].shape[1]
  sigma = jnp.full((1, num_slots, 1, 1, 1), sigma_foreground)
  sigma = sigma.at[:, 0].set(sigma_background)
  difference = to_unit(images)[:, None] - to_unit(outputs["recons"])
  log_probs = jax.scipy.stats.norm.logpdf(difference, scale=sigma)
  log_prob = mixture_log_prob(
    log_probs.sum(axis=-1, keepdims=True), outputs["log_masks"]
  )
  masks, decoded = (
    _clipped(x)
    for x in (outputs["masks"], jnp.exp(outputs["decoded_log_masks"]))
  )
  mask_kl = jnp.sum(masks * (jnp.log(masks) - jnp.log(decoded)), axis=1)
  return (
    -log_prob.sum(axis=(1, 2, 3))
    + beta * outputs["kl"]
    + gamma * mask_kl.sum(axis=(1, 2, 3))
  )


def _clipped(masks):
  """Clips masks from below and normalises them over the slots."""
  masks = jnp.maximum(masks, _LEAST_MASK)
  return masks / masks.sum(axis=1, keepdims=True)
