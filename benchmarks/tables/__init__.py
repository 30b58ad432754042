"""The numbers of ``benchmarks/results`` as tables of the README and the docs.

So every number that stands there was printed by a benchmark.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import circuits, kernels, models, saes

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "benchmarks" / "results"
PAGES = [
    _ROOT / "README.md",
    _ROOT / "docs" / "behaviours.md",
    _ROOT / "docs" / "circuits.md",
    _ROOT / "docs" / "features.md",
    _ROOT / "docs" / "interventions.md",
    _ROOT / "docs" / "published_saes.md",
    _ROOT / "docs" / "recipe.md",
    _ROOT / "docs" / "training.md",
]
_BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write() -> None:
    """Bring the tables up to date."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(updated(text), encoding="utf-8")


def updated(text: str) -> str:
    """Replace every block between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``."""
    return _BLOCK.sub(lambda block: block[1] + block_of(block[2]) + block[3], text)


def block_of(name: str) -> str:
    """A benchmark's table, with the machines and commits that it comes from."""
    files = {}
    for device in ("cpu", "cuda"):
        path = RESULTS / f"{name}-{device}.json"
        if path.exists():
            files[device] = json.loads(path.read_text(encoding="utf-8"))

    if not files:
        return f"Not measured yet; `python -m benchmarks {name}` does it.\n"
    results = {device: contents["results"] for device, contents in files.items()}
    machines = "; ".join(contents["machine"] for contents in files.values())
    return "\n".join([*_TABLES[name](results), "", f"({machines})", ""])


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "hierarchical_loss": kernels.hierarchical_loss,
    "sparse_decode": kernels.against("dense", "dense product"),
    "topk_encode": kernels.against("plain", "torch.topk"),
    "train_step": kernels.train_step,
    "quadratic_attention": kernels.quadratic_attention,
    "splice": models.splice,
    "sweep": models.sweep,
    "jumprelu": saes.jumprelu,
    "retrofit": saes.retrofit,
    "recipe": saes.recipe,
    "bundled_saes": saes.bundled_saes,
    "demo_saes": saes.demo_saes,
    "fisher_share": saes.fisher_share,
    "until_kl": models.until_kl,
    "feature_index": models.feature_index,
    "circuits": circuits.circuits,
    "circuit_memory": circuits.circuit_memory,
    "behaviours": circuits.behaviours,
    "train_run": saes.train_run,
    "circuit_tracer": models.circuit_tracer,
}
