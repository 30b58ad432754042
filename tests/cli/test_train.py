"""The commands from text to trained SAE, and from SAEs to their table."""

import json
import random

import pandas
import pytest
import tiny
import torch
from paths import REPOSITORY

import sae_lens_ext as sle
from sae_lens_ext.cli import eval as eval_command
from sae_lens_ext.cli import metric_options
from sae_lens_ext.cli import train as train_command
from sae_lens_ext.cli.train_options import ObjectiveOptions
from sae_lens_ext.objectives import HierarchicalTopK
from sae_lens_ext.training import ErrorMetric, TrainConfig, checkpoints

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny model, a text, and the options of a short training."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.hf_model("gemma2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")

    text = folder / "text"
    text.mkdir()
    draw = random.Random(0)
    for number in range(40):
        words = [f"w{draw.randrange(90)}" for _ in range(120)]
        (text / f"{number}.txt").write_text(" ".join(words))

    (folder / "options.yaml").write_text(
        f"""
        model: {folder / "model"}
        text: {text}
        hook_name: {SITE}
        d_sae: 48
        k: 4
        n_tokens: 2000
        batch_size: 200
        context: 16
        buffer_tokens: 1000
        eval_rows: 4
        eval_tokens: 300
        checkpoint_every: 4
        objective_options: {{weights: inverse}}
        progress: false
        """
    )
    return folder


def _train(inputs, *arguments):
    options = ["--config", inputs / "options.yaml", *arguments]
    return train_command.main([str(option) for option in options])


def _failure(capsys, inputs, *arguments):
    """The one line that a failing command writes."""
    assert _train(inputs, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sae-lens-ext: ")
    return line


@pytest.fixture(scope="module")
def run(inputs):
    """A finished run of the command."""
    assert _train(inputs, "--out", inputs / "run") == 0
    return inputs / "run"


def test_the_command_leaves_an_sae_its_table_and_its_card(run):
    sae = sle.SAE.from_pretrained(run / "sae")
    assert (sae.config.d_sae, sae.config.k, sae.config.hook_name) == (48, 4, SITE)
    assert sae.config.exclude_special_tokens

    table = pandas.read_csv(run / "sweep.csv")
    assert table["k"].tolist() == [1, 2, 4]
    assert table["fvu"].is_monotonic_decreasing
    assert run.joinpath("frontier.png").read_bytes()[:4] == b"\x89PNG"

    card = (run / "README.md").read_text()
    assert f"| 4 | {table['l0'].iloc[-1]:.1f} | {table['fvu'].iloc[-1]:.3f} |" in card
    # Neither of them tells anything about this machine.
    assert "| text | text |" in card
    assert str(run.parent) not in card


def test_the_file_and_what_is_typed_decide_about_the_run(run):
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["objective"]["weights"] == "inverse"
    assert config["n_tokens"] == 2000


def test_the_command_goes_on_where_it_was_interrupted(inputs, run, capsys, monkeypatch):
    out = inputs / "interrupted"

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.RunFolder, "finish", interrupted)
    assert _train(inputs, "--out", out) == 130
    assert f"the same command goes on from {out}" in capsys.readouterr().err

    monkeypatch.undo()
    assert _train(inputs, "--out", out) == 0
    straight = sle.SAE.from_pretrained(run / "sae")
    resumed = sle.SAE.from_pretrained(out / "sae")
    assert torch.equal(straight.W_dec, resumed.W_dec)


def test_without_an_objective_the_command_trains_what_the_config_does():
    assert ObjectiveOptions().chosen() == TrainConfig(d_sae=2, k=1).objective
    named = ObjectiveOptions(objective="hierarchical").chosen()
    assert named == HierarchicalTopK()


def test_a_transcoder_is_trained_from_a_cache(inputs):
    out = inputs / "transcoder"
    options = ["--hook-name", "blocks.1.hook_mlp_in", "--skip-connection"]
    options += ["--hook-name-out", "blocks.1.hook_mlp_out", "--out", out]
    options += ["--cache", inputs / "cache", "--cache-tokens", 1000]
    assert _train(inputs, *options, "--objective", "topk", "--objective-options") == 0
    sae = sle.SAE.from_pretrained(out / "sae")
    assert sae.config.hook_name_out == "blocks.1.hook_mlp_out"
    assert (inputs / "cache" / "index.json").exists()


