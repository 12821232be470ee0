"""Models: functions of arrays, without configs, tasks or files."""

from slot_attention.models.attention import SlotAttention, soft_k_means
from slot_attention.models.iodine import Iodine, RefinementNetwork
from slot_attention.models.mixtures import PixelDecoder
from slot_attention.models.monet import (
  AttentionNetwork,
  ComponentEncoder,
  MONet,
  monet_loss,
)
from slot_attention.models.slot_models import (
  Encoder,
  ObjectDiscovery,
  SetPrediction,
  SetPredictor,
  SlotMLP,
  SpatialBroadcastDecoder,
)

__all__ = [
  "AttentionNetwork",
  "ComponentEncoder",
  "Encoder",
  "Iodine",
  "MONet",
  "ObjectDiscovery",
  "PixelDecoder",
  "RefinementNetwork",
  "SetPrediction",
  "SetPredictor",
  "SlotAttention",
  "SlotMLP",
  "SpatialBroadcastDecoder",
  "monet_loss",
  "soft_k_means",
]
