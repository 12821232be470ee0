"""What the rivals share: an image as a mixture of slots, and a decoder.

These models see images in [0, 1], as their likelihoods expect.
`to_unit` and `from_unit` convert from and to the [-1, 1] of this project.

Letters in shapes: B batch, K slots, D slot size, H and W image, C colour
channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, check_choice
from slot_attention.models.convolutions import (
  Conv,
  convolve_broadcast,
  relu,
  sum_of_broadcast,
)
from slot_attention.models.layers import linear_coordinates

ACTIVATIONS = {"elu": nn.elu, "relu": relu}
PADDINGS = ("SAME", "VALID")


def to_unit(images: jax.Array) -> jax.Array:
  """Maps images in [-1, 1] to [0, 1]."""
  return images / 2 + 0.5


def from_unit(images: jax.Array) -> jax.Array:
  """Maps images in [0, 1] to [-1, 1]."""
  return 2 * images - 1


def mixture_log_prob(log_probs: jax.Array, log_masks: jax.Array) -> jax.Array:
  """Computes the log probability of every pixel under a mixture of slots.

  The slots are mixed per pixel, not per colour channel.

  Args:
    log_probs: [B, K, H, W, 1], of the pixel under each slot, summed over the
      colour channels.
    log_masks: [B, K, H, W, 1]; the masks sum to 1 over the slots.

  Returns:
    [B, H, W, 1].
  """
  return jax.nn.logsumexp(log_masks + log_probs, axis=1)


def paint(colors: jax.Array, masks: jax.Array) -> dict[str, jax.Array]:
  """Makes what every model of object discovery returns.

  Args:
    colors: [B, K, H, W, C], roughly in [0, 1].
    masks: [B, K, H, W, 1], which sum to 1 over the slots.

  Returns:
    A dict of
      recons: [B, K, H, W, C], the image of every slot, roughly in [-1, 1];
      masks: [B, K, H, W, 1];
      recon_combined: [B, H, W, C], the sum over slots of masks * recons.
  """
  recons = from_unit(colors)
  recon_combined = jnp.sum(masks * recons, axis=1)
  return {"recons": recons, "masks": masks, "recon_combined": recon_combined}


class PixelDecoder(nn.Module):
  """Spatial broadcast decoder with coordinates as channels.

  It differs from `slot_models.SpatialBroadcastDecoder`, which adds a learned
  projection of the position. Every slot is copied to a grid, two channels with
  the coordinates are appended (Watters et al., 2019,
  https://arxiv.org/abs/1901.07017), and convolutions of stride 1 follow.

  Attributes:
    image_size: H and W. With padding "VALID", the grid is larger than the
      image by what the convolutions take away (MONet).
    features: number of channels of each convolution except the last; the
      activation follows each one.
    kernel_size: kernel size of the same convolutions, in pixels.
    output_kernel_size: kernel size of the last convolution.
    activation: "elu" (IODINE) or "relu" (MONet).
    padding: "SAME" (IODINE) or "VALID" (MONet).
    channels: number of colour channels C of the image.
  """

  image_size: tuple[int, int]
  features: tuple[int, ...]
  kernel_size: int
  output_kernel_size: int
  activation: str
  padding: str
  channels: int = 3

  def __post_init__(self):
    check_at_least("image_size", self.image_size, 1)
    check_at_least("features", self.features, 1)
    if not self.features:
      raise ValueError("features=() must have an entry for each convolution")
    check_at_least("kernel_size", self.kernel_size, 1)
    check_at_least("output_kernel_size", self.output_kernel_size, 1)
    check_choice("activation", self.activation, ACTIVATIONS)
    check_choice("padding", self.padding, PADDINGS)
    check_at_least("channels", self.channels, 1)
    super().__post_init__()

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns height, width and channels of the decoded images."""
    return (*self.image_size, self.channels)

  @nn.compact
  def __call__(self, slots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decodes slots [B, K, D].

    Returns:
      The colours of every slot, [B, K, H, W, C], which the loss pulls into [0,
      1], and mask logits, [B, K, H, W, 1].
    """
    batch_size, num_slots, size = slots.shape
    activate = ACTIVATIONS[self.activation]
    kernels = [self.kernel_size] * len(self.features) + [
      self.output_kernel_size
    ]
    convs = [
      Conv(features, (kernel, kernel), padding=self.padding, name=f"conv_{i}")
      for i, (features, kernel) in enumerate(
        zip((*self.features, self.channels + 1), kernels)
      )
    ]
    border = sum(kernels) - len(kernels) if self.padding == "VALID" else 0
    grid = linear_coordinates(*(side + border for side in self.image_size))
    # The channels are those of the slots and then the coordinates. Each of the
    # two summands has zeros in the place of the other.
    slots = jnp.pad(
      slots.reshape(batch_size * num_slots, 1, 1, size),
      ((0, 0), (0, 0), (0, 0), (0, 2)),
    )
    position = jnp.pad(grid, ((0, 0), (0, 0), (0, 0), (size, 0)))
    if self.kernel_size % 2 and min(grid.shape[1:3]) > self.kernel_size:
      x = sum_of_broadcast(*convolve_broadcast(convs[0], slots, position))
    else:
      x = convs[0](slots + position)
    for conv in convs[1:]:
      x = conv(activate(x))
    x = x.reshape(batch_size, num_slots, *x.shape[1:])
    colors, logits = jnp.split(x, (self.channels,), axis=-1)
    return colors, logits
