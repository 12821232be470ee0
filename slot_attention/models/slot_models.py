"""The paper's two models (appendix E).

Letters in shapes: B batch, H and W image, C colour channels, h and w feature
map, N = h w inputs, K slots, D slot size, T iterations.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.convolutions import (
  Conv,
  ConvTranspose,
  convolve_broadcast,
  relu,
  sum_of_broadcast,
)
from slot_attention.models.layers import (
  MLP,
  Dense,
  LayerNorm,
  check_images,
  linear_coordinates,
  position_grid,
)
from slot_attention.models.slot_mlp import SlotMLP


class SoftPositionEmbedding(nn.Module):
  """Adds a learned projection of the position grid (E.2)."""

  @nn.compact
  def __call__(
    self, inputs: jax.Array, grid: jax.Array | None = None
  ) -> jax.Array:
    """Maps [B, h, w, D] to [B, h, w, D].

    A grid is [..., h, w, 2]; inputs [..., 1, 1, D] are repeated over it.
    """
    if grid is None:
      grid = position_grid(*inputs.shape[1:3])
    grid = grid.astype(inputs.dtype)
    return inputs + Dense(inputs.shape[-1], name="dense")(grid)


class Encoder(nn.Module):
  """Convolutional encoder with position embedding (Tables 4 and 5).

  Attributes:
    features: number of channels of each convolution; ReLU follows each one.
    strides: stride of each convolution.
    kernel_size: kernel size of all convolutions, in pixels.
    mlp_size: number of units of both layers of the per-location MLP.
    use_position_embedding: whether the position is embedded (Figure 8).
    input_scale: factor of the images. 1 in the paper. Above 1, the content of
      an image counts more beside the position embedding and the biases.
  """

  features: tuple[int, ...] = (64, 64, 64, 64)
  strides: tuple[int, ...] = (1, 1, 1, 1)
  kernel_size: int = 5
  mlp_size: int = 64
  use_position_embedding: bool = True
  input_scale: float = 1.0

  def __post_init__(self):
    _check_same_length(self.features, self.strides)
    check_at_least("features", self.features, 1)
    check_at_least("strides", self.strides, 1)
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("mlp_size", self.mlp_size, 1)
    check_at_least("input_scale", self.input_scale, 1e-3)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps images [B, H, W, C] in [-1, 1] to features [B, h, w, mlp_size]."""
    x = jnp.multiply(images, self.input_scale)
    for i, (features, stride) in enumerate(zip(self.features, self.strides)):
      conv = Conv(
        features,
        (self.kernel_size, self.kernel_size),
        (stride, stride),
        name=f"conv_{i}",
      )
      x = relu(conv(x))
    if self.use_position_embedding:
      x = SoftPositionEmbedding(name="position_embedding")(x)
    x = LayerNorm(name="layer_norm")(x)
    return MLP((self.mlp_size, self.mlp_size), name="mlp")(x)


