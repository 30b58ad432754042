"""From text to a trained SAE: documents, tokens, activations, the loop."""

from sae_lens_ext.text import (
    TextRows,
    default_documents,
    documents,
    pack,
    split_documents,
)
from sae_lens_ext.training.activations import Activations, collect_activations
from sae_lens_ext.training.agreement import FeatureAgreement, feature_agreement
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.fisher import fisher_metric
from sae_lens_ext.training.loop import train
from sae_lens_ext.training.measures import recovered_ce
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.result import Trained
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.step import train_step
from sae_lens_ext.training.stream import (
    ActivationCache,
    ActivationStream,
    CacheStream,
    IterableStream,
    ModelStream,
    Pausable,
    RemembersFirst,
    SiteStatistics,
    StreamState,
    TensorStream,
    cache_activations,
)

__all__ = [
    "ActivationCache",
    "ActivationStream",
    "Activations",
    "CacheStream",
    "ErrorMetric",
    "FeatureAgreement",
    "IterableStream",
    "ModelStream",
    "Pausable",
    "RemembersFirst",
    "RunConfig",
    "SiteStatistics",
    "StreamState",
    "TensorStream",
    "TextRows",
    "TrainConfig",
    "Trained",
    "cache_activations",
    "collect_activations",
    "default_documents",
    "documents",
    "feature_agreement",
    "fisher_metric",
    "pack",
    "recovered_ce",
    "split_documents",
    "train",
    "train_step",
]
