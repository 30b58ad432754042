"""The README's code runs, on a random Gemma-2 and on the bundled model."""

import copy
import re

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
    """google/gemma-2-2b is a random model of its class, my_texts a folder here."""
    from transformer_lens.model_bridge import TransformerBridge

    original = TransformerBridge.boot_transformers
    asked = []

    def boot(name, **options):
        asked.append(name)
        model = tiny.deep_gemma2()
        return original(
            "tiny", hf_model=copy.deepcopy(model), tokenizer=tiny.tokenizer(), **options
        )

    monkeypatch.setattr(TransformerBridge, "boot_transformers", staticmethod(boot))
    (tmp_path / "my_texts").mkdir()
    for i in range(5):
        (tmp_path / "my_texts" / f"{i}.txt").write_text(
            " ".join(f"w{(7 * i + j * j) % 90}" for j in range(700))
        )
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_gemma_2_lines_run_on_a_random_gemma_2(tiny_hub):
    blocks = [block for block in python_blocks() if "load_bundled" not in block]
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert tiny_hub == ["google/gemma-2-2b"]
    assert names["logits_at_8"].shape == names["logits"].shape
    assert names["features"].k == 8
    assert len(names["table"]) == 6


def test_the_bundled_lines_run(gemma3, monkeypatch):
    import sae_lens_ext as sle

    monkeypatch.setattr(sle, "load_bundled", lambda: gemma3)
    (block,) = [block for block in python_blocks() if "load_bundled" in block]
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
