"""AdaSlot: every image keeps as many slots as it needs.

"Paper" is Fan et al., Adaptive Slot Attention: Object Discovery with Dynamic
Slot Number, CVPR 2024, https://arxiv.org/abs/2406.09196. Its code is
amazon-science/AdaSlot.

Letters in shapes: B batch, K slots, D slot size, H and W image, C colour
channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.layers import MLP, LayerNorm, example_noise
from slot_attention.models.slot_models import ObjectDiscovery

# Keeps masks finite where no slot is kept (`MINOR` in `ocl/decoding.py`).
_EPSILON = 1e-5


class SlotSelector(nn.Module):
  """Decides which slots are kept (`SlotAttentionGumbelV1` in the code).

  In training the decision is a sample: a slot is kept if the logit of keeping
  it plus logistic noise, the difference of two Gumbel samples, is positive. The
  gradient is that of the sigmoid of this sum divided by the temperature
  (straight-through Gumbel-softmax). Without the random stream "training", the
  noise is zero.

  Attributes:
    hidden_size: number of hidden units of the MLP that scores a slot.
    temperature: of the Gumbel-softmax.

  Raises:
    ValueError: if a number is too small.
  """

  hidden_size: int = 256
  temperature: float = 1.0

  def __post_init__(self):
    check_at_least("hidden_size", self.hidden_size, 1)
    check_at_least("temperature", self.temperature, 1e-3)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, slots: jax.Array, example_ids: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Decides which of the slots [B, K, D] are kept.

    Args:
      slots: [B, K, D].
      example_ids: int [B], default 0 .. B-1. The noise drawn for an example
        depends only on the stream's key and on this id.

    Returns:
      A dict of
        keep: [B, K], 1 where a slot is kept and 0 where it is dropped;
        keep_logits: [B, K], the logit of keeping a slot.
    """
    x = LayerNorm(name="layer_norm")(slots)
    logits = MLP((self.hidden_size, 1), name="mlp")(x)[..., 0]
    sums = logits
    if self.has_rng("training"):
      sums = logits + example_noise(
        self.make_rng("training"),
        example_ids,
        logits.shape,
        jax.random.logistic,
      )
    soft = nn.sigmoid(sums / self.temperature)
    hard = (sums > 0).astype(soft.dtype)
    # The difference is zero, but its gradient is not.
    keep = hard + (soft - jax.lax.stop_gradient(soft))
    return {"keep": keep, "keep_logits": logits}


def drop_slots(
  outputs: dict[str, jax.Array], keep: jax.Array
) -> dict[str, jax.Array]:
  """Gives the pixels of dropped slots to the kept slots.

  Masks are multiplied by keep and normalised again (`mask_normalized` in
  `ocl/decoding.py`). Where the kept slots have masks of less than about 1e-5,
  the new masks sum to less than 1.

  Args:
    outputs: of `SpatialBroadcastDecoder`.
    keep: [B, K].

  Returns:
    The outputs with new masks and recon_combined.
  """
  masks = outputs["masks"] * keep[:, :, None, None, None]
  masks = masks / (masks.sum(axis=1, keepdims=True) + _EPSILON)
  recon_combined = jnp.sum(masks * outputs["recons"], axis=1)
  return {**outputs, "masks": masks, "recon_combined": recon_combined}


class AdaptiveObjectDiscovery(ObjectDiscovery):
  """Object discovery that drops slots, with any module that makes them."""

  slot_selector: SlotSelector

  def __call__(self, images: jax.Array, **kwargs) -> dict[str, jax.Array]:
    """Decomposes images into slots and reconstructs them by those it keeps.

    Args:
      images: [B, H, W, C] in [-1, 1].
      **kwargs: see `ObjectDiscovery`.

    Returns:
      The outputs of `ObjectDiscovery`, in which a dropped slot has an empty
      mask, and those of `SlotSelector`.

    Raises:
      ValueError: see `ObjectDiscovery`.
    """
    outputs = super().__call__(images, **kwargs)
    selected = self.slot_selector(outputs["slots"], kwargs.get("example_ids"))
    return {**drop_slots(outputs, selected["keep"]), **selected}

  def decode(
    self, slots: jax.Array, is_slot: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Decodes slots [B, K, D], of which it keeps some.

    Args:
      slots: [B, K, D].
      is_slot: bool [B, K], see `SpatialBroadcastDecoder`.
    """
    selected = self.slot_selector(slots)
    decoded = super().decode(slots, is_slot)
    return {**drop_slots(decoded, selected["keep"]), **selected}
