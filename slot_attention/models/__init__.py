"""Models: functions of arrays, without configs, tasks or files.

Every module raises a ValueError that names a field whose value is out of range.
"""

from slot_attention.models.adaslot import (
  AdaptiveObjectDiscovery,
  SlotSelector,
)
from slot_attention.models.attention import SlotAttention, soft_k_means
from slot_attention.models.dspn import (
  DSPN,
  ResNet,
  SetDecoder,
  SetEncoder,
  code_loss,
  from_targets,
)
from slot_attention.models.invariant import (
  InvariantDecoder,
  InvariantSlotAttention,
)
from slot_attention.models.iodine import Iodine, RefinementNetwork
from slot_attention.models.mesh import MeshAttention
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
from slot_attention.models.slot_mlp import SlotMLP
from slot_attention.models.slot_models import (
  Encoder,
  ObjectDiscovery,
  SetPrediction,
  SetPredictor,
  SpatialBroadcastDecoder,
)
from slot_attention.models.video import SlotPredictor, VideoDiscovery

__all__ = [
  "DSPN",
  "AdaptiveObjectDiscovery",
  "AttentionNetwork",
  "BernoulliDecoder",
  "ComponentEncoder",
  "Encoder",
  "InputNetwork",
  "InvariantDecoder",
  "InvariantSlotAttention",
  "Iodine",
  "MONet",
  "MeshAttention",
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
  "SlotPredictor",
  "SlotSelector",
  "SpatialBroadcastDecoder",
  "VideoDiscovery",
  "code_loss",
  "from_targets",
  "monet_loss",
  "soft_k_means",
]
