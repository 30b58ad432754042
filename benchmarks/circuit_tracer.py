"""A hierarchical transcoder opened in circuit-tracer, at two values of k.

It is trained for the MLP of block 9 of Gemma 3 270M, written by
``save_circuit_tracer``, with zeros for the other layers, and opened in circuit-tracer's
own environment:

1. alone, on inputs of the MLP that this package recorded;
2. in circuit-tracer's replacement model, which runs Gemma 3 itself, and attributes what
   it predicts after a prompt to features.

``make bench-circuit-tracer`` builds the environment and runs it. Collecting and
training take some five minutes the first time; the transcoder is then in the user's
cache.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

import sae_lens_ext as sle
from benchmarks.measure import Mismatch
from sae_lens_ext.demo import cache_folder, held_out_tokens, prepare_bundled
from sae_lens_ext.errors import FormatError
from sae_lens_ext.hosts import capture, host_for
from sae_lens_ext.objectives import HierarchicalTopK
from sae_lens_ext.sae import FVU
from sae_lens_ext.text import TextRows, default_documents
from sae_lens_ext.training import CacheStream, TrainConfig, cache_activations

LAYER = 9
N_LAYERS = 18
KS = (8, 64)
SITES = (f"blocks.{LAYER}.mlp.hook_in", f"blocks.{LAYER}.hook_mlp_out")
CONFIG = TrainConfig(
    d_sae=2048,
    k=max(KS),
    objective=HierarchicalTopK(),
    batch_size=1024,
    lr=3e-3,
    decay=0.3,
    betas=(0.9, 0.999),
    hook_name=SITES[0],
    hook_name_out=SITES[1],
)
PROMPT = "The capital of France is"
# Of the largest number of a token.
TOLERANCE = 1e-4
_N_TOKENS = 60_000
_EPOCHS = 5
_ROWS = 8
_PYTHON = Path(".venv-circuit-tracer/bin/python")


class Recorded(NamedTuple):
    """What this package reads from the model."""

    tokens: Int[Tensor, "row pos"]
    x: Float[Tensor, "row pos d_model"]
    """What the MLP reads, behind its norm."""
    y: Float[Tensor, "row pos d_model"]
    """What it adds to the stream, behind the norm that follows."""


def run(python: Path = _PYTHON) -> dict[str, Any]:
    """Print the comparison; returns its numbers.

    Args:
        python: the Python program of an environment with circuit-tracer.

    Raises:
        Mismatch: circuit-tracer computes something else.
    """
    if not python.exists():
        raise SystemExit(
            f"there is no {python}: make bench-circuit-tracer builds the environment "
            "of circuit-tracer"
        )
    model = sle.load_bundled(progress=False)
    transcoder = trained_transcoder(model)
    text = recorded(model, held_out_tokens(model.tokenizer, n_rows=_ROWS))
    prompt = recorded(model, torch.tensor([model.tokenizer(PROMPT).input_ids]))

    with tempfile.TemporaryDirectory() as folder:
        theirs, answer = computed_by_circuit_tracer(
            python, Path(folder), transcoder, text, prompt
        )

    rows = []
    for k in KS:
        row = {
            "k": k,
            "fvu": fvu(transcoder, text, k),
            **compared(transcoder, k, text, prompt, theirs),
            "graph": answer["graphs"][str(k)],
        }
        rows.append(row)
        print(json.dumps(row))

    # Not the first token, BOS.
    error = (theirs["lens_x"] - text.x)[:, 1:].norm(dim=-1)
    lens_error = (error / text.x[:, 1:].norm(dim=-1)).median().item()
    print(f"inputs on circuit-tracer's TransformerLens backend: {lens_error:.3f} off")
    print(answer["versions"])
    return {"rows": rows, "lens_error": lens_error, "versions": answer["versions"]}


def trained_transcoder(model: Any) -> sle.SAE:
    """The transcoder, from the user's cache or trained now."""
    name = f"gemma-3-270m-block-{LAYER}-mlp"
    folder = cache_folder() / "saes" / f"{name}-transcoder"
    try:
        return sle.SAE.from_pretrained(folder)
    except FormatError:
        # Not there yet.
        pass

    cache = cache_activations(
        model,
        TextRows(default_documents, model.tokenizer, held_out=False),
        SITES,
        cache_folder() / "activations" / name,
        n_tokens=_N_TOKENS,
        model_name="google/gemma-3-270m",
    )
    trained = sle.train(CacheStream(cache, SITES, epochs=_EPOCHS), CONFIG)
    trained.sae.save_pretrained(folder)
    return sle.SAE.from_pretrained(folder)


