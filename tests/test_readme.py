"""The README's code runs, on a random Gemma-2 and on the bundled model."""

import copy
import re

import numpy
import pytest
import tiny
from paths import REPOSITORY

README = REPOSITORY / "README.md"


def python_blocks():
    return re.findall(
        r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
    )


@pytest.fixture
def tiny_hub(monkeypatch, tmp_path):
    """Random models and SAEs in the place of Gemma's; my_texts is a folder here."""
    import huggingface_hub
    from transformer_lens.model_bridge import TransformerBridge

    original = TransformerBridge.boot_transformers
    asked = []

    def boot(name, **options):
        asked.append(name)
        model = tiny.deep_gemma2()
        # Words of the README's prompts, which the tiny vocabulary lacks, are not
        # special tokens.
        prompts = "The Eiffel Tower is in the city of Rome capital"
        tokenizer = tiny.tokenizer_with(prompts.split())
        return original(
            "tiny", hf_model=copy.deepcopy(model), tokenizer=tokenizer, **options
        )

    def download(repo, **options):
        asked.append(repo)
        cached = f"models--{repo.replace('/', '--')}"
        snapshot = tmp_path / "hub" / cached / "snapshots" / "1a2b"
        folder = snapshot / "layer_12" / "width_16k" / "average_l0_82"
        folder.mkdir(parents=True, exist_ok=True)
        weights = tiny.sae_of_kind("jumprelu").float().weights()
        arrays = {name: tensor.detach().numpy() for name, tensor in weights.items()}
        numpy.savez(folder / "params.npz", **arrays)
        return str(snapshot)

    monkeypatch.setattr(TransformerBridge, "boot_transformers", staticmethod(boot))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "my_texts").mkdir()
    for i in range(5):
        (tmp_path / "my_texts" / f"{i}.txt").write_text(
            " ".join(f"w{(7 * i + j * j) % 70}" for j in range(700))
        )
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_gemma_2_lines_run_on_a_random_gemma_2(tiny_hub):
    blocks = [block for block in python_blocks() if "load_bundled" not in block]
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert tiny_hub == ["google/gemma-2-2b", "google/gemma-scope-2b-pt-res"]
    assert names["sae"].config.hook_name == "blocks.12.hook_resid_post"
    assert names["logits_at_8"].shape == names["logits"].shape
    assert names["features"].k == 8
    assert names["table"]["k"].isna().tolist() == [False] * 4 + [True]


def test_the_bundled_lines_run(gemma3, monkeypatch):
    import sae_lens_ext as sle

    monkeypatch.setattr(sle, "load_bundled", lambda: gemma3)
    (block,) = [block for block in python_blocks() if "load_bundled" in block]
    # Half of the rows say the same.
    assert "n_rows=4" in block
    block = block.replace("n_rows=4", "n_rows=2")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    table = names["table"]
    assert list(table["k"]) == [1, 2, 4, 8, 16, 32]
    # The README promises that more features are better, and that the zero end flatters.
    assert table["fvu"].is_monotonic_decreasing
    assert table["ce_recovered"].is_monotonic_increasing
    assert table["ce_recovered"].iloc[-1] >= 0.78
    assert (table["ce_recovered"] < table["ce_recovered_zero"]).all()


def test_the_two_commands_are_there():
    text = README.read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_every_link_to_a_file_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target
