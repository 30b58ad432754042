"""Runs that can be killed at any moment: their folders and checkpoints."""

from sae_lens_ext.training.checkpoints.capture import (
    captured,
    restore,
    statistics_of,
    stream_state_of,
)
from sae_lens_ext.training.checkpoints.facts import run_facts
from sae_lens_ext.training.checkpoints.folder import RunFolder, run_folder
from sae_lens_ext.training.checkpoints.random_states import restore_random_states
from sae_lens_ext.training.checkpoints.store import Checkpoint

__all__ = [
    "Checkpoint",
    "RunFolder",
    "captured",
    "restore",
    "restore_random_states",
    "run_facts",
    "run_folder",
    "statistics_of",
    "stream_state_of",
]
