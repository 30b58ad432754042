"""From text to a trained SAE: documents, tokens, activations, the loop."""

from sae_lens_ext.text import default_documents, documents, pack, split_documents
from sae_lens_ext.training.activations import Activations, collect_activations
from sae_lens_ext.training.loop import TrainConfig, Trained, train
from sae_lens_ext.training.step import train_step

__all__ = [
    "Activations",
    "TrainConfig",
    "Trained",
    "collect_activations",
    "default_documents",
    "documents",
    "pack",
    "split_documents",
    "train",
    "train_step",
]
