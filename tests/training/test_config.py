"""Settings that cannot work are reported, all at once."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.training import TrainConfig

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def test_all_invalid_fields_are_in_one_message():
    with pytest.raises(sle.InvalidArgument) as raised:
        TrainConfig(
            d_sae=8,
            k=2,
            n_tokens=0,
            revive_every=-1,
            seed=-1,
            betas=(0.9, 1.0),
            clip=0,
            encoder_lr=-1e-3,
            dtype="float16",
            eight_bit=1,
            hook_name=3,
        )
    message = str(raised.value)
    for part in (
        "n_tokens must be a positive integer; got 0",
        "revive_every must be a positive integer; got -1",
        "seed must be an integer from 0 to",
        "betas must be two numbers, from 0 and below 1; got (0.9, 1.0)",
        "clip must be a positive number; got 0",
        "encoder_lr must be a non-negative number; got -0.001",
        "dtype must be one of float32, bfloat16; got 'float16'",
        "eight_bit must be True or False; got 1",
        "hook_name must be a string; got 3",
    ):
        assert part in message


def test_all_contradictions_are_in_one_message():
    with pytest.raises(sle.InvalidArgument) as raised:
        TrainConfig(
            d_sae=8,
            k=9,
            k_start=4,
            skip_connection=True,
            revive_every=5,
            eight_bit=True,
            apply_b_dec_to_input=True,
            freeze_decoder=True,
        )
    message = str(raised.value)
    for part in (
        "k must be at most d_sae=8; got 9",
        "k_start must be from k=9 to d_sae=8; got 4",
        "skip_connection=True is for a transcoder; give its hook_name_out too",
        "revive_every needs averages of Adam that can be set to 0",
        "apply_b_dec_to_input=True moves activations with b_dec",
    ):
        assert part in message
    with pytest.raises(sle.InvalidArgument, match="a transcoder is trained without"):
        TrainConfig(
            d_sae=8, k=2, hook_name="a", hook_name_out="b", apply_b_dec_to_input=True
        )
    with pytest.raises(sle.InvalidArgument, match="must differ; got 'a' twice"):
        TrainConfig(d_sae=8, k=2, hook_name="a", hook_name_out="a")


def test_betas_of_a_list_are_those_of_a_tuple():
    assert TrainConfig(d_sae=8, k=2, betas=[0.5, 0.75]).betas == (0.5, 0.75)


@pytest.mark.parametrize(
    ("n_tokens", "dead_after"),
    [(5, 1), (1000, 100), (10**9, 10_000_000)],
)
def test_features_of_a_stream_are_dead_after_a_share_of_it(n_tokens, dead_after):
    assert TrainConfig(d_sae=8, k=2).dead_after_of(n_tokens) == dead_after
    assert TrainConfig(d_sae=8, k=2, dead_after=3).dead_after_of(n_tokens) == 3
