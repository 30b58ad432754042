"""A JumpReLU SAE of SAELens' own runner, swept over k beside a hierarchical one.

SAELens trains it on Gemma 3 270M, in SAELens' environment, in about ten minutes. The
hierarchical SAE is trained on the same documents at the same site. Both are kept in the
user's cache.
"""

import subprocess
from pathlib import Path
from typing import Any

import torch

import sae_lens_ext as sle
from benchmarks.measure import Mismatch
from sae_lens_ext.demo.bundled import cache_folder
from sae_lens_ext.demo.sae import demo_activations, held_out_tokens
from sae_lens_ext.objectives import HierarchicalTopK
from sae_lens_ext.training import TrainConfig, train

KS = [4, 8, 16, 32]
# What the table in the docs was made with; defaults may change.
_CONFIG = TrainConfig(
    d_sae=2048,
    k=32,
    objective=HierarchicalTopK(),
    epochs=5,
    batch_size=1024,
    lr=3e-3,
    decay=0.3,
    betas=(0.9, 0.999),
    apply_b_dec_to_input=True,
)
_ROWS = 16
_SAELENS_PYTHON = Path(".venv-saelens/bin/python")
_COLUMNS = ("l0", "fvu", "ce", "ce_recovered", "kl")


def run() -> dict[str, Any]:
    """Print the table; returns its numbers."""
    saes = cache_folder() / "saes"
    folder = saes / "gemma-3-270m-block-9-jumprelu-saelens"
    if not folder.exists():
        command = [_SAELENS_PYTHON, "-m", "benchmarks.jumprelu_saelens", folder]
        subprocess.run([str(part) for part in command], check=True)

    model = sle.load_bundled(progress=False)
    jumprelu = sle.SAE.from_pretrained(folder)
    hierarchical = _hierarchical(model, saes / "gemma-3-270m-block-9-hierarchical")
    tokens = held_out_tokens(model.tokenizer, n_rows=_ROWS)
    _check_definition(jumprelu, model, tokens)

    rows = []
    for name, sae in {"jumprelu": jumprelu, "hierarchical": hierarchical}.items():
        ks = [*KS, None] if sae.config.k is None else KS
        score = slice(None, None, 4)
        table = sle.sweep_k(model, tokens, sae, ks=ks, score=score, progress=False)
        for (_, numbers), k in zip(table.iterrows(), ks, strict=True):
            row = {"sae": name, "k": k}
            row |= {column: float(numbers[column]) for column in _COLUMNS}
            rows.append(row)
            printed = "  ".join(f"{column} {row[column]:.3f}" for column in _COLUMNS)
            print(f"{name:12s}  k={'all' if k is None else k!s:3s}  {printed}")
    ends = {end: table.attrs[end] for end in ("ce_bare", "ce_mean", "ce_zero")}
    print(ends)
    return {"rows": rows, **ends}


def _hierarchical(model: Any, folder: Path) -> sle.SAE:
    if not folder.exists():
        trained = train(demo_activations(model), _CONFIG)
        trained.sae.save_pretrained(folder)
    return sle.SAE.from_pretrained(folder)


def _check_definition(sae: sle.SAE, model: Any, tokens: torch.Tensor) -> None:
    """Compare an uncapped code with the formula, written out."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens[:1], names_filter=sae.config.hook_name)
        x = cache[sae.config.hook_name][:, 1:]
        pre = x @ sae.W_enc + sae.b_enc
        if sae.config.apply_b_dec_to_input:
            pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        acts = pre.relu() * (pre > sae.threshold)
        error = (sae.encode(x).dense() - acts).abs().max() / acts.abs().max()
    if not error < 1e-5:
        raise Mismatch(
            f"the SAE's code is not that of its definition, by {error:.1e} of the "
            "largest activation; not measured"
        )
