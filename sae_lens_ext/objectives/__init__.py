"""What an SAE is trained to minimise: functions of its weights and a batch."""

from sae_lens_ext.objectives.base import Loss, Objective
from sae_lens_ext.objectives.hierarchical import HierarchicalTopK
from sae_lens_ext.objectives.topk import TopK

__all__ = ["HierarchicalTopK", "Loss", "Objective", "TopK"]
