"""Models: functions of arrays, without configs, tasks or files."""

from slot_attention.models.attention import SlotAttention, soft_k_means
from slot_attention.models.slot_models import (
  Encoder,
  ObjectDiscovery,
  SetPrediction,
  SetPredictor,
  SlotMLP,
  SpatialBroadcastDecoder,
)

__all__ = [
  "Encoder",
  "ObjectDiscovery",
  "SetPrediction",
  "SetPredictor",
  "SlotAttention",
  "SlotMLP",
  "SpatialBroadcastDecoder",
  "soft_k_means",
]
