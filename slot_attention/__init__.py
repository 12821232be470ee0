"""Slot Attention (Locatello et al., NeurIPS 2020) in JAX and Flax."""

from slot_attention.checks import check_started_module
from slot_attention.models.attention import SlotAttention, soft_k_means
from slot_attention.models.slot_models import ObjectDiscovery, SetPrediction

__version__ = "0.1.0"
__all__ = ["ObjectDiscovery", "SetPrediction", "SlotAttention", "soft_k_means"]

check_started_module()