class SpatialBroadcastDecoder(nn.Module):
  """Decodes every slot to an image and an alpha mask (Tables 6 and 7).

  Attributes:
    broadcast_size: height and width of the grid to which a slot is copied.
    features: number of channels of each transposed convolution except the last;
      ReLU follows each one.
    strides: strides of the same convolutions. The image is broadcast_size times
      their product.
    kernel_size: kernel size of the same convolutions, in pixels. The last
      convolution is always 3x3.
    channels: number of colour channels C of the image.
    remat_chunk_size: if above 0, the decoder processes that many slots at a
      time and recomputes their activations for the gradient. This is slower but
      keeps the activations of only one chunk in memory. 0 keeps all of them.
  """

  broadcast_size: tuple[int, int] = (8, 8)
  features: tuple[int, ...] = (64, 64, 64, 64, 64)
  strides: tuple[int, ...] = (2, 2, 2, 2, 1)
  kernel_size: int = 5
  channels: int = 3
  remat_chunk_size: int = 0

  def __post_init__(self):
    check_at_least("broadcast_size", self.broadcast_size, 1)
    _check_same_length(self.features, self.strides)
    check_at_least("features", self.features, 1)
    check_at_least("strides", self.strides, 1)
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("channels", self.channels, 1)
    check_at_least("remat_chunk_size", self.remat_chunk_size, 0)
    super().__post_init__()

  def setup(self):
    """Makes the layers."""
    self.position_embedding = SoftPositionEmbedding()
    self.convs = [
      ConvTranspose(
        features,
        (self.kernel_size, self.kernel_size),
        (stride, stride),
        name=f"conv_{i}",
      )
      for i, (features, stride) in enumerate(zip(self.features, self.strides))
    ]
    self.conv_out = ConvTranspose(self.channels + 1, (3, 3))

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns height, width and channels of the decoded images."""
    height, width = self.broadcast_size
    stride = math.prod(self.strides)
    return height * stride, width * stride, self.channels

  def __call__(
    self, slots: jax.Array, is_slot: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Decodes slots [B, K, D].

    Args:
      slots: [B, K, D].
      is_slot: bool [B, K], False where a slot is padding or removed: its mask
        is 0, and the others are as if it were not there. At least one slot of
        each image is True. None takes all slots.

    Returns:
      A dict of
        recons: [B, K, H, W, C], the image of every slot, roughly in [-1, 1];
        masks: [B, K, H, W, 1], alpha masks that sum to 1 over the slots;
        recon_combined: [B, H, W, C], the sum over slots of masks * recons.
    """
    batch_size, num_slots, _ = slots.shape
    slots, position = self._broadcast(slots)
    if self._use_shortcut:
      slots, position = convolve_broadcast(self.convs[0], slots, position)
    if self.remat_chunk_size and not self.is_initializing():
      x = self._decode_in_chunks(slots, position)
    else:
      x = self._decode(slots, position)
    x = x.reshape(batch_size, num_slots, *x.shape[1:])
    # Softmax and sum are float32, even if the convolutions are bfloat16.
    recons, alphas = jnp.split(x.astype(jnp.float32), (self.channels,), axis=-1)
    if is_slot is not None:
      is_slot = is_slot[:, :, None, None, None]
      alphas = jnp.where(is_slot, alphas, jnp.finfo(alphas.dtype).min)
    masks = nn.softmax(alphas, axis=1)
    return {
      "recons": recons,
      "masks": masks,
      "recon_combined": jnp.sum(masks * recons, axis=1),
    }

  def _broadcast(self, slots):
    """Returns [B K, 1, 1, D] and [1, h, w, D], whose sum is to be decoded."""
    batch_size, num_slots, size = slots.shape
    position = self.position_embedding(
      jnp.zeros((1, *self.broadcast_size, size), slots.dtype)
    )
    return slots.reshape(batch_size * num_slots, 1, 1, size), position

  @property
  def _use_shortcut(self):
    # The shortcut saves time only if the grid is larger than the kernel.
    return self.strides[0] == 1 and min(self.broadcast_size) > self.kernel_size

  def _decode(self, slots, position):
    """Maps slots [b, 1, 1, D] to colours and alpha logits [b, H, W, C + 1].

    With the shortcut, slots and position are what `convolve_broadcast` returns.
    """
    if self._use_shortcut:
      x = sum_of_broadcast(slots, position)
    else:
      x = self.convs[0](slots + position)
    for conv in self.convs[1:]:
      x = conv(relu(x))
    return self.conv_out(relu(x))

  def _decode_in_chunks(self, slots, position):
    """Does `_decode` with the activations of one chunk of slots at a time."""
    decoder, variables = self.unbind()
    decode = jax.checkpoint(
      lambda x: decoder.apply(variables, x, position, method="_decode")
    )
    size = min(self.remat_chunk_size, len(slots))
    whole = len(slots) - len(slots) % size
    chunks = slots[:whole].reshape(-1, size, *slots.shape[1:])
    x = jax.lax.map(decode, chunks)
    x = x.reshape(whole, *x.shape[2:])
    if whole < len(slots):
      x = jnp.concatenate([x, decode(slots[whole:])])
    return x


def check_sizes(encoder: nn.Module, slot_attention: nn.Module) -> None:
  """Raises a ValueError if slots do not fit inputs without projections."""
  if (
    not getattr(slot_attention, "use_projections", True)
    and encoder.mlp_size != slot_attention.slot_size
  ):
    raise ValueError(
      "slot_attention.use_projections=False compares inputs with slots"
      f" directly: encoder.mlp_size={encoder.mlp_size} must equal"
      f" slot_attention.slot_size={slot_attention.slot_size}"
    )


def check_frames(slot_attention: nn.Module, decoder: nn.Module) -> None:
  """Raises a ValueError unless slots and decoder have the same frame."""
  of_slots, of_decoder = (
    getattr(part, "frame", None) for part in (slot_attention, decoder)
  )
  if of_slots != of_decoder:
    raise ValueError(
      f"the frames of slots ({of_slots}) and decoder ({of_decoder}) differ:"
      " Invariant Slot Attention and its decoder need the same frame"
    )


