"""SAELens 6 computes the same from what this package writes, and in memory.

Every SAE of the fixtures is written again as a folder of SAELens, which SAELens loads.
In an environment of its own; see ``test_interop``.
"""

import json

import checkpoints
import pytest
import sae_lens
import torch
from sae_lens.registry import get_sae_class

from sae_lens_ext.formats import (
    checkpoint_from_saelens,
    locate,
    read_sae,
    write_saelens,
)

# SAELens has no transcoder with a k.
TOPK_TRANSCODERS = {("sparsify", "transcode"), ("sparsify", "skip_transcode")}
CASES = checkpoints.cases()


def _read(case):
    _, _, folder, subfolder = case
    return read_sae(locate(folder, subfolder=subfolder))


def _shaped(sae, x):
    """Activations as SAELens takes them: heads apart, where it joins them."""
    is_reshaping = sae.cfg.reshape_activations == "hook_z"
    return x.unflatten(-1, (2, -1)) if is_reshaping else x


def _check_equal(sae, checkpoint, x):
    x_shaped = _shaped(sae, x)
    with torch.no_grad():
        recons = sae(x_shaped).reshape(len(x), -1)
        acts = sae.encode(x_shaped)
    torch.testing.assert_close(
        checkpoints.encoded(checkpoint, x), acts, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        checkpoints.reconstructed(checkpoint, x), recons, rtol=0, atol=1e-5
    )


def _named(case):
    return f"{case[0]}/{case[1]}"


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[:2] not in TOPK_TRANSCODERS], ids=_named
)
def test_saelens_computes_the_same_from_what_is_written(case, tmp_path):
    checkpoint = _read(case)
    write_saelens(tmp_path, checkpoint)
    sae = sae_lens.SAE.load_from_disk(tmp_path, dtype="float32")
    x, _, _ = checkpoints.expected(*case[:2])
    _check_equal(sae, checkpoint, x)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[:2] in TOPK_TRANSCODERS], ids=_named
)
def test_saelens_refuses_a_transcoder_that_it_would_misread(case, tmp_path):
    write_saelens(tmp_path, _read(case))
    with pytest.raises(KeyError, match="topk_.*transcoder"):
        sae_lens.SAE.load_from_disk(tmp_path)


ARCHITECTURES = [
    ("standard", {}),
    ("topk", {"k": 4}),
    ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    ("jumprelu", {}),
    ("gated", {}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    ("gated", {"apply_b_dec_to_input": False}),
    ("standard", {"reshape_activations": "hook_z"}),
    ("transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
    ("skip_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
    ("jumprelu_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
    ("jumprelu_skip_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
]


@pytest.fixture(params=ARCHITECTURES, ids=str)
def theirs(request):
    """An SAE of SAELens with random values."""
    architecture, options = request.param
    sae_class, config_class = get_sae_class(architecture)
    config = config_class(d_in=8, d_sae=32, **options)
    config.metadata.hook_name = "blocks.1.attn.hook_z"
    config.metadata.seqpos_slice = (None,)
    sae = sae_class(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            values = torch.randn(parameter.shape, generator=generator) * 0.4
            parameter.copy_(values.abs() if name == "threshold" else values)
    return sae


def test_an_sae_in_memory_is_a_checkpoint(theirs):
    checkpoint = checkpoint_from_saelens(
        theirs.cfg.to_dict(), theirs.state_dict(), "the SAE"
    )
    assert checkpoint.metadata["hook_name"] == "blocks.1.attn.hook_z"
    _check_equal(theirs, checkpoint, torch.randn(20, 8) + 0.5)


def test_a_folder_that_saelens_saves_now_is_read(theirs, tmp_path):
    theirs.save_model(tmp_path)
    _check_equal(theirs, read_sae(tmp_path), torch.randn(20, 8) + 0.5)


@pytest.mark.parametrize("architecture", ["abstopk", "temporal", "matching_pursuit"])
def test_what_saelens_knows_and_this_package_does_not_is_refused(architecture):
    from sae_lens_ext.errors import FormatError

    _, config_class = get_sae_class(architecture)
    config = config_class(d_in=8, d_sae=32)
    described = json.loads(json.dumps(config.to_dict(), default=str))
    with pytest.raises(FormatError, match=f"describes architecture '{architecture}'"):
        checkpoint_from_saelens(described, {}, "the SAE")