@torch.no_grad()
def recorded(model: Any, tokens: Int[Tensor, "row pos"]) -> Recorded:
    """Run the model up to the end of the MLP."""
    host = host_for(model)
    sites = [host.site(name) for name in SITES]
    values = capture(host, tokens, sites)
    x, y = (values[site] for site in sites)
    return Recorded(tokens, x, y)


def computed_by_circuit_tracer(
    python: Path, folder: Path, transcoder: sle.SAE, text: Recorded, prompt: Recorded
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Write the transcoder for every k, and have circuit-tracer open it.

    Returns:
        Its tensors, and what it says besides; see ``benchmarks.circuit_tracer_peer``.
    """
    for k in KS:
        sle.save_circuit_tracer(transcoder, folder / f"set_{k}", k, n_layers=N_LAYERS)
    inputs = {"x": text.x, "tokens": text.tokens, "prompt": prompt.tokens[0]}
    save_file(inputs, folder / "inputs.safetensors")

    model_folder = prepare_bundled(progress=False)
    command = [python, "-m", "benchmarks.circuit_tracer_peer"]
    arguments = [model_folder, folder, LAYER]
    subprocess.run(
        [str(part) for part in (*command, *arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    answer = (folder / "answer.json").read_text(encoding="utf-8")
    return load_file(folder / "answer.safetensors"), json.loads(answer)


def fvu(transcoder: sle.SAE, text: Recorded, k: int) -> float:
    """The fraction of the output's variance unexplained at one k, BOS left out."""
    metric = FVU()
    with torch.no_grad():
        metric.update(text.y[:, 1:], transcoder(text.x[:, 1:], k))
    return metric.value()


@torch.no_grad()
def compared(
    transcoder: sle.SAE,
    k: int,
    text: Recorded,
    prompt: Recorded,
    theirs: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Compare circuit-tracer's numbers at one k with this package's.

    Returns:
        ``active``, the active features of all tokens together, and ``differences``.

    Raises:
        Mismatch: another feature is active, or a difference is above ``TOLERANCE``.
    """
    acts = transcoder.encode(text.x, k).dense()
    recons = transcoder(text.x, k)
    prompt_acts = transcoder.encode(prompt.x, k).dense()[0]
    graph_acts = torch.zeros_like(prompt_acts)
    layers, positions, features = theirs[f"graph_features_{k}"].T
    if not bool((layers == LAYER).all()):
        raise Mismatch(f"k={k}: a feature of a layer without a transcoder is active")
    graph_acts[positions, features] = theirs[f"graph_acts_{k}"]

    # Circuit-tracer leaves out the first token, BOS, where it runs the model.
    codes = {
        "alone": (theirs[f"acts_{k}"], acts),
        "in the model": (theirs[f"model_acts_{k}"][:, 1:], acts[:, 1:]),
        "in the graph": (graph_acts[1:], prompt_acts[1:]),
    }
    for name, (result, expected) in codes.items():
        refuse_other_features(name, result, expected)

    errors = theirs[f"model_errors_{k}"]
    pairs = {
        **codes,
        "reconstructions": (theirs[f"recons_{k}"], recons),
        "errors": (errors[:, 1:], (text.y - recons)[:, 1:]),
    }
    differences = {name: difference(*pair) for name, pair in pairs.items()}
    for name, value in differences.items():
        if not value <= TOLERANCE:
            raise Mismatch(f"{name}, k={k}: circuit-tracer differs by {value:.1e}")
    return {"active": int((acts != 0).sum()), "differences": differences}


def refuse_other_features(
    name: str,
    result: Float[Tensor, "*batch d_wide"],
    expected: Float[Tensor, "*batch d_sae"],
) -> None:
    """Check that the same features are active.

    Raises:
        Mismatch: they are not.
    """
    is_active = pad(expected, (0, result.shape[-1] - expected.shape[-1])) != 0
    n_others = int((is_active != (result != 0)).sum())
    if n_others:
        raise Mismatch(f"{name}: {n_others} features are active in one library alone")


def difference(
    result: Float[Tensor, "*batch d_wide"], expected: Float[Tensor, "*batch d"]
) -> float:
    """The largest difference, as a share of the largest number of its token.

    Circuit-tracer's features behind the last one are expected to be 0.
    """
    expected = pad(expected, (0, result.shape[-1] - expected.shape[-1]))
    error = (result - expected).abs().amax(-1)
    # A token may have no active feature.
    largest = expected.abs().amax(-1).clamp_min(torch.finfo(expected.dtype).tiny)
    return (error / largest).max().item()
