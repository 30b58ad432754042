"""The norms in the weights tell Based from ReBased; other kernels are named."""

import pytest
from published import (
    HUB_CONFIG,
    NORMS,
    ZOOLOGY_CONFIG,
    renamed,
    weights_of,
    write_folder,
)

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


@pytest.mark.parametrize(
    ("norms", "kernel"),
    [
        ((), "based"),
        ((), "norm_square"),
        ((), "shifted_parabola"),
        (NORMS, "rebased"),
        (NORMS, "affine_square"),
    ],
)
def test_kernels_with_the_same_parameters_are_chosen_by_name(norms, kernel, tmp_path):
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG, norms))
    assert load_checkpoint(tmp_path, kernel=kernel).config.kernel == kernel


def test_rejects_a_kernel_that_the_weights_are_not_of(tmp_path):
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG, NORMS))
    for kernel in ("based", "scaled_square"):
        with pytest.raises(sle.FormatError) as caught:
            load_checkpoint(tmp_path, kernel=kernel)
        assert str(caught.value) == (
            f"kernel={kernel!r} has other parameters for the norm of queries and keys "
            f"than the weights of {tmp_path} (ln_q.weight, ln_q.bias, ln_k.weight, "
            "ln_k.bias); leave kernel out, or use one of rebased, affine_square"
        )

    write_folder(tmp_path, weights_of("hub", HUB_CONFIG))
    with pytest.raises(
        sle.FormatError,
        match=r"\(none\); leave kernel out, or use one of based, square, norm_square, "
        "shifted_para",
    ):
        load_checkpoint(tmp_path, kernel="rebased")


def test_a_norm_that_one_layer_lacks_is_missing_there(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    del weights["transformer.layers.4.mixer.ln_q.bias"]
    message = refusal(write_folder(tmp_path, weights))
    assert "missing: transformer.layers.4.mixer.ln_q.bias [12]" in message


def test_the_scalers_of_corl_s_ablations_are_not_taken_for_norms(tmp_path, refusal):
    weights = weights_of("zoology", ZOOLOGY_CONFIG, NORMS)
    for norm in NORMS:
        weights = renamed(weights, f"{norm}.weight", f"{norm}.gamma")
        weights = renamed(weights, f"{norm}.bias", f"{norm}.beta")
    message = refusal(write_folder(tmp_path, weights, ZOOLOGY_CONFIG))
    assert "missing" not in message
    assert "unknown: backbone.layers.1.sequence_mixer.mixer.ln_k.beta [16]" in message
