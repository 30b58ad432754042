"""The demo's SAE is trained once and kept, and made again where it is damaged."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.demo import sae as demo
from sae_lens_ext.text import is_held_out
from sae_lens_ext.training import TrainConfig

DOCUMENTS = [
    " ".join(f"w{(start + i * i) % 90}" for i in range(300)) for start in range(40)
]


@pytest.fixture
def calls(gemma2, monkeypatch, tmp_path):
    """What was collected and trained, on a tiny model in place of the bundled one."""
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "_SIZES", (32, 4, len(tiny.WORDS)))
    monkeypatch.setattr(demo, "DEMO_SITE", "blocks.1.hook_resid_post")
    monkeypatch.setattr(demo, "_N_ROWS", 20)
    config = TrainConfig(d_sae=48, k=8, epochs=1, batch_size=512)
    monkeypatch.setattr(demo, "_CONFIG", config)
    monkeypatch.setattr(demo, "default_documents", lambda: iter(DOCUMENTS))

    calls = []
    for name in ("collect_activations", "train"):
        function = getattr(demo, name)

        def counted(*arguments, name=name, function=function, **options):
            calls.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(demo, name, counted)
    return calls


def test_trains_once_and_keeps_the_sae(gemma2, calls):
    first = demo.demo_sae(gemma2, progress=False)
    second = demo.demo_sae(gemma2, progress=False)
    assert calls == ["collect_activations", "train"]
    assert torch.equal(first.W_dec, second.W_dec)
    assert first.config.model_name == "google/gemma-3-270m"
    assert first.config.exclude_special_tokens


def test_trains_again_on_request_from_the_same_activations(gemma2, calls):
    first = demo.demo_sae(gemma2, progress=False)
    again = demo.demo_sae(gemma2, retrain=True, progress=False)
    assert calls == ["collect_activations", "train", "train"]
    assert torch.equal(first.W_dec, again.W_dec)


def test_replaces_damaged_files(gemma2, calls, tmp_path):
    demo.demo_sae(gemma2, progress=False)
    damaged = sorted(tmp_path.rglob("*.safetensors"))
    assert {path.parts[-2] for path in damaged} == {
        "activations",
        "gemma-3-270m-block-9-v1",
    }
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1])
    demo.demo_sae(gemma2, progress=False)
    assert calls == ["collect_activations", "train"] * 2


@pytest.mark.usefixtures("calls")
def test_held_out_rows_are_not_trained_on():
    rows = demo.held_out_tokens(tiny.tokenizer(), n_rows=3)
    assert rows.shape == (3, 128)
    held_out = [text for text in DOCUMENTS if is_held_out(text)]
    first_words = tiny.tokenizer()(held_out[0])["input_ids"][:128]
    assert rows[0].tolist() == first_words


def test_rejects_another_model(gemma2):
    with pytest.raises(
        sle.InvalidArgument, match=r"of load_bundled\(\), of \(640, .* has \(32, 4, 96"
    ):
        demo.demo_sae(gemma2, progress=False)
    with pytest.raises(sle.InvalidArgument, match="the demo's SAE belongs to"):
        demo.demo_activations(gemma2, progress=False)
