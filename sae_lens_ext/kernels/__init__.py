"""Pure functions on tensors: the parts of SAEs and linear attention that must be fast.

=================== ==============================================================
topk_encode         activations -> the strongest active features, in one order
sparse_decode       features -> reconstruction
hierarchical_loss   the loss of every prefix of the features, with its gradients
quadratic_attention linear attention with the feature maps of Based and ReBased
=================== ==============================================================

Each one is a folder. ``reference.py`` is the definition in plain torch, ``cpu.py`` is
fast without a GPU, ``gpu.py`` is fast on one, in Triton, ``operator.py`` registers them
as torch operators, and ``__init__.py`` checks the arguments and picks one.
``backend=None`` picks by device; a backend that is named is used, or an error is
raised.
"""

from sae_lens_ext.kernels._checks import holds_numbers
from sae_lens_ext.kernels.hierarchical_loss import (
    HierarchicalParts,
    hierarchical_loss,
    hierarchical_loss_parts,
)
from sae_lens_ext.kernels.quadratic_attention import (
    Attended,
    AttentionState,
    Coefficients,
    quadratic_attention,
    quadratic_attention_step,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.sparse_decode import sparse_decode
from sae_lens_ext.kernels.topk_encode import topk_encode

__all__ = [
    "Attended",
    "AttentionState",
    "Coefficients",
    "HierarchicalParts",
    "hierarchical_loss",
    "hierarchical_loss_parts",
    "holds_numbers",
    "quadratic_attention",
    "quadratic_attention_step",
    "quadratic_attention_with_state",
    "sparse_decode",
    "topk_encode",
]
