"""The Slot MLP, the baseline that the paper compares with (appendix E).

Letters in shapes: B batch, h and w feature map, K slots, D slot size.
"""

import flax.linen as nn
import jax

from slot_attention.checks import check_at_least
from slot_attention.models.layers import MLP


class SlotMLP(nn.Module):
  """The baseline that replaces Slot Attention (Tables 9 and 10).

  Attributes:
    num_slots: number of slots K, fixed by the size of the last layer.
    slot_size: size D of a slot.
    hidden_sizes: hidden sizes of the MLP over all inputs: (512, 512) for set
      prediction, (512, 1024, 1024) for object discovery.
    slot_mlp_sizes: sizes of the MLP shared by the slots: () for set prediction,
      (64, 64) for object discovery, where the last one is the slot size.
    grid_size: side of the square grid to which the inputs are resized.

  Raises:
    ValueError: if a number is too small, or if the last of `slot_mlp_sizes` is
      not the slot size.
  """

  num_slots: int
  slot_size: int = 64
  hidden_sizes: tuple[int, ...] = (512, 512)
  slot_mlp_sizes: tuple[int, ...] = ()
  grid_size: int = 16

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("hidden_sizes", self.hidden_sizes, 1)
    check_at_least("slot_mlp_sizes", self.slot_mlp_sizes, 1)
    check_at_least("grid_size", self.grid_size, 1)
    if self.slot_mlp_sizes and self.slot_mlp_sizes[-1] != self.slot_size:
      raise ValueError(
        f"slot_mlp_sizes={self.slot_mlp_sizes} must end with"
        f" slot_size={self.slot_size}"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> dict[str, jax.Array]:
    """Maps a feature map [B, h, w, D_inputs] to {"slots": [B, K, D]}."""
    batch_size, _, _, inputs_size = inputs.shape
    # Bilinear without antialiasing, as TensorFlow resizes.
    x = jax.image.resize(
      inputs,
      (batch_size, self.grid_size, self.grid_size, inputs_size),
      "bilinear",
      antialias=False,
    )
    x = x.reshape(batch_size, -1)
    sizes = (*self.hidden_sizes, self.num_slots * self.slot_size)
    x = MLP(sizes, name="mlp")(x)
    slots = x.reshape(batch_size, self.num_slots, self.slot_size)
    if self.slot_mlp_sizes:
      slots = MLP(self.slot_mlp_sizes, name="slot_mlp")(slots)
    return {"slots": slots}
