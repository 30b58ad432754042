"""A training that starts from another SAE begins with the same function."""

import dataclasses

import pytest
import torch
from published_saes import D_MODEL, D_SAE, matrices, write
from small_training import (
    CONFIG,
    SITE,
    SITE_OUT,
    MemoryStream,
    metrics,
    run,
    same_weights,
    stopped,
    transcoder_values,
    values,
)

import sae_lens_ext as sle
from sae_lens_ext.objectives import BatchTopK, HierarchicalTopK, JumpReLU, ReLU, TopK
from sae_lens_ext.training.setup import new_trainer
from sae_lens_ext.training.start import digest

OBJECTIVES = {
    "topk": HierarchicalTopK(),
    "jumprelu": JumpReLU(),
    "batchtopk": BatchTopK(),
    "relu": ReLU(),
}


def start_sae(kind="topk", seed=0, dtype=torch.float32, **options):
    """A random SAE of raw activations, whose decoder rows have norms from 0.5 to 2."""
    config = sle.SAEConfig(
        **{
            "d_model": 12,
            "d_sae": 32,
            "kind": kind,
            "k": 4 if kind == "topk" else None,
            "hook_name": SITE,
            **options,
        }
    )
    generator = torch.Generator().manual_seed(seed)
    sae = sle.SAE(config, generator=generator)
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        sae.W_dec *= 0.5 + 1.5 * torch.rand(32, 1, generator=generator)
        # The mean of the activations at this coordinate.
        sae.b_dec[1] += 30
        if sae.threshold is not None:
            sae.threshold.abs_()
    return sae.to(dtype).eval()


def trainer(start, stream=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    generator = torch.Generator().manual_seed(0)
    stream = MemoryStream(n_tokens=640) if stream is None else stream
    return new_trainer(stream, config, generator, torch.device("cpu"), None, start)


def at_step_0(start, **options):
    """The SAE in training as it would be returned, and the trainer."""
    its_trainer = trainer(start, **options)
    return its_trainer.normalization.finished(its_trainer.state.sae), its_trainer


def assert_same_function(sae, start, x):
    """Codes and reconstructions at several k, and without one, are the same."""
    for k in (1, 3, None):
        code = sae.encode(x, k)
        expected = start.encode(x, k)
        is_active = expected.values > 0
        assert torch.equal(code.values > 0, is_active)
        assert torch.equal(code.indices[is_active], expected.indices[is_active])
        error = (sae(x, k) - start(x, k)).abs().max()
        # A few roundings of the largest number, which the mean is.
        assert error <= 1e-6 * start(x, k).abs().max()


@pytest.mark.parametrize("pre_bias", [False, True], ids=["plain", "pre_bias"])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_sae_in_training_computes_what_the_start_does(kind, pre_bias):
    start = start_sae(kind, apply_b_dec_to_input=pre_bias)
    sae, _ = at_step_0(start, objective=OBJECTIVES[kind])
    assert sae.is_normalized()
    assert sae.config.kind == kind
    assert_same_function(sae, start.float(), values())


@pytest.mark.parametrize("theirs", [False, True], ids=["plain", "pre_bias"])
@pytest.mark.parametrize("asked", [None, False, True])
def test_a_pre_bias_is_added_or_removed_as_the_config_asks(theirs, asked):
    start = start_sae(apply_b_dec_to_input=theirs)
    sae, _ = at_step_0(start, apply_b_dec_to_input=asked)
    assert sae.config.apply_b_dec_to_input == (theirs if asked is None else asked)
    assert_same_function(sae, start, values())


@pytest.mark.parametrize("asked", [False, True])
def test_a_new_sae_has_a_pre_bias_if_the_config_asks(asked):
    new, _ = at_step_0(None, apply_b_dec_to_input=asked)
    assert new.config.apply_b_dec_to_input == asked


def test_constants_of_the_start_are_replaced():
    start = start_sae().unfolded(torch.full((12,), 3.0), torch.tensor(0.2))
    sae, _ = at_step_0(start)
    assert not torch.equal(sae.activation_mean, start.activation_mean)
    assert_same_function(sae, start, values())


def test_half_precision_is_trained_in_float32():
    start = start_sae(dtype=torch.bfloat16)
    sae, _ = at_step_0(start)
    assert sae.W_enc.dtype == torch.float32
    assert start.W_enc.dtype == torch.bfloat16
    assert_same_function(sae, start.float(), values())


@pytest.mark.parametrize("skip", ["none", "theirs", "new"])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_a_transcoder_in_training_computes_what_the_start_does(kind, skip):
    start = start_sae(
        kind, d_out=10, hook_name_out=SITE_OUT, skip_connection=skip == "theirs"
    )
    sae, _ = at_step_0(
        start,
        stream=MemoryStream(transcoder_values(), n_tokens=640),
        objective=OBJECTIVES[kind],
        hook_name_out=SITE_OUT,
        skip_connection=skip != "none",
    )
    assert (sae.W_skip is not None) == (skip != "none")
    assert_same_function(sae, start, values())


def test_a_pre_bias_of_a_transcoder_moves_into_the_encoder():
    tensors = {SITE: values(), SITE_OUT: values().flip(1)}
    start = start_sae(d_out=12, hook_name_out=SITE_OUT, apply_b_dec_to_input=True)
    sae, _ = at_step_0(
        start, stream=MemoryStream(tensors, n_tokens=640), hook_name_out=SITE_OUT
    )
    assert not sae.config.apply_b_dec_to_input
    assert_same_function(sae, start, values())


@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk", "relu"])
def test_thresholds_give_way_to_the_k_largest(kind):
    start = start_sae(kind)
    sae, _ = at_step_0(start)
    weights = start.weights()
    weights.pop("threshold", None)
    config = dataclasses.replace(start.config, kind="topk", k=4)
    assert_same_function(sae, sle.SAE.from_tensors(config, **weights), values())


@pytest.mark.parametrize(
    ("kind", "objective"), [("jumprelu", BatchTopK()), ("batchtopk", JumpReLU())]
)
def test_thresholds_of_one_kind_are_those_of_the_other(kind, objective):
    start = start_sae(kind)
    sae, _ = at_step_0(start, objective=objective)
    assert sae.config.kind == objective.kind
    assert_same_function(sae, start, values())


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_thresholds_that_the_start_lacks_are_zero(kind):
    start = start_sae(kind)
    sae, _ = at_step_0(start, objective=JumpReLU())
    assert not sae.threshold.any()
    assert torch.equal(sae.W_dec, start.W_dec)


def test_training_keeps_the_norms_of_the_decoder_rows():
    start = start_sae()
    trained = run(config=dataclasses.replace(CONFIG, objective=TopK()), start=start)
    assert not torch.allclose(trained.sae.W_dec, start.W_dec, atol=1e-3)
    norms = [sae.W_dec.norm(dim=1) for sae in (trained.sae, start)]
    torch.testing.assert_close(*norms, atol=1e-6, rtol=1e-6)
    assert trained.losses[-1] < trained.losses[0]


def test_the_start_is_not_changed():
    start = start_sae("jumprelu")
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    run(start=start)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items()
    )


