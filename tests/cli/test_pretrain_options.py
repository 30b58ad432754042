"""The options of `sae-lens-ext pretrain` reach the comparison, as they were typed."""

from pathlib import Path

import pandas
import pytest

from sae_lens_ext.based import pretrain as module_form
from sae_lens_ext.cli import pretrain
from sae_lens_ext.cli.app import app
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig

RESULTS = [
    {
        "kernel": "rebased",
        "layers": 2,
        "intermediate_size": 64,
        "parameters": 9000,
        "size": 1.0,
        "recall": recall,
        "perplexity": 20.0,
        "perplexity_recall": 9.0,
        "perplexity_other": None,
        "recall_share": share,
        "tokens_per_second": 12345.6,
    }
    for recall, share in (("token", 0.75), ("ngram", 0.5))
]


@pytest.fixture
def calls(monkeypatch):
    """What the command would compare, instead of comparing it."""
    calls = []

    def compare_kernels(kernels, out, config, text, **options):
        calls.append((kernels, out, config, text, options))
        return pandas.DataFrame(RESULTS)

    monkeypatch.setattr(pretrain, "compare_kernels", compare_kernels)
    return calls


def test_defaults_are_those_of_the_configs(calls):
    assert app(["pretrain"]) == 0
    assert calls == [
        (
            ("rebased", "based", "attention"),
            Path("runs/pretrain"),
            PretrainConfig(),
            TextConfig(),
            {"device": "cpu", "checkpoint_every": 200, "progress": True},
        )
    ]


def test_every_option_arrives(calls):
    options = (
        "--hidden-size 64 --layers 3 --heads 2 --feature-dim 8 --seq-len 32 "
        "--batch-size 4 --steps 20 --lr 0.01 --warmup 5 --weight-decay 0 --clip 0 "
        "--seed 3 --dtype bfloat16 --text texts --column body --eval-text more "
        "--eval-tokens 99 --tokenizer gpt2 --kernel based --kernel attention "
        "--device cuda --checkpoint-every 7 --out x --no-progress"
    )
    assert pretrain.main(options.split()) == 0
    config = PretrainConfig(
        hidden_size=64,
        layers=3,
        heads=2,
        feature_dim=8,
        seq_len=32,
        batch_size=4,
        steps=20,
        lr=0.01,
        warmup=5,
        weight_decay=0.0,
        clip=0.0,
        seed=3,
        dtype="bfloat16",
    )
    text = TextConfig(
        text="texts", column="body", eval_text="more", eval_tokens=99, tokenizer="gpt2"
    )
    rest = {"device": "cuda", "checkpoint_every": 7, "progress": False}
    assert calls == [(("based", "attention"), Path("x"), config, text, rest)]


@pytest.mark.parametrize(("recall", "share"), [("token", "0.750"), ("ngram", "0.500")])
def test_prints_the_table_of_one_definition_of_recall(calls, capsys, recall, share):
    assert pretrain.main(["--recall", recall, "--out", "x"]) == 0
    title, head, line, last = capsys.readouterr().out.splitlines()
    assert title == f"perplexity of held-out text; AR by --recall {recall}"
    assert " ".join(head.split()) == (
        "kernel layers MLP parameters of ReBased all AR other AR share tokens/s"
    )
    assert line.split() == [
        *("rebased", "2", "64", "9000", "1.0000"),
        *("20.000", "9.000", "-", share, "12,346"),
    ]
    assert last == f"{Path('x') / 'results.json'} and results.csv written"


def test_rejects_an_unknown_definition_of_recall(capsys):
    with pytest.raises(SystemExit) as ended:
        pretrain.main(["--recall", "word"])
    assert ended.value.code == 2
    assert "--recall" in capsys.readouterr().err


def test_rejects_an_option_without_values(calls, capsys):
    assert pretrain.main(["--kernel"]) == 2
    assert (
        capsys.readouterr().err == "sae-lens-ext: --kernel needs at least one value\n"
    )
    assert not calls


def test_the_module_form_is_the_same_command():
    assert module_form.main is pretrain.main
