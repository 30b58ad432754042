"""The code of the documents runs, in order, on a random Gemma-2 in place of the real one."""

import concurrent.futures
import copy
import json
import re
import runpy
import shlex
import shutil

import numpy as np
import published
import pytest
import tiny
import torch
import transformers
from paths import REPOSITORY
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.cli.app import app
from sae_lens_ext.experiments.recall import MQAR, Outcome, Recipe, model_for
from sae_lens_ext.experiments.recall.saved_models import save_model

DOCS = REPOSITORY / "docs"
SITE = "blocks.12.hook_resid_post"


@pytest.fixture
def tiny_hub(monkeypatch, tmp_path):
    """In place of the hub: every loader gives the same random model of Gemma-2's class with 14 small blocks."""
    from nnsight.modeling import transformers as nnsight_transformers
    from transformer_lens.model_bridge import TransformerBridge

    boot, wrap = (
        TransformerBridge.boot_transformers,
        nnsight_transformers.TransformersModel,
    )

    def model():
        return copy.deepcopy(tiny.deep_gemma2())

    monkeypatch.setattr(
        TransformerBridge,
        "boot_transformers",
        staticmethod(
            lambda name: boot("tiny", hf_model=model(), tokenizer=tiny.tokenizer())
        ),
    )
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda name: model()
    )
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda name: tiny.tokenizer()
    )
    monkeypatch.setattr(
        nnsight_transformers,
        "TransformersModel",
        lambda name, task: wrap(model(), tokenizer=tiny.tokenizer(), task=task),
    )
    tiny.sae(d_sae=128, k=32, hook_name=SITE).save_pretrained(tmp_path / "my_sae")
    monkeypatch.chdir(tmp_path)


