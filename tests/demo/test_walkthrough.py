"""The demo's steps on a tiny model: what it prints, and the files that it writes."""

import re

import pandas
import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.demo import walkthrough
from sae_lens_ext.viz import FeatureOnText


@pytest.fixture
def walk_through(gemma2, monkeypatch):
    """The demo on a tiny random model, with an SAE for it; returns its texts."""
    sae = tiny.sae(exclude_special_tokens=True, model_name="tiny")
    monkeypatch.setattr(walkthrough, "load_bundled", lambda **_: gemma2)
    monkeypatch.setattr(walkthrough, "demo_sae", lambda model, block: sae)

    def held_out_tokens(tokenizer, n_rows):
        return tiny.tokens(rows=n_rows, length=12)

    monkeypatch.setattr(walkthrough, "held_out_tokens", held_out_tokens)

    def walk_through(out, sentence, n_rows=1, block=9):
        texts = []
        walkthrough.walk_through(
            out,
            block=block,
            sentence=sentence,
            n_rows=n_rows,
            progress=False,
            echo=texts.append,
        )
        return "\n".join(texts)

    return walk_through


def test_prints_the_table_and_writes_three_files(walk_through, tmp_path):
    out = tmp_path / "new" / "folder"
    shown = walk_through(out, "w1 w2 w3 <script>alert(1)</script>", n_rows=3)
    for words in (
        "bare model",
        "mean-ablated",
        "zero-ablated",
        "strongest features on",
    ):
        assert words in shown

    files = sorted(path.name for path in out.iterdir())
    assert files == ["frontier.png", "report.html", "sweep.csv"]
    sweep = pandas.read_csv(out / "sweep.csv")
    assert list(sweep.columns) == [
        "k",
        "l0",
        "fvu",
        "ce",
        "ce_recovered",
        "ce_recovered_zero",
        "kl",
    ]
    assert sweep["k"].tolist() == [1, 2, 4, 8]
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_self_contained_and_tokens_are_only_ever_text(
    walk_through, tmp_path, gemma2, monkeypatch
):
    tokens = ["<bos>", "</script><script>alert(1)</script>", "w2"]
    monkeypatch.setattr(gemma2, "to_str_tokens", lambda text: tokens)
    walk_through(tmp_path, "w1 w2")
    page = (tmp_path / "report.html").read_text()
    assert not re.search(
        r"""(src|href)\s*=|https?://(?!www\.w3\.org)|@import|url\(""", page
    )
    assert page.count("<script") == page.count("</script>") == 2
    assert "innerHTML" not in page


def test_rejects_an_empty_sentence(walk_through, tmp_path):
    with pytest.raises(sle.InvalidArgument, match="the sentence is empty"):
        walk_through(tmp_path, "  ")


def test_rejects_a_file_in_place_of_the_folder(walk_through, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(sle.InvalidArgument, match="give a folder to write to"):
        walk_through(file, "w1 w2")


def test_features_are_printed_with_their_strongest_tokens():
    features = [FeatureOnText(7, (0.0, 2.4, 5.6)), FeatureOnText(40, (0.0, 0.0, 1.2))]
    assert walkthrough._features_as_text(features, ["<bos>", " a", "\n"]) == (
        "\nThe 2 strongest features on ' a\\n', and the tokens they fire on:\n"
        "  feature     7: '\\n' 6, 'a' 2\n"
        "  feature    40: '\\n' 1"
    )


def test_a_block_without_an_sae_is_reported_before_the_model_is_loaded(
    walk_through, monkeypatch, tmp_path
):
    monkeypatch.delattr(walkthrough, "load_bundled")
    with pytest.raises(sle.InvalidArgument, match="after blocks 5, 9, 13; got block=7"):
        walk_through(tmp_path, "w1 w2", block=7)
