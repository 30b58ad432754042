"""Multi-query associative recall (MQAR): the task, models trained on it, a circuit."""

from sae_lens_ext.experiments.recall.circuit import answers_at, soft_iou
from sae_lens_ext.experiments.recall.grid import train_grid
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe, model_for
from sae_lens_ext.experiments.recall.results import at_best_lr, differences, summary
from sae_lens_ext.experiments.recall.task import MQAR, UNLABELLED
from sae_lens_ext.experiments.recall.training import accuracy, train_mqar

__all__ = [
    "MQAR",
    "UNLABELLED",
    "Outcome",
    "Recipe",
    "accuracy",
    "answers_at",
    "at_best_lr",
    "differences",
    "model_for",
    "soft_iou",
    "summary",
    "train_grid",
    "train_mqar",
]
