"""The code of docs/based.md runs, and its tables name hooks and sizes that exist."""

import json
import re

import published
import torch
from documents import python_blocks, run_blocks, section_of, text_of
from safetensors.torch import save_file


def test_looking_inside_reads_the_hooks_of_the_table(tmp_path):
    section, _, _ = text_of("based.md").partition("## Loading published models")
    names = run_blocks(tmp_path, python_blocks(section))

    assert names["text"].shape == (2, 52)
    torch.testing.assert_close(names["pattern"].sum(-1), torch.ones(2, 4, 32))
    assert names["parts"].shape == (11, 2, 32, 64)
    assert not torch.allclose(names["edited"], names["logits"])

    table = section.partition("| what |")[2].partition("Outside of it")[0]
    hooks = set(re.findall(r"`(hook_\w+)`", table))
    of_convolutions = {name for name in hooks if "conv" in name or name == "hook_gate"}
    of_norms = {"hook_scale", "hook_normalized"}
    of_attention = hooks - of_convolutions - of_norms
    assert len(of_attention) > 10
    assert len(of_convolutions) > 3

    existing = set(names["bridge"].hook_dict)
    assert {f"blocks.1.attn.{name}" for name in of_attention} <= existing
    assert {f"blocks.0.attn.{name}" for name in of_convolutions} <= existing


def test_published_models_load_and_have_the_sizes_of_the_table(monkeypatch, tmp_path):
    import huggingface_hub

    def snapshot_download(repo, **_):
        folder = tmp_path / repo
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(published.HUB_CONFIG))
        norms = ("ln_q", "ln_k") if "rebased" in repo else ()
        shapes = published.hub_shapes(published.HUB_CONFIG, norms)
        save_file(published.random_weights(shapes), folder / "model.safetensors")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    section = section_of("based.md", "Loading published models")
    names = run_blocks(tmp_path, python_blocks(section))

    assert names["based"].config.kernel == "based"
    assert names["rebased"].config.kernel == "rebased"
    assert names["config"].sliding_window == 128

    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \|$", section, re.MULTILINE)
    sizes = {name: int(number.replace(",", "")) for name, number in rows}
    assert sizes == published.PARAMETERS
