"""Models: functions of arrays, without configs, tasks or files."""

from slot_attention.models.attention import SlotAttention, soft_k_means
from slot_attention.models.dspn import (
  DSPN,
  ResNet,
  SetDecoder,
  SetEncoder,
  code_loss,
  from_targets,
)
from slot_attention.models.iodine import Iodine, RefinementNetwork
from slot_attention.models.mixtures import PixelDecoder
from slot_attention.models.monet import (
  AttentionNetwork,
  ComponentEncoder,
  MONet,
  monet_loss,
)
from slot_attention.models.nem import (
  BernoulliDecoder,
  InputNetwork,
  NeuralEM,
  RecurrentCell,
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
  "DSPN",
  "AttentionNetwork",
  "BernoulliDecoder",
  "ComponentEncoder",
  "Encoder",
  "InputNetwork",
  "Iodine",
  "MONet",
  "NeuralEM",
  "ObjectDiscovery",
  "PixelDecoder",
  "RecurrentCell",
  "RefinementNetwork",
  "ResNet",
  "SetDecoder",
  "SetEncoder",
  "SetPrediction",
  "SetPredictor",
  "SlotAttention",
  "SlotMLP",
  "SpatialBroadcastDecoder",
  "code_loss",
  "from_targets",
  "monet_loss",
  "soft_k_means",
]