def test_a_published_folder_is_a_start(tmp_path):
    folder = tmp_path / "layer_0" / "width_20" / "average_l0_5"
    write(folder / "params.npz", matrices())
    start = sle.SAE.from_pretrained(folder)
    x = values(width=D_MODEL)
    stream = MemoryStream({SITE: x}, n_tokens=640)
    sae, _ = at_step_0(start, stream=stream, d_sae=D_SAE, objective=JumpReLU())
    assert_same_function(sae, start, x)


def test_every_mismatch_is_in_one_message():
    config = sle.SAEConfig(
        d_model=11,
        d_sae=33,
        k=2,
        token_norm="layer_norm",
        hook_name="blocks.1.hook_resid_post",
        model_name="google/gemma-2-2b",
    )
    with pytest.raises(sle.InvalidArgument) as raised:
        run(start=sle.SAE(config))
    message = str(raised.value)
    for part in (
        "the start SAE normalises every token (token_norm='layer_norm')",
        "has d_sae=33 features and the config asks for d_sae=32",
        "so set d_sae=33",
        f"reads width d_model=11 and activations of {SITE} have 12",
        f"start with sae.with_config(hook_name='{SITE}')",
        "has model_name='google/gemma-2-2b' and the training 'tiny'",
    ):
        assert part in message


def test_mismatches_of_transcoders_are_named():
    transcoder = start_sae(d_out=9, hook_name_out=SITE_OUT, skip_connection=True)
    with pytest.raises(sle.InvalidArgument, match="name the site of its output with"):
        run(start=transcoder)
    stream = MemoryStream(transcoder_values(), n_tokens=640)
    config = dataclasses.replace(CONFIG, hook_name_out=SITE_OUT)
    with pytest.raises(sle.InvalidArgument) as raised:
        run(stream=stream, config=config, start=transcoder)
    assert "writes width d_out=9 and activations of" in str(raised.value)
    assert "set skip_connection=True" in str(raised.value)
    with pytest.raises(sle.InvalidArgument, match="leave hook_name_out out"):
        run(stream=stream, config=config, start=start_sae())


def test_the_owner_of_a_repository_does_not_matter():
    start = start_sae(model_name="someone/Tiny")
    sae, _ = at_step_0(start)
    assert sae.config.model_name == "tiny"


def test_rejects_a_start_that_holds_nan():
    start = start_sae()
    with torch.no_grad():
        start.b_enc[3] = torch.nan
    with pytest.raises(sle.NonFinite, match="1 numbers of b_enc of the start SAE"):
        run(start=start)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_start_that_is_no_sae():
    with pytest.raises(sle.InvalidArgument, match="start must be an SAE.*type str"):
        run(start="folder")


def test_a_run_with_a_start_is_resumed_to_the_same_bits(tmp_path):
    start = start_sae()
    whole = run(tmp_path / "whole", start=start)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", start=start, stream=stopped(32 * 7))
    resumed = run(tmp_path / "resumed", start=start)
    assert same_weights(resumed.sae, whole.sae)
    assert resumed.losses == whole.losses
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "whole")

    for other in (start_sae(seed=1), None):
        with pytest.raises(
            sle.InvalidArgument, match="holds another run: start is 'to"
        ):
            run(tmp_path / "whole", start=other)


def test_a_digest_tells_saes_apart():
    sae = start_sae()
    assert digest(sae) == digest(start_sae())
    assert digest(sae) == digest(sae.with_config(model_name="other"))
    others = [start_sae(seed=1), start_sae("relu"), start_sae(dtype=torch.bfloat16)]
    assert len({digest(each) for each in (sae, *others)}) == 4
    assert digest(sae).startswith("topk of 32 features, ")