def test_several_processes_need_a_cache_that_is_filled(
    inputs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--out", tmp_path / "run", "--cache", tmp_path / "cache"]
    assert "has to be filled by one process" in _failure(capsys, inputs, *options)
    assert not (tmp_path / "cache").exists()


def test_a_training_starts_from_another_sae(inputs, run, tmp_path, capsys):
    options = ["--start", run / "sae", "--freeze-decoder", "--encoder-lr", 0]
    assert _train(inputs, "--out", tmp_path, *options) == 0
    start, trained = (sle.SAE.from_pretrained(each / "sae") for each in (run, tmp_path))
    cosines = torch.cosine_similarity(start.W_dec, trained.W_dec)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))
    assert not torch.equal(start.b_dec, trained.b_dec)
    assert "| started from | sae |" in (tmp_path / "README.md").read_text()

    line = _failure(capsys, inputs, "--out", tmp_path / "new", *options, "--d-sae", 9)
    assert "set --d-sae=48" in line


def test_a_folder_of_several_saes_says_how_to_choose_one(inputs, run, capsys):
    line = _failure(capsys, inputs, "--start", run)
    assert "2 SAE folders; give the path of one, such as 'best'" in line


def test_errors_can_count_by_the_fisher_information(inputs, run, capsys, monkeypatch):
    out = inputs / "metric"
    options = ["--out", out, "--metric", "fisher", "--metric-tokens", 320]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.RunFolder, "finish", interrupted)
        assert _train(inputs, *options) == 130
    metric = ErrorMetric.load(out / "metric.safetensors")
    assert metric.about == (
        "Fisher information with a share of 0.5, from the first 320 tokens of the text"
    )
    # It is estimated once.
    with monkeypatch.context() as patch:
        patch.setattr(metric_options, "fisher_metric", None)
        assert _train(inputs, *options) == 0
    assert f"| errors | {metric.about} |" in (out / "README.md").read_text()
    by_squares = sle.SAE.from_pretrained(run / "sae")
    trained = sle.SAE.from_pretrained(out / "sae")
    assert not torch.allclose(trained.W_dec, by_squares.W_dec, atol=0.01)

    capsys.readouterr()
    line = _failure(capsys, inputs, *options, "--metric-share", 0.8)
    assert "these options ask for 'Fisher information with a share of 0.8" in line
    line = _failure(capsys, inputs, "--out", out)
    assert "--metric is 'Fisher information with a share of 0.5" in line


def test_a_metric_of_a_transcoder_is_of_what_it_writes(inputs, tmp_path):
    options = ["--hook-name", "blocks.1.hook_mlp_in", "--metric", "fisher"]
    options += ["--hook-name-out", "blocks.1.hook_mlp_out", "--out", tmp_path]
    assert _train(inputs, *options, "--metric-tokens", 160) == 0
    metric = ErrorMetric.load(tmp_path / "metric.safetensors")
    assert metric.hook_name == "blocks.1.hook_mlp_out"


def test_the_documented_recipe_runs_on_a_small_gemma_2(inputs, tmp_path):
    recipe = REPOSITORY / "docs" / "recipes" / "gemma-2-2b.yaml"
    # What fits a model of 4 blocks and a text of 40 lines.
    options = [
        "--model",
        inputs / "model",
        "--text",
        inputs / "text",
        "--out",
        tmp_path,
    ]
    options += ["--hook-name", SITE, "--d-sae", 48, "--k", 4, "--context", 16]
    options += ["--buffer-tokens", 1000, "--n-tokens", 2000, "--batch-size", 200]
    options += ["--eval-rows", 4, "--eval-tokens", 300, "--no-progress"]
    command = ["--config", recipe, *options]
    assert train_command.main([str(word) for word in command]) == 0
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert (config["lr"], config["dtype"]) == (8e-4, "bfloat16")