class ObjectDiscovery(nn.Module):
  """Autoencoder whose bottleneck is a set of slots (Section 2.2)."""

  encoder: Encoder
  slot_attention: nn.Module  # `SlotAttention`, the Slot MLP, or another one.
  decoder: SpatialBroadcastDecoder

  def __post_init__(self):
    check_sizes(self.encoder, self.slot_attention)
    check_frames(self.slot_attention, self.decoder)
    super().__post_init__()

  def __call__(self, images: jax.Array, **kwargs) -> dict[str, jax.Array]:
    """Decomposes images into slots and reconstructs them.

    Args:
      images: [B, H, W, C] in [-1, 1].
      **kwargs: num_slots, num_iterations, slots, noise and example_ids of
        `SlotAttention.__call__`. The Slot MLP ignores example_ids and accepts
        none of the others.

    Returns:
      The outputs of `SpatialBroadcastDecoder` and of `SlotAttention` in one
      dict. Of the latter, the Slot MLP has only "slots".

    Raises:
      ValueError: if the images do not have the size that the decoder draws, or
        the Slot MLP gets an argument that it does not accept.
    """
    check_images(images, self.decoder)
    outputs = _slots(self.slot_attention, self.encoder(images), kwargs)
    # The decoder computes in the precision of the encoder.
    return {**outputs, **self.decoder(outputs["slots"].astype(images.dtype))}

  def decode(
    self, slots: jax.Array, is_slot: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Decodes slots [B, K, D] by `SpatialBroadcastDecoder` (Figure 3c)."""
    return self.decoder(slots, is_slot)


class SetPredictor(nn.Module):
  """MLP shared by the slots (Table 8).

  Attributes:
    num_outputs: how many numbers describe an object; 19 on CLEVR.
    hidden_size: number of units of the one hidden layer.
  """

  num_outputs: int = 19
  hidden_size: int = 64

  def __post_init__(self):
    check_at_least("num_outputs", self.num_outputs, 1)
    check_at_least("hidden_size", self.hidden_size, 1)
    super().__post_init__()

  @nn.compact
  def __call__(self, slots: jax.Array) -> jax.Array:
    """Maps [..., K, D] to [..., K, num_outputs] in [0, 1]."""
    sizes = (self.hidden_size, self.num_outputs)
    return nn.sigmoid(MLP(sizes, name="mlp")(slots))


class SetPrediction(nn.Module):
  """Predicts the set of objects in an image (Section 2.3)."""

  encoder: Encoder
  slot_attention: nn.Module
  classifier: SetPredictor

  def __post_init__(self):
    check_sizes(self.encoder, self.slot_attention)
    super().__post_init__()

  def __call__(self, images: jax.Array, **kwargs) -> dict[str, jax.Array]:
    """Predicts the properties of the objects in images.

    Args:
      images: [B, H, W, C] in [-1, 1].
      **kwargs: see `ObjectDiscovery`.

    Returns:
      The outputs of `SlotAttention` (for the Slot MLP only "slots") and
        predictions: [B, K, num_outputs], from the slots;
        predictions_per_iteration: [B, T, K, num_outputs], from the slots after
          every iteration. The Slot MLP does not have them.

    Raises:
      ValueError: if the Slot MLP gets an argument that it does not accept.
    """
    outputs = _slots(self.slot_attention, self.encoder(images), kwargs)
    outputs["predictions"] = self.classify(outputs["slots"])
    if "slots_per_iteration" in outputs:
      outputs["predictions_per_iteration"] = self.classify(
        outputs["slots_per_iteration"][:, 1:]
      )
    return outputs

  def classify(self, slots: jax.Array) -> jax.Array:
    """Predicts [..., K, num_outputs] from slots [..., K, D]."""
    return self.classifier(slots)


def _slots(module, features, kwargs):
  """Groups a feature map [B, h, w, D_inputs] into slots."""
  if isinstance(module, SlotMLP):
    fixed = sorted(
      name
      for name, value in kwargs.items()
      if name != "example_ids" and value is not None
    )
    if fixed:
      raise ValueError(
        f"the Slot MLP has no {', '.join(fixed)}: its slots come from one layer"
        " of fixed size"
      )
    return module(features)
  batch_size, height, width, size = features.shape
  if hasattr(module, "frame"):
    grid = linear_coordinates(height, width).reshape(height * width, 2)
    kwargs = {**kwargs, "grid": grid}
  return module(features.reshape(batch_size, height * width, size), **kwargs)


def _check_same_length(features, strides):
  if len(features) != len(strides) or not features:
    raise ValueError(
      f"features={tuple(features)} and strides={tuple(strides)} must have one"
      " entry for each convolution"
    )
