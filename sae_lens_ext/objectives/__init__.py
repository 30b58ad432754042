"""What an SAE is trained to minimise: functions of its weights and a batch."""

from sae_lens_ext.objectives.auxk import AuxK
from sae_lens_ext.objectives.base import Loss, Objective, Stateless
from sae_lens_ext.objectives.batch_topk import BatchTopK
from sae_lens_ext.objectives.hierarchical import HierarchicalTopK
from sae_lens_ext.objectives.jumprelu import JumpReLU
from sae_lens_ext.objectives.matryoshka import Matryoshka
from sae_lens_ext.objectives.multi_topk import MultiTopK
from sae_lens_ext.objectives.registry import OBJECTIVES, objective_named
from sae_lens_ext.objectives.relu import ReLU
from sae_lens_ext.objectives.topk import TopK
from sae_lens_ext.objectives.whole_batch import MeanOverTokens, Shareable, WholeBatch

__all__ = [
    "OBJECTIVES",
    "AuxK",
    "BatchTopK",
    "HierarchicalTopK",
    "JumpReLU",
    "Loss",
    "Matryoshka",
    "MeanOverTokens",
    "MultiTopK",
    "Objective",
    "ReLU",
    "Shareable",
    "Stateless",
    "TopK",
    "WholeBatch",
    "objective_named",
]
