"""Slot Attention (Locatello et al., NeurIPS 2020) in JAX and Flax."""

from slot_attention.start import check_started_module, use_huge_pages

check_started_module()
use_huge_pages()

# A process that starts again does not import these twice: they take a second.
from slot_attention.models.attention import (  # noqa: E402
  SlotAttention,
  soft_k_means,
)
from slot_attention.models.slot_models import (  # noqa: E402
  ObjectDiscovery,
  SetPrediction,
)

__version__ = "0.1.0"
__all__ = ["ObjectDiscovery", "SetPrediction", "SlotAttention", "soft_k_means"]
