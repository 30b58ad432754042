"""The command trains, compares and explains; its failures are one line each."""

import json
import re
import shlex
import subprocess
import sys

import pandas
import pytest
import small_run
import tiny
import transformers
from paths import REPOSITORY

from sae_lens_ext.cli import pretrain as pretrain_command
from sae_lens_ext.cli.pretrain import main
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.perplexity import perplexity
from sae_lens_ext.experiments.pretraining.tokens import prepare_tokens

DOCS = REPOSITORY / "docs" / "based.md"


def test_the_command_on_a_folder_leaves_models_that_transformers_opens(tmp_path):
    source = small_run.write_texts(tmp_path / "texts")
    out = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-m", "sae_lens_ext.based.pretrain"]
    for name, value in {**small_run.SETTINGS, "text": source, "out": out}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    title, head, *lines, last = done.stdout.splitlines()
    assert title == "perplexity of held-out text; AR by --recall token"
    assert head.split()[:4] == ["kernel", "layers", "MLP", "parameters"]
    assert [line.split()[0] for line in lines] == ["rebased", "based", "attention"]
    assert last == f"{out / 'results.json'} and results.csv written"
    assert "loss=" in done.stderr
    assert "token/s" in done.stderr

    results = json.loads((out / "results.json").read_text())["results"]
    assert [(result["kernel"], result["recall"]) for result in results] == [
        (kernel, recall)
        for kernel in ("rebased", "based", "attention")
        for recall in ("token", "ngram")
    ]
    assert all(result["size"] == pytest.approx(1, rel=0.01) for result in results)
    assert len(pandas.read_csv(out / "rebased" / "losses.csv")) == 8

    model = transformers.AutoModelForCausalLM.from_pretrained(out / "rebased")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "rebased")
    prompt = tokenizer(
        "Document 1", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    longer = model.generate(
        prompt, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    assert tokenizer.decode(longer[0]).startswith("Document 1")

    # The perplexity in the table is that of the model in the folder.
    text = TextConfig(text=str(source))
    _, held_out = prepare_tokens(
        out / "tokens", small_run.CONFIG, text, tokenizer, progress=False
    )
    tested = perplexity(model, held_out.at(range(len(held_out))))
    assert tested.all == pytest.approx(results[0]["perplexity"], rel=1e-5)


def test_the_command_on_jsonl_with_a_tokenizer_of_its_own(tmp_path, capsys):
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    texts = [" ".join(f"w{(i * i + j * i) % 90}" for j in range(30)) for i in range(80)]
    lines = [json.dumps({"body": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    options = {
        "--kernel": "based",
        "--text": tmp_path / "texts.jsonl",
        "--column": "body",
        "--tokenizer": tmp_path / "tokenizer",
        "--recall": "ngram",
        "--out": tmp_path / "run",
    }
    words = [word for option in options.items() for word in option]
    assert small_run.command(*words) == 0

    shown = capsys.readouterr()
    assert shown.out.startswith("perplexity of held-out text; AR by --recall ngram\n")
    assert shown.err == ""
    folder = tmp_path / "run" / "based"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 96
    assert config["eos_token_id"] == 1


def test_all_invalid_numbers_are_in_one_line(tmp_path, capsys):
    options = {
        "--lr": 0,
        "--steps": 0,
        "--dtype": "float16",
        "--clip": -1,
        "--seed": -1,
    }
    words = [word for option in options.items() for word in option]
    line = small_run.failure(capsys, "--out", tmp_path / "run", *words)
    for message in (
        "steps must be a positive integer; got 0",
        "seed must be an integer from 0 to 9223372036854775807; got -1",
        "lr must be a positive number; got 0.0",
        "clip must be a non-negative number; got -1.0",
        "dtype must be one of float32, bfloat16; got 'float16'",
    ):
        assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--warmup", 8, "--warmup must be less than --steps=8; got 8"),
        ("--eval-tokens", 0, "--eval-tokens must be a positive integer; got 0"),
        (
            "--eval-tokens",
            15,
            "--eval-tokens=15 is less than one sequence of --seq-len=16",
        ),
        (
            "--checkpoint-every",
            0,
            "--checkpoint-every must be a positive integer; got 0",
        ),
        ("--device", "tpu", "device 'tpu' cannot be used here"),
    ],
)
def test_an_invalid_option_is_one_line(tmp_path, capsys, option, value, message):
    line = small_run.failure(capsys, "--out", tmp_path / "run", option, value)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_every_option_of_a_run_is_explained(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        *small_run.SETTINGS,
        "feature_dim",
        "warmup",
        "weight_decay",
        "clip",
        "seed",
        "device",
        "dtype",
        "out",
        "recall",
        "text",
        "tokenizer",
    ):
        assert f"--{option.replace('_', '-')} " in shown


def documented(kind):
    """The blocks of code in the section on training."""
    text = DOCS.read_text(encoding="utf-8")
    section = text.split("## Training a language model\n")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, flags=re.DOTALL)


def test_the_commands_in_the_documentation_are_accepted(monkeypatch):
    runs = []

    def compare_kernels(kernels, out, config, text, **options):
        runs.append((config, text))
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_command, "compare_kernels", compare_kernels)
    blocks = [block.replace("\\\n", " ") for block in documented("bash")]
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 3
    for command in commands:
        python, flag, module, *options = shlex.split(command)
        assert [python, flag, module] == ["python", "-m", "sae_lens_ext.based.pretrain"]
        assert main(options) == 130
    assert len(runs) == len(commands)
    assert all(isinstance(config, PretrainConfig) for config, _ in runs)
    assert all(isinstance(text, TextConfig) for _, text in runs)


def test_the_python_in_the_documentation_runs(tmp_path, monkeypatch):
    source = small_run.write_texts(tmp_path / "texts")
    monkeypatch.chdir(tmp_path)
    assert small_run.command("--kernel", "rebased", "--text", source) == 0
    names = {}
    for block in documented("python"):
        exec(block, names)
    assert names["text"].startswith("If the key is not in")
    assert names["result"].tokens == 2 * 16
