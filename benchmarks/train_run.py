"""A training as a user runs it: from a text, and from cached activations.

On Gemma 3 270M after block 9, with 8,192 features and k = 64, side by side:

- a text is read and an SAE trained on it, against the model's forward pass to the site
  alone (the module of transformers, with ten layers and nothing of this package);
- an SAE is trained on a cache of activations, against SAELens' own trainer on the same
  activations in memory;
- the cache is read, against the training on it.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.measure import (
    Mismatch,
    in_environment,
    ratio,
    side_by_side,
    typical,
)
from benchmarks.train_step import SAELENS_PYTHON
from sae_lens_ext.demo import DEMO_SITE, prepare_bundled
from sae_lens_ext.demo.bundled import load_folder
from sae_lens_ext.text import default_documents, pack
from sae_lens_ext.training import (
    CacheStream,
    ModelStream,
    TrainConfig,
    cache_activations,
    collect_activations,
)

CONFIG = TrainConfig(d_sae=8192, k=64, batch_size=2048)
N_LAYERS = 10
"""Up to the site."""
ROWS_PER_PASS = 8
N_ROWS = 256
ROUNDS = 3


def run(peer: Path = SAELENS_PYTHON) -> dict[str, Any]:
    """Print the comparisons; returns their numbers.

    Args:
        peer: the Python program of an environment with SAELens.
    """
    model, tokenizer = load_folder(prepare_bundled())
    rows = pack(default_documents(), tokenizer, n_rows=N_ROWS)
    numbers = from_text(model, rows)
    with tempfile.TemporaryDirectory() as folder:
        cache_activations(model, rows, DEMO_SITE, folder, progress=False)
        numbers |= from_cache(folder)
        numbers["saelens"] = _beside(peer, folder)
    return numbers


def from_text(model: Any, rows: Int[Tensor, "row 128"]) -> dict[str, float]:
    """The whole job on a text, against the forward pass that it cannot do without."""
    calls = {
        "forward": forward(model, rows),
        "whole": lambda: train_on(
            ModelStream(
                model,
                rows,
                DEMO_SITE,
                batch_size=ROWS_PER_PASS,
                buffer_tokens=1 << 14,
            )
        ),
    }
    times = side_by_side(calls, rounds=ROUNDS)
    n_tokens = rows.numel()
    numbers = {
        "forward_s": typical(times, "forward"),
        "whole_s": typical(times, "whole"),
        "whole_over_forward": ratio(times, "whole", "forward"),
        "tokens": n_tokens,
    }
    print(
        f"from text: {n_tokens / numbers['whole_s']:,.0f} tokens/s, the forward pass "
        f"alone {n_tokens / numbers['forward_s']:,.0f}: "
        f"{numbers['whole_over_forward']:.2f} of its time",
        flush=True,
    )
    return numbers


def forward(model: Any, rows: Int[Tensor, "row 128"]) -> Callable[[], None]:
    """Runs the layers up to the site, without the unembedding, on all rows."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = N_LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:N_LAYERS]
    with torch.device("meta"):
        trunk = type(model.model)(config)
    trunk.load_state_dict(model.model.state_dict(), assign=True, strict=False)
    # What is computed from the config is not in the state.
    trunk.rotary_emb = model.model.rotary_emb
    trunk.embed_tokens = model.model.embed_tokens
    # A site is before the last norm.
    trunk.norm = torch.nn.Identity()
    trunk.eval()
    _check_trunk(model, trunk, rows[:1])

    def call() -> None:
        with torch.no_grad():
            for part in rows.split(ROWS_PER_PASS):
                trunk(part, use_cache=False)

    return call


def _check_trunk(model: Any, trunk: Any, row: Int[Tensor, "1 128"]) -> None:
    captured = collect_activations(
        model, row, DEMO_SITE, positions="all", progress=False
    )
    with torch.no_grad():
        found = trunk(row, use_cache=False).last_hidden_state[0]
    if not torch.allclose(found, captured.values, rtol=1e-4, atol=1e-2):
        raise Mismatch("the layers up to the site give other activations; not timed")


def train_on(stream: Any) -> None:
    """Train on all of a stream."""
    sle.train(stream, CONFIG, progress=False)


def from_cache(folder: str) -> dict[str, float]:
    """Training on a cache, against reading it."""
    calls = {
        "read": partial(read, folder),
        "train": lambda: train_on(CacheStream(folder)),
    }
    times = side_by_side(calls, rounds=ROUNDS)
    share = ratio(times, "read", "train")
    print(f"from a cache: reading takes {share:.1%} of the time", flush=True)
    return {"cached_s": typical(times, "train"), "read_share": share}


def read(folder: str) -> None:
    """Read all of a cache in batches of the training."""
    stream = CacheStream(folder)
    while len(stream.next_batch(CONFIG.batch_size)[DEMO_SITE]):
        pass


def _beside(python: Path, folder: str) -> dict[str, Any]:
    """SAELens' trainer beside ours, in its environment."""
    answer = in_environment(python, "benchmarks.train_run_saelens", folder)
    if not answer:
        return {}
    times = answer.pop("times")
    answer |= {f"{name}_s": typical(times, name) for name in times}
    answer["saelens_over_ours"] = ratio(times, "saelens", "ours")
    print(
        f"from a cache: {answer['saelens_over_ours']:.1f}x the speed of the trainer of "
        f"SAELens {answer['version']}",
        flush=True,
    )
    return answer
