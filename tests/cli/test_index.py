"""The commands from an SAE and a text to an index, and from that to pages."""

import random

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.cli import dashboard as dashboard_command
from sae_lens_ext.cli import index as index_command

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny model, an SAE for it, and a text."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.hf_model("gpt2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    sae = tiny.sae(k=4, hook_name=None, model_name=str(folder / "model"))
    sae.save_pretrained(folder / "sae")
    draw = random.Random(0)
    (folder / "text").mkdir()
    for number in range(12):
        words = [f"w{draw.randrange(90)}" for _ in range(40)]
        (folder / "text" / f"{number}.txt").write_text(" ".join(words))
    return folder


def index_of(inputs, out, *arguments):
    options = ["--sae", inputs / "sae", "--text", inputs / "text", "--out", out]
    options += ["--context", 16, "--no-progress", "--device", "cpu", *arguments]
    return index_command.main([str(option) for option in options])


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "index"
    assert index_of(inputs, out, "--hook-name", SITE, "--contexts", 3) == 0
    return out


def dashboard_of(*arguments):
    return dashboard_command.main([str(argument) for argument in arguments])


def test_an_interruption_says_whether_there_is_something_to_go_on_from(
    inputs, made, tmp_path, monkeypatch, capsys
):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_command, "index_features", interrupt)
    assert index_of(inputs, tmp_path / "new", "--hook-name", SITE) == 130
    assert capsys.readouterr().err.endswith("sae-lens-ext: interrupted\n")
    assert index_of(inputs, made, "--hook-name", SITE) == 130
    assert f"the same command goes on from {made}" in capsys.readouterr().err


def test_a_text_becomes_an_index(made, inputs, capsys):
    index = sle.features.open(made)
    # Twelve documents of 40 words, in rows of a BOS and fifteen of them.
    assert index.n_tokens == 12 * 2 * 16
    assert index.site == SITE
    assert index.model_name == str(inputs / "model")
    assert len(index.page(index.strongest(1)[0]).contexts) == 3
    # Made already, it only says so again.
    assert index_of(inputs, made, "--hook-name", SITE, "--contexts", 3) == 0
    out = capsys.readouterr().out
    assert f"48 features at {SITE} on 384 tokens" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--hook-name must name the site of"),
        (["--hook-name", "blocks.9.hook_resid_post"], "blocks.9.hook_resid_post"),
        (["--hook-name", SITE, "--k", "9"], "k=9 is above --k=4"),
        (["--hook-name", SITE, "--context", "8"], "index with other settings"),
    ],
)
def test_what_cannot_be_indexed_is_one_line_and_exit_code_2(
    made, inputs, arguments, message, capsys
):
    assert index_of(inputs, made, "--contexts", 3, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("sae-lens-ext: ")
    assert error.count("\n") == 1
    assert message in error


def test_an_index_becomes_pages(made, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("feature,label\n7,cities in France\n")
    out = tmp_path / "pages"
    code = dashboard_of(
        "--index",
        made,
        "--features",
        "7, 3",
        "--labels",
        tmp_path / "labels.csv",
        "--out",
        out,
    )
    assert code == 0
    assert str(out / "index.html") in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert names == ["feature-3.html", "feature-7.html", "index.html"]
    for name in ("feature-7.html", "index.html"):
        assert "cities in France" in (out / name).read_text(encoding="utf-8")


def test_the_strongest_features_are_shown_by_default(made, tmp_path):
    options = ["--index", made, "--n", 4, "--title", "Cities <b>"]
    assert dashboard_of(*options, "--out", tmp_path) == 0
    overview = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h1>Cities &lt;b&gt;</h1>" in overview
    strongest = sle.features.open(made).strongest(4)
    names = {path.name for path in tmp_path.glob("feature-*")}
    assert names == {f"feature-{number}.html" for number in strongest}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "1,x"], "--features must be numbers with commas"),
        (["--features", "48"], "from 0 to 47 in this index"),
        (["--n", "0"], "n must be a positive integer"),
        (["--labels", "missing.csv"], "missing.csv cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(
    made, tmp_path, arguments, message, capsys
):
    assert dashboard_of("--index", made, "--out", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_folder_without_an_index_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert dashboard_of("--index", tmp_path, "--out", tmp_path / "pages") == 2
    assert "holds no index.json" in capsys.readouterr().err
