"""Slots that follow objects through a video: SAVi without conditioning.

"Paper" is Kipf et al., Conditional Object-Centric Learning from Video, ICLR
2022, https://arxiv.org/abs/2111.12594. Its code is
google-research/slot-attention-video, whose SAVi-S
(`savi/configs/movi/savi_conditional_small.py`) has the defaults here.

Letters in shapes: B batch, F frames, H and W image, C colour channels, N
inputs, K slots, D slot size, T iterations.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.attention import SlotAttention
from slot_attention.models.layers import MLP, LayerNorm
from slot_attention.models.mesh import MeshAttention
from slot_attention.models.slot_models import (
  Encoder,
  SpatialBroadcastDecoder,
  check_frames,
  check_sizes,
)


class SlotPredictor(nn.Module):
  """Transformer block that carries slots to the next frame.

  Self-attention and an MLP, each with a residual connection and a layer norm
  after it (`TransformerBlock` in `savi/modules/attention.py`).

  Attributes:
    num_heads: number of heads of the attention.
    attention_size: size of queries, keys and values, all heads together.
    mlp_hidden_size: number of hidden units of the MLP.

  Raises:
    ValueError: if a number is too small, or the size is not a multiple of the
      number of heads.
  """

  num_heads: int = 4
  attention_size: int = 128
  mlp_hidden_size: int = 256

  def __post_init__(self):
    check_at_least("num_heads", self.num_heads, 1)
    check_at_least("attention_size", self.attention_size, 1)
    check_at_least("mlp_hidden_size", self.mlp_hidden_size, 1)
    if self.attention_size % self.num_heads:
      raise ValueError(
        f"attention_size={self.attention_size} is not a multiple of"
        f" num_heads={self.num_heads}"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, slots: jax.Array) -> jax.Array:
    """Maps slots [B, K, D] of a frame to those expected in the next one."""
    attention = nn.MultiHeadDotProductAttention(
      num_heads=self.num_heads,
      qkv_features=self.attention_size,
      kernel_init=nn.initializers.glorot_uniform(),
      name="attention",
    )
    slots = LayerNorm(name="norm_attention")(slots + attention(slots))
    mlp = MLP((self.mlp_hidden_size, slots.shape[-1]), name="mlp")
    return LayerNorm(name="norm_mlp")(slots + mlp(slots))


class VideoDiscovery(nn.Module):
  """Object discovery in videos by a corrector and a predictor.

  The corrector is Slot Attention or MESH. In the first frame, it has its own
  initial slots; in a later frame, it starts from the slots that the predictor
  returns. The argument `slots` of a call is the paper's conditioning.

  Attributes:
    encoder: of single frames.
    slot_attention: the corrector; one iteration is the paper's number.
    slot_predictor: see `SlotPredictor`.
    decoder: of the slots of single frames.

  Raises:
    ValueError: if the decoder needs slots of Invariant Slot Attention, or if
      the predictor would get no gradient.
  """

  encoder: Encoder
  slot_attention: SlotAttention | MeshAttention
  slot_predictor: SlotPredictor
  decoder: SpatialBroadcastDecoder

  def __post_init__(self):
    check_sizes(self.encoder, self.slot_attention)
    check_frames(self.slot_attention, self.decoder)
    if getattr(self.slot_attention, "gradient", None) == "implicit":
      raise ValueError(
        "gradient='implicit' gives initial slots no gradient, so that the"
        " slot_predictor would not be trained: use 'bi_level' or 'unrolled'"
      )
    super().__post_init__()

  def __call__(self, video: jax.Array, **kwargs) -> dict[str, jax.Array]:
    """Decomposes the frames of a video into slots that follow objects.

    Args:
      video: [B, F, H, W, C] in [-1, 1].
      **kwargs: num_slots, slots and noise of `SlotAttention.__call__`, for the
        first frame, and num_iterations and example_ids, for all of them. To go
        on with a video, pass the last predicted slots as slots.

    Returns:
      A dict of
        slots: [B, F, K, D], corrected by their frame;
        predicted_slots: [B, F, K, D], expected in the frame after;
        attn: [B, F, T, N, K];
        recons, masks, recon_combined: see `SpatialBroadcastDecoder`, with an
          axis F after B.

    Raises:
      ValueError: if the video has another number of axes, or its frames do not
        have the size that the decoder draws.
    """
    if video.ndim != 5 or video.shape[2:] != self.decoder.image_shape:
      height, width, channels = self.decoder.image_shape
      raise ValueError(
        f"a video of shape {video.shape} must have shape [B, F, H, W, C] ="
        f" [B, F, {height}, {width}, {channels}], which the decoder draws"
      )
    batch_size, num_frames = video.shape[:2]
    # All frames are encoded, and later decoded, as one batch.
    features = self.encoder(video.reshape(-1, *video.shape[2:]))
    size = features.shape[-1]
    features = features.reshape(batch_size, num_frames, -1, size)
    passed = {
      name: kwargs.get(name) for name in ("num_iterations", "example_ids")
    }
    frames = []
    for t in range(num_frames):
      outputs = self.slot_attention(features[:, t], **kwargs)
      predicted = self.slot_predictor(outputs["slots"])
      frames.append(
        {
          "slots": outputs["slots"],
          "predicted_slots": predicted,
          "attn": outputs["attn"],
        }
      )
      kwargs = {"slots": predicted, **passed}
    states = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *frames)
    slots = states["slots"].astype(video.dtype)
    decoded = self.decoder(slots.reshape(-1, *slots.shape[2:]))
    return states | {
      name: x.reshape(batch_size, num_frames, *x.shape[1:])
      for name, x in decoded.items()
    }