def test_all_impossible_settings_are_named_at_once(inputs, capsys):
    options = ["--k", 100, "--lr", -1, "--objective", "foo", "--eval-every", 0]
    line = _failure(capsys, inputs, *options, "--n-tokens", None)
    for part in (
        "--objective must be one of hierarchical, topk",
        "--lr must be a positive number",
        "--eval-every must be a positive integer",
        "--n-tokens must say how long to train",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hook-name", "blocks.9.hook_resid_post"], "which has 4 blocks"),
        (["--model", "/no/model"], "the model /no/model cannot be loaded"),
        (["--text", "/no/text"], "no file or folder '/no/text' here"),
        (["--context", 900], "of the held-out text, no document has the 899 tokens"),
        (["--eval-rows", 0], "--eval-rows must be a positive integer"),
        (["--rows-per-pass", 0], "--rows-per-pass must be a positive integer"),
        (["--push-to-hub", "an-sae"], "--push-to-hub must be the name of a repository"),
        (["--objective-options", "inverse"], "must be name=value pairs"),
        (["--objective-options", "foo=1"], "has no option 'foo'"),
        (["--auxk", -1], "--auxk must be a non-negative number"),
        (["--metric", "squares"], "--metric must be one of fisher; got 'squares'"),
        (["--metric-share", 1], "--metric-share must be"),
        (["--metric-tokens", 0], "--metric-tokens must be a positive integer"),
        (
            ["--metric-share", 0.8, "--metric-tokens", 99],
            "--metric-share and --metric-tokens would do nothing without --metric",
        ),
        (["--cache-tokens", 9], "--cache-tokens would do nothing without --cache"),
        (["--eval-ks", 4, 49], "--eval-ks must be at most --d-sae=48; got 49"),
        (["--best-k", 50], "--best-k must be at most --d-sae=48; got 50"),
        (["--device", "tpu"], "--device 'tpu' cannot be used here"),
        (
            ["--model-dtype", "float16"],
            "--model-dtype must be one of float32",
        ),
    ],
)
def test_a_failure_is_one_line(inputs, tmp_path, capsys, options, message):
    assert message in _failure(capsys, inputs, "--out", tmp_path / "run", *options)


def test_a_folder_of_another_run_is_refused(inputs, run, capsys):
    line = _failure(capsys, inputs, "--out", run, "--k", 3)
    assert "--k is 4 there and 3 here" in line
    line = _failure(capsys, inputs, "--out", run, "--n-tokens", 1800)
    assert line.count("--n-tokens is 2000 there and 1800 here") == 1


@pytest.mark.parametrize("setting", ["n_tokens: 1e3", "k: null", "lr: fast"])
def test_a_value_of_the_wrong_type_in_a_file_names_the_file(inputs, capsys, setting):
    path = inputs / "wrong.yaml"
    path.write_text(setting)
    with pytest.raises(SystemExit):
        train_command.main(["--config", str(path), "--d-sae", "48"])
    assert f"options that are not typed are those of {path}" in capsys.readouterr().err


def test_the_text_to_train_on_is_not_held_out(inputs, capsys):
    same = inputs / "text" / ".." / "text"
    line = _failure(capsys, inputs, "--held-out-text", same)
    assert "--held-out-text is " in line
    assert "the text to train on; name another" in line


def test_missing_options_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        train_command.main(["--k", "3"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    for option in ("--model", "--text", "--d-sae", "--hook-name"):
        assert f"{option} " in error


def test_a_config_that_cannot_be_read_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        train_command.main(["--config", "/no/options.yaml"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "/no/options.yaml cannot be read" in line


def _evaluate(inputs, tmp_path, *arguments):
    options = ["--text", inputs / "text", "--context", 16, "--rows", 4]
    options += ["--out", tmp_path, "--no-progress", *arguments]
    return eval_command.main([str(option) for option in options])


def test_saes_are_compared_at_the_same_values_of_k(inputs, run, tmp_path, capsys):
    other = inputs / "other"
    tiny.sae(hook_name=SITE).save_pretrained(other)
    options = ["--sae", run / "sae", "--sae", other, "--ks", 1, 3]
    assert _evaluate(inputs, tmp_path, *options) == 0
    table = pandas.read_csv(tmp_path / "sweep.csv")
    assert list(zip(table["sae"], table["k"], strict=True)) == [
        *((str(run / "sae"), 1), (str(run / "sae"), 3)),
        *((str(other), 1), (str(other), 3)),
    ]
    assert (tmp_path / "frontier.png").exists()
    assert capsys.readouterr().out.count("bare model") == 2


def test_an_sae_that_does_not_say_its_site_needs_one(inputs, run, tmp_path, capsys):
    placeless = inputs / "placeless"
    tiny.sae(hook_name=None).save_pretrained(placeless)
    options = ["--sae", placeless, "--model", inputs / "model"]
    assert _evaluate(inputs, tmp_path, *options) == 2
    assert "--hook-name must name the site" in capsys.readouterr().err
    assert _evaluate(inputs, tmp_path, *options, "--hook-name", SITE) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sae", "/no/sae"], "no folder '/no/sae' here"),
        (["--sae", "{run}/sae", "{run}/sae"], "must not name the same SAE twice"),
        (["--sae", "{run}/sae", "--ks", 900], "from 1 to d_sae=48; got 900"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    inputs, run, tmp_path, capsys, options, message
):
    options = [str(option).format(run=run) for option in options]
    assert _evaluate(inputs, tmp_path, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
