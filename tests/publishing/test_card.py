"""The card says what an SAE is and how good it is, as Markdown that shows as meant."""

import huggingface_hub
import pandas
import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.publishing import model_card, results, save_results


def _table():
    table = pandas.DataFrame(
        {
            "k": [1, 8],
            "l0": [1.0, 7.9],
            "fvu": [0.5, 0.25],
            "ce": [4.0, 3.0],
            "ce_recovered": [0.5, 0.9],
            "ce_recovered_zero": [0.6, 0.95],
            "kl": [1.0, 0.5],
        }
    )
    ends = {"ce_bare": 2.5, "ce_mean": 5.0, "ce_zero": 9.0}
    table.attrs.update(ends, n_spliced=1234, sites=["blocks.1.hook_resid_post"])
    return table


def test_the_hub_can_read_the_card():
    sae = tiny.sae(model_name="google/gemma-2-2b")
    card = huggingface_hub.ModelCard(model_card(sae, license="mit"))
    assert card.data.library_name == "sae_lens_ext"
    assert card.data.base_model == "google/gemma-2-2b"
    assert card.data.license == "mit"
    assert card.text.strip().startswith("# Sparse autoencoder for google/gemma-2-2b")


def test_the_card_shows_the_table_and_how_to_load_the_sae():
    card = model_card(
        tiny.sae(), repo_id="me/an-sae", table=_table(), picture="frontier.png"
    )
    assert 'sle.SAE.from_pretrained("me/an-sae")' in card
    assert "](frontier.png)" in card
    assert "| 8 | 7.9 | 0.250 | 3.000 | 0.900 | 0.500 |" in card
    assert "On 1,234 tokens" in card
    assert "2.500 nats per token" in card


def test_a_card_without_a_repository_says_that_the_sae_is_beside_it():
    card = model_card(tiny.sae())
    assert 'sae = sle.SAE.from_pretrained("path/to/this/folder")' in card


@pytest.mark.usefixtures("without_shape_checks")
def test_another_way_to_load_the_sae_takes_the_place_of_that_line():
    lines = "model = sle.load_bundled()\nsae = sle.demo_sae(model, block=5)"
    card = model_card(tiny.sae(), loading=lines)
    assert f"import sae_lens_ext as sle\n\n{lines}\nwith sle.splice(" in card
    assert "from_pretrained" not in card
    with pytest.raises(sle.InvalidArgument, match="loading"):
        model_card(tiny.sae(), loading=5)


def test_only_an_sae_trained_at_every_k_says_so():
    assert "good at every k up to 8" in model_card(tiny.sae(levels=(1, 2, 4, 8)))
    assert "good at every k" not in model_card(tiny.sae_of_kind("jumprelu"))
    assert "a threshold of their own" in model_card(tiny.sae_of_kind("jumprelu"))


def test_a_folder_of_this_machine_is_not_shown():
    card = model_card(tiny.sae(model_name="/home/me/models/mine"))
    assert "/home/me" not in card
    assert "# Sparse autoencoder for mine" in card
    assert "base_model" not in card


def test_text_in_a_card_stays_text():
    card = model_card(tiny.sae(), training={"note": "a | b\n<script>[x](y)`"})
    assert "| note | a \\| b &lt;script&gt;\\[x\\](y)\\` |" in card


@pytest.mark.parametrize("repo_id", ["an-sae", "me/an/sae", "me/", "me/a b", 3])
def test_a_name_that_is_no_repository_is_refused(repo_id, without_shape_checks):
    with pytest.raises(sle.InvalidArgument, match="repo_id must be"):
        model_card(tiny.sae(), repo_id=repo_id)


def test_a_table_that_lost_its_ends_is_refused():
    table = _table()
    table.attrs.clear()
    with pytest.raises(sle.InvalidArgument, match="what sweep_k returned"):
        model_card(tiny.sae(), table=table)


def test_results_are_a_table_and_a_picture(tmp_path):
    paths = save_results(tmp_path / "new", {"a": _table(), "b": _table()})
    saved = pandas.read_csv(paths.table)
    assert saved["sae"].tolist() == ["a", "a", "b", "b"]
    assert saved.columns[:3].tolist() == ["sae", "k", "l0"]
    assert paths.picture.read_bytes()[:4] == b"\x89PNG"


def test_nothing_is_written_for_a_table_that_cannot_be_drawn(tmp_path):
    with pytest.raises(sle.InvalidArgument, match="must be what sweep_k returned"):
        save_results(tmp_path / "new", 3)


def test_the_picture_has_the_title(tmp_path, monkeypatch):
    titles = []

    def plot_frontier(sweep, *, title):
        titles.append(title)
        return plot(sweep, title=title)

    plot = results.plot_frontier
    monkeypatch.setattr(results, "plot_frontier", plot_frontier)
    save_results(tmp_path, _table(), title="On two kinds of text")
    assert titles == ["On two kinds of text"]
    assert not (tmp_path / "new").exists()
