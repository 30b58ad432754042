"""The SAEs of the package are read from its files; activations are collected once."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

import sae_lens_ext as sle
from sae_lens_ext.demo import sae as demo
from sae_lens_ext.text import is_held_out

SAES = Path(demo.__file__).with_name("saes")
DOCUMENTS = [
    " ".join(f"w{(start + i * i) % 90}" for i in range(300)) for start in range(40)
]


@pytest.fixture
def collected(gemma2, monkeypatch, tmp_path):
    """What was collected, on a tiny model in place of the bundled one."""
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "_SIZES", (32, 4, len(tiny.WORDS)))
    monkeypatch.setattr(demo, "DEMO_SITE", "blocks.1.hook_resid_post")
    monkeypatch.setattr(demo, "default_documents", lambda: iter(DOCUMENTS))
    monkeypatch.setattr(demo, "docstrings", lambda: iter(DOCUMENTS))

    sites = []
    collect = demo.collect_activations

    def counted(model, tokens, site, **options):
        sites.append(site)
        return collect(model, tokens, site, **options)

    monkeypatch.setattr(demo, "collect_activations", counted)
    return sites


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("block", "d_sae"), [(5, 2048), (9, 4096), (13, 2048)])
def test_the_package_has_an_sae_after_three_blocks(gemma2, block, d_sae):
    config = sle.SAEConfig(
        d_model=640,
        d_sae=d_sae,
        k=64,
        levels=tuple(range(1, 65)),
        apply_b_dec_to_input=False,
        hook_name=f"blocks.{block}.hook_resid_post",
        model_name="google/gemma-3-270m",
        exclude_special_tokens=True,
    )
    sae = sle.demo_sae(gemma2, block)
    assert sae.config == config
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}
    # Rows are of unit norm by the metric that the SAE was trained with, and not here.
    norms = sae.W_dec.norm(dim=1)
    assert norms.min() > 0.1
    assert norms.max() < 10


def test_the_files_of_the_saes_are_small_and_have_a_card():
    files = [path for path in SAES.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 12e6
    assert sum(sizes) <= 22e6
    for block, site in demo.DEMO_SAES.items():
        weights = load_file(SAES / site / "sae_weights.safetensors")
        assert weights["W_dec"].dtype == torch.bfloat16
        card = (SAES / site / "README.md").read_text(encoding="utf-8")
        usage = f"sae = sle.demo_sae(model, block={block})"
        for fact in (
            site,
            "google/gemma-3-270m",
            "5,000,000",
            "bundled_saes",
            usage,
        ):
            assert fact in card, (site, fact)


@pytest.mark.usefixtures("collected", "without_shape_checks")
@pytest.mark.parametrize("block", [6, "9", None])
def test_an_unknown_block_lists_the_known_ones(gemma2, block):
    with pytest.raises(
        sle.InvalidArgument, match=f"after blocks 5, 9, 13; got block={block!r}"
    ):
        sle.demo_sae(gemma2, block)


def test_collects_once_and_keeps_the_activations(gemma2, collected, tmp_path):
    first = demo.demo_activations(gemma2, n_rows=20, progress=False)
    second = demo.demo_activations(gemma2, n_rows=20, progress=False)
    assert collected == ["blocks.1.hook_resid_post"]
    assert torch.equal(first.values, second.values)

    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    again = demo.demo_activations(gemma2, n_rows=20, progress=False)
    assert len(collected) == 2
    assert torch.equal(first.values, again.values)

    fewer = demo.demo_activations(gemma2, n_rows=8, progress=False)
    assert len(fewer.values) == 8 * 127
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    with pytest.raises(sle.InvalidArgument, match="n_rows must be a positive integer"):
        demo.demo_activations(gemma2, n_rows=0)


@pytest.mark.usefixtures("collected")
def test_held_out_rows_are_not_collected():
    rows = demo.held_out_tokens(tiny.tokenizer(), n_rows=3)
    assert rows.shape == (3, 128)
    held_out = [text for text in DOCUMENTS if is_held_out(text)]
    first_words = tiny.tokenizer()(held_out[0])["input_ids"][:128]
    assert rows[0].tolist() == first_words


def test_rejects_another_model(gemma2):
    with pytest.raises(
        sle.InvalidArgument, match=r"of load_bundled\(\), of \(640, .* has \(32, 4, 96"
    ):
        sle.demo_sae(gemma2)
    with pytest.raises(sle.InvalidArgument, match="the demo's SAEs belong to"):
        demo.demo_activations(gemma2, n_rows=20, progress=False)
