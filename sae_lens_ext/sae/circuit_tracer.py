"""Transcoders for circuit-tracer."""

from collections.abc import Sequence
from pathlib import Path

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats import write_circuit_tracer
from sae_lens_ext.sae.pretrained import checkpoint_of
from sae_lens_ext.sae.sae import SAE


def save_circuit_tracer(
    transcoders: SAE | Sequence[SAE],
    folder: str | Path,
    k: int | None = None,
    n_layers: int | None = None,
) -> Path:
    """Write transcoders as a set that circuit-tracer loads; returns the folder.

    ::

        sle.save_circuit_tracer(transcoder, "my_transcoders", k=8, n_layers=18)

    The folder has a ``layer_{n}.safetensors`` for each, by the blocks of their sites,
    and a ``config.yaml``. Transcoders of kind topk are used at ``k``; any other k up to
    the largest that they were trained at may be written into the config later. Features
    keep their numbers. Behind the last there are as many features of zeros as the
    largest k, because circuit-tracer's TopK has no ReLU: they take the places that
    negative pre-activations would get.

    Circuit-tracer reads ``activation`` and ``k`` in versions after 0.5.0. In 0.5.0, set
    ``transcoder.activation_function = TopK(k)`` after loading. It needs a transcoder
    for every layer of the model: with ``n_layers``, layers without one get one of
    zeros, as large as the others. All that the MLP of such a layer adds is an error
    node in circuit-tracer's graphs. ``docs/published_saes.md`` shows how to open a set.

    Args:
        transcoders: one, or one per layer; they write the width that they read.
        folder: where to write. Its files are replaced as one.
        k: active features per token, for the kind topk; None means the largest that
            they were trained at.
        n_layers: layers of the model; None writes the transcoders alone.

    Raises:
        InvalidArgument: not transcoders between sites of one block, that differ in the
            layer alone; ``n_layers`` that leaves one of them out; or a folder that
            cannot be written to, or holds other layers.
        InvalidK: k is out of range, or given for another kind.
        NonFinite: the weights hold NaN or infinity. Nothing is written.
    """
    listed = [transcoders] if isinstance(transcoders, SAE) else list(transcoders)
    for transcoder in listed:
        if not isinstance(transcoder, SAE):
            raise InvalidArgument(
                "give transcoders, as SAE objects; got an object of type "
                f"{type(transcoder).__name__}"
            )
    checkpoints = [
        checkpoint_of(transcoder.config, transcoder.weights(), {})
        for transcoder in listed
    ]
    return write_circuit_tracer(folder, checkpoints, k, n_layers)
