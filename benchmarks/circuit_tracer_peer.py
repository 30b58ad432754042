"""The part of ``benchmarks.circuit_tracer`` that needs circuit-tracer.

``benchmarks.circuit_tracer`` runs it in circuit-tracer's environment. It imports
nothing of this package: it opens the folders, and writes what circuit-tracer computes.
"""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

_CPU = torch.device("cpu")
_LIBRARIES = ("circuit-tracer", "transformers", "nnsight", "transformer-lens")


def main(model_folder: str, folder: Path, layer: int) -> None:
    """Open every set of transcoders in ``folder`` and compute with it.

    Args:
        model_folder: the language model.
        folder: holds ``inputs.safetensors``, with inputs of the transcoder, rows of
            tokens and a prompt. ``answer.safetensors`` and ``answer.json`` are written.
        layer: the layer whose transcoder is not of zeros.
    """
    inputs = load_file(folder / "inputs.safetensors")
    tensors: dict[str, Tensor] = {}
    graphs: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("set_*")):
        model, transcoder, k = opened(model_folder, path, layer)
        acts = transcoder.encode(inputs["x"])
        tensors[f"acts_{k}"] = acts
        tensors[f"recons_{k}"] = transcoder.decode(acts, inputs["x"])

        contexts = [model.setup_attribution(row) for row in inputs["tokens"]]
        tensors[f"model_acts_{k}"] = torch.stack(
            [context.activation_matrix.to_dense()[layer] for context in contexts]
        )
        tensors[f"model_errors_{k}"] = torch.stack(
            [context.error_vectors[layer] for context in contexts]
        )

        graph = attribute(inputs["prompt"], model, batch_size=64)
        graphs[k] = {
            "nodes": len(graph.adjacency_matrix),
            "edges": int((graph.adjacency_matrix != 0).sum()),
            "logits": [target.token_str for target in graph.logit_targets],
        }
        tensors[f"graph_features_{k}"] = graph.active_features
        tensors[f"graph_acts_{k}"] = graph.activation_values

    tensors["lens_x"] = inputs_on_lens(model_folder, path, inputs["tokens"], layer)
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "answer.safetensors")
    versions = {name: version(name) for name in _LIBRARIES}
    answer = json.dumps({"versions": versions, "graphs": graphs})
    (folder / "answer.json").write_text(answer, encoding="utf-8")


def opened(model_folder: str, path: Path, layer: int) -> tuple[Any, Any, int]:
    """The model with a set of transcoders, the one of a layer, and the config's k."""
    transcoders, k = loaded(path)
    model = ReplacementModel.from_pretrained_and_transcoders(
        model_folder, transcoders, backend="nnsight", device=_CPU
    )
    return model, transcoders[layer], k


def loaded(path: Path) -> tuple[Any, int]:
    """A set of transcoders, and the k of its config."""
    # An absolute path is found in the place of a name on the hub.
    transcoders, config = load_transcoder_from_hub(str(path), device=_CPU)
    for transcoder in transcoders:
        # Version 0.5.0 does not read it from the config.
        transcoder.activation_function = TopK(config["k"])
    return transcoders, config["k"]


def inputs_on_lens(model_folder: str, path: Path, tokens: Tensor, layer: int) -> Tensor:
    """What the transcoder of a layer reads on the TransformerLens backend."""
    hf_model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    transcoders, _ = loaded(path)
    model = ReplacementModel.from_pretrained_and_transcoders(
        "google/gemma-3-270m",
        transcoders,
        backend="transformerlens",
        device=_CPU,
        hf_model=hf_model,
        tokenizer=AutoTokenizer.from_pretrained(model_folder),
    )
    name = f"blocks.{layer}.{transcoders.feature_input_hook}"
    _, cache = model.run_with_cache(tokens, names_filter=name, stop_at_layer=layer + 1)
    return cache[name]


def _main(arguments: Sequence[str]) -> None:
    model_folder, folder, layer = arguments
    main(model_folder, Path(folder).resolve(), int(layer))


_main(sys.argv[1:])
