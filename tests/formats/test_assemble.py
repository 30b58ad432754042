"""Tensors that do not fit together make no checkpoint."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats.assemble import assembled, json_values, transposed


def _assembled(kind="jumprelu", tensors=None, **options):
    options = {"apply_b_dec_to_input": False, **options}
    return assembled("x.pt", kind=kind, tensors=tensors or saes.matrices(), **options)


def test_sizes_come_from_the_encoder():
    checkpoint = _assembled()
    assert (checkpoint.d_model, checkpoint.d_sae) == (saes.D_MODEL, saes.D_SAE)
    assert (checkpoint.k, checkpoint.d_out) == (None, None)


def test_k_belongs_to_topk():
    tensors = saes.matrices(threshold=...)
    assert _assembled("topk", tensors, k=3).k == 3
    assert _assembled("relu", tensors, k=3).k is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "topk", "tensors": saes.matrices(threshold=...)},
            "k must be a posit",
        ),
        (
            {"kind": "topk", "tensors": saes.matrices(threshold=...), "k": 21},
            "k=21 is more than d_sae=20",
        ),
        ({"kind": "relu"}, "must hold exactly W_dec, W_enc, b_dec, b_enc; it holds"),
        ({"tensors": saes.matrices(threshold=...)}, "must hold exactly .*threshold"),
        ({"tensors": saes.matrices(W_enc=...)}, r"W_enc must be .*; it is missing"),
        ({"tensors": saes.matrices(W_enc=torch.zeros(0, 4))}, r"it is \[0, 4\]"),
        ({"d_out": 5}, r"W_dec must be \[20, 5\], by W_enc; it is \[20, 6\]"),
        ({"d_out": 6, "apply_b_dec_to_input": True}, "a transcoder with apply_b_dec"),
        (
            {"d_out": 6, "token_norm": "unit_norm"},
            "per-token normalisation 'unit_norm'",
        ),
        (
            {"tensors": saes.matrices(W_skip=torch.zeros(6, 6))},
            "must hold exactly W_dec, W_enc, b_dec, b_enc, threshold; it holds W_dec",
        ),
    ],
)
def test_rejects_parts_that_do_not_fit(options, message):
    with pytest.raises(sle.FormatError, match=f"x.pt.*{message}"):
        _assembled(**options)


def test_metadata_are_json_values():
    assert json_values("x", {"a": None, "b": (1, float("inf"))}) == {"b": [1, None]}
    with pytest.raises(sle.FormatError, match="its metadata must be JSON values"):
        json_values("x", {"a": {1, 2}})


def test_only_matrices_are_transposed():
    assert transposed(torch.zeros(2, 3)).shape == (3, 2)
    assert transposed(torch.zeros(2)).shape == (2,)
