"""Folders of trained models, for ``BasedForCausalLM.from_pretrained``."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe
from sae_lens_ext.experiments.recall.table import line_key
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.formats.atomic import saving

_FACTS = "mqar.json"


def model_folder(models: Path, recipe: Recipe, task: MQAR) -> Path:
    """The folder of a recipe's model.

    Its name is readable and ends in a mark that differs for every recipe and task.
    """
    key = json.dumps(line_key(recipe, task))
    mark = hashlib.sha256(key.encode()).hexdigest()[:8]
    return models / f"{recipe.kernel}-lr{recipe.lr:g}-seed{recipe.seed}-{mark}"


def save_model(
    folder: Path,
    model: BasedForCausalLM,
    recipe: Recipe,
    task: MQAR,
    outcome: Outcome,
) -> None:
    """Write the model and, in ``mqar.json`` beside it, what it was trained for.

    The folder is written whole or not at all.

    Raises:
        OSError: the folder cannot be written, or there is one with files in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # mkdtemp makes private folders; a folder made inside it has ordinary
        # permissions.
        whole = temporary / folder.name
        whole.mkdir()
        with saving(folder):
            model.save_pretrained(whole)

        facts = {
            "recipe": asdict(recipe),
            "task": asdict(task),
            "outcome": asdict(outcome),
        }
        text = json.dumps(facts, indent=2) + "\n"
        (whole / _FACTS).write_text(text, encoding="utf-8")
        whole.rename(folder)
    finally:
        shutil.rmtree(temporary)


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    return (folder / _FACTS).exists()
