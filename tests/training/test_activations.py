"""Activations are collected, cleaned, normalised and kept as documented."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.training import Activations, collect_activations

SITE = "blocks.1.hook_resid_post"


def test_collects_every_token_that_is_not_special(gemma2):
    tokens = tiny.tokens(rows=5, length=8)
    tokens[3, 4] = 1

    activations = collect_activations(
        gemma2, tokens, SITE, batch_size=2, progress=False
    )
    _, cache = gemma2.run_with_cache(tokens, names_filter=SITE)
    is_special = torch.isin(tokens, torch.tensor([0, 1, 2, 3]))

    torch.testing.assert_close(activations.values, cache[SITE][~is_special])
    assert activations.n_special == 6
    assert not activations.values.requires_grad


def test_rejects_tokens_that_are_all_special(gemma2):
    with pytest.raises(sle.InvalidArgument, match="all tokens are special tokens"):
        collect_activations(gemma2, torch.full((1, 4), 2), SITE, progress=False)


def test_rejects_an_unknown_site(gemma2):
    with pytest.raises(sle.UnknownSite, match="the closest"):
        collect_activations(
            gemma2, tiny.tokens(rows=5, length=8), "blocks.1.resid", progress=False
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_batch_size(gemma2):
    with pytest.raises(
        sle.InvalidArgument, match="batch_size must be a positive integer; got 0"
    ):
        collect_activations(gemma2, tiny.tokens(), SITE, batch_size=0, progress=False)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_dtype():
    with pytest.raises(
        sle.InvalidArgument,
        match="must be a tensor of float32, bfloat16 or float64; got torch.float16",
    ):
        Activations(torch.zeros(3, 4, dtype=torch.float16), "x")
    with pytest.raises(sle.InvalidArgument, match="hook_name must be a string; got No"):
        Activations(torch.zeros(3, 4), None)
    with pytest.raises(
        sle.InvalidArgument, match="hook_name must be a string; got \\["
    ):
        collect_activations(None, tiny.tokens(), [SITE], progress=False)


def test_shrinks_and_counts_outliers():
    values = torch.nn.functional.normalize(torch.randn(100, 6), dim=1)
    values[7] *= 50
    values[8] *= 5.9

    clipped = Activations(values, "x").outliers_clipped()

    assert clipped.n_outliers == 1
    torch.testing.assert_close(clipped.values[7], values[7] * 6 / 50)
    usual = [i for i in range(100) if i != 7]
    assert torch.equal(clipped.values[usual], values[usual])


def test_clipping_twice_counts_once_and_rows_of_zeros_do_not_count():
    values = torch.nn.functional.normalize(torch.randn(100, 6), dim=1).bfloat16()
    values[:5] *= 50
    once = Activations(values, "x").outliers_clipped()
    assert (once.n_outliers, once.outliers_clipped().n_outliers) == (5, 5)

    rows = torch.cat([torch.zeros(60, 4), torch.ones(40, 4)])
    mostly_zero = Activations(rows, "x").outliers_clipped()
    assert (mostly_zero.n_outliers, mostly_zero.values.sum().item()) == (0, 160)


def test_survives_saving_and_loading(tmp_path):
    path = tmp_path / "sub" / "a.safetensors"
    saved = Activations(
        torch.randn(5, 3).bfloat16(), "blocks.0.hook_mlp_out", n_special=4, n_outliers=2
    )
    saved.save(path)
    loaded = Activations.load(path)
    assert torch.equal(loaded.values, saved.values)
    assert (loaded.hook_name, loaded.n_special, loaded.n_outliers) == (
        "blocks.0.hook_mlp_out",
        4,
        2,
    )


def test_rejects_a_file_that_is_cut_or_missing(tmp_path):
    path = tmp_path / "a.safetensors"
    Activations(torch.randn(5, 3), "x").save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        sle.FormatError, match="is not a file that Activations.save wrote, or was cut"
    ):
        Activations.load(path)
    with pytest.raises(sle.FormatError, match="there is no file"):
        Activations.load(tmp_path / "nothing")


def test_collects_the_positions_that_are_chosen(model):
    site = "blocks.1.hook_resid_post"
    texts = ["w1 w2 w3", "w4", "w5 w6"]
    collected = collect_activations(model, texts, site, progress=False)
    assert (len(collected.values), collected.n_special) == (6, 3)

    # Two rows at once, so that a mask of all rows is cut.
    last = collect_activations(
        model, texts, site, positions=[-1], batch_size=2, progress=False
    )
    assert last.n_special == 0
    torch.testing.assert_close(last.values, collected.values[[2, 3, 5]])

    with pytest.raises(sle.InvalidArgument, match="positions chooses no token"):
        collect_activations(model, texts, site, positions=[9], progress=False)
