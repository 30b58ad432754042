"""An SAE with a model card, as a folder or as a repository of the Hugging Face hub."""

from sae_lens_ext.publishing.card import model_card, repository_name
from sae_lens_ext.publishing.hub import push_to_hub
from sae_lens_ext.publishing.results import Results, save_results

__all__ = ["Results", "model_card", "push_to_hub", "repository_name", "save_results"]