def _blocks(name):
    return re.findall(
        r"```python\n(.*?)```",
        (DOCS / name).read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


def _run(tmp_path, blocks, **names):
    # In a file, because nnsight reads the source of a trace.
    script = tmp_path / "blocks.py"
    script.write_text("\n".join(blocks))
    return runpy.run_path(str(script), init_globals=names)


def test_hosts(tiny_hub, tmp_path):
    lens, *rest = _blocks("hosts.md")
    found = _run(tmp_path, [lens, "model_on_lens = model", *rest])
    tokens = tiny.tokenizer()(
        "The Eiffel Tower is in the city of", return_tensors="pt"
    ).input_ids
    assert found["logits"].shape == (1, tokens.shape[1], len(tiny.WORDS))
    assert found["text"].shape[1] == 6 + 5
    assert found["cache"][f"{SITE}.hook_sae_acts_post"].shape[-1] == 128
    assert found["spliced"].k == 6


def test_interventions(gemma2, tmp_path):
    model = gemma2
    site = "blocks.1.hook_resid_post"
    sae = tiny.sae(d_sae=512, k=32)
    blocks = [block.replace(SITE, site) for block in _blocks("interventions.md")]
    # Its tokenizer knows no English.
    for text, words in (
        ("I love it", "w1 w2"),
        ("Wonderful", "w3"),
        ("I hate it", "w4 w5"),
        ("Terrible", "w6"),
    ):
        blocks = [block.replace(text, words) for block in blocks]
    names = {
        "model": model,
        "sae": sae,
        "tokens": tiny.tokens(),
        "other_tokens": tiny.tokens(seed=1),
        "torch": torch,
    }
    bare = model(tiny.tokens())
    found = _run(tmp_path, blocks, **names)
    assert torch.equal(found["logits_with_one"], bare), (
        "neither feature is active in this model, so nothing changes"
    )
    assert not torch.equal(found["logits"], bare)
    assert found["direction"].shape == (32,)
    assert isinstance(found["code"], sle.SparseCode)
    assert torch.equal(model(tiny.tokens()), bare)


def test_looking_inside(tmp_path):
    section = (
        (DOCS / "based.md")
        .read_text(encoding="utf-8")
        .partition("## Loading published models")[0]
    )
    found = _run(tmp_path, re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
    assert found["text"].shape == (2, 52)
    torch.testing.assert_close(found["pattern"].sum(-1), torch.ones(2, 4, 32))
    assert found["parts"].shape == (11, 2, 32, 64)
    assert not torch.allclose(found["edited"], found["logits"])
    prefix = "blocks.1.attn."
    named = re.findall(
        r"`(hook_\w+)`", section.partition("| what |")[2].partition("Outside of it")[0]
    )
    there = {*found["bridge"].hook_dict}
    assert {
        f"{prefix}{name}"
        for name in named
        if "conv" not in name
        and name not in ("hook_gate", "hook_scale", "hook_normalized")
    } <= there
    assert {
        f"blocks.0.attn.{name}"
        for name in named
        if "conv" in name or name == "hook_gate"
    } <= there


def test_the_circuit_of_recall(tmp_path):
    task = MQAR(seq_len=24, pairs=6, vocab_size=48)
    model = model_for(Recipe("rebased", d_model=32, heads=4, feature_dim=8), task)
    tokens, labels = task.sample(5, np.random.default_rng(0))
    found = _run(
        tmp_path,
        _blocks("recall_circuit.md"),
        model=model,
        tokens=tokens,
        labels=labels,
    )
    assert found["overlap"].shape == (4,)
    assert found["broken"].shape == (5, 24, 48)


def test_published_models(monkeypatch, tmp_path):
    import huggingface_hub

    def snapshot_download(repo, **_):
        norms = ("ln_q", "ln_k") if "rebased" in repo else ()
        folder = tmp_path / repo
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(published.HUB_CONFIG))
        save_file(
            published.random_weights(published.hub_shapes(published.HUB_CONFIG, norms)),
            folder / "model.safetensors",
        )
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    section = (
        (DOCS / "based.md")
        .read_text(encoding="utf-8")
        .partition("## Loading published models")[2]
        .partition("\n## ")[0]
    )
    found = _run(tmp_path, re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
    assert (found["based"].config.kernel, found["rebased"].config.kernel) == (
        "based",
        "rebased",
    )
    assert found["config"].sliding_window == 128
    table = {
        name: int(n.replace(",", ""))
        for name, n in re.findall(
            r"^\| `([\w.-]+)` \| ([\d,]+) \|$", section, flags=re.MULTILINE
        )
    }
    assert table == published.PARAMETERS


def test_every_name_in_the_tables_is_public():
    for edit in re.findall(
        r"^\| `(\w+)\(",
        (DOCS / "interventions.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    ):
        assert hasattr(sle, edit)


def _recall_commands():
    """The options of every ``sae-lens-ext mqar`` of the document.

    The shell's line breaks and variables are taken out.
    """
    text = "\n".join(
        re.findall(
            r"```bash\n(.*?)```",
            (DOCS / "recall.md").read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
    )
    lines = text.replace("\\\n", " ").replace("$width", "24").splitlines()
    return [
        shlex.split(line)[1:]
        for line in lines
        if line.strip().startswith("sae-lens-ext mqar")
    ]


@pytest.mark.parametrize("command", _recall_commands()[:-1], ids=["longer", "short"])
def test_the_recall_document_shows_what_its_commands_print(
    tmp_path, monkeypatch, capsys, command
):
    """Results are in benchmarks/results, so a command has nothing left to train.

    The models that it would save are not there.
    """
    from sae_lens_ext.experiments.recall import grid, workers

    trained = []
    monkeypatch.setattr(
        grid, "train_mqar", lambda recipe, *_, **__: trained.append(recipe)
    )
    monkeypatch.setattr(workers, "process_pool", concurrent.futures.ThreadPoolExecutor)
    command = [option for option in command if option != "--save"]
    shutil.copy(DOCS.parent / "benchmarks" / "results" / "mqar.csv", tmp_path)
    assert app([*command, "--out", str(tmp_path), "--no-progress"]) == 0
    assert not trained
    document = (DOCS / "recall.md").read_text(encoding="utf-8")
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) >= 5
    for line in lines:
        assert line in document


def test_the_published_protocol_is_a_command(monkeypatch):
    from sae_lens_ext.cli import mqar

    asked = {}
    monkeypatch.setattr(
        mqar,
        "compare_recall",
        lambda *values, **options: asked.update(
            dict(zip(("task", "base"), values, strict=False)), **options
        ),
    )
    assert app(_recall_commands()[-1]) == 0
    assert asked["task"] == MQAR()
    assert asked["base"] == Recipe(d_model=24, steps=64 * (100_000 // 512))


def test_the_models_of_the_recall_document_are_asked(tmp_path, capfd):
    recipe = Recipe(d_model=4, heads=1, feature_dim=2, learned_positions=False)
    task = MQAR(seq_len=64, pairs=16, vocab_size=256)
    save_model(
        tmp_path / "kept",
        model_for(recipe, task),
        recipe,
        task,
        Outcome(0.5, 0.5, -1, 1.0),
    )
    found = _run(tmp_path, _blocks("recall.md"), folder=tmp_path / "kept")
    assert len(torch.cat(found["right"])) == 16 * 16, "every question of 16 sequences"
    shown = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["64", "256", "1024"]
