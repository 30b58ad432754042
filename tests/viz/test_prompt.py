"""The page of a prompt holds its tokens, codes and labels, as data."""

import json
import re

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.viz import prompt_page

EVIL = "</script><img src=x onerror=alert(1)>"


def code():
    values = torch.tensor([[0.0, 0.0], [3.0, 1.0], [2.0, 0.0]])
    return sle.SparseCode(values, torch.tensor([[0, 1], [4, 0], [0, 2]]), d_sae=6)


def data_of(page):
    (payload,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(payload)


def test_the_page_holds_active_features_strongest_first():
    page = prompt_page(["<bos>", " a", " b"], code(), labels={4: "letters"})
    data = data_of(page)
    assert data["tokens"] == ["<bos>", " a", " b"]
    assert data["codes"] == [[], [[4, 3.0], [0, 1.0]], [[0, 2.0]]]
    assert data["k"] == 2
    assert data["labels"] == {"4": "letters"}


def test_tokens_labels_and_titles_are_data_and_not_markup():
    page = prompt_page(["a", EVIL, "c"], code(), labels={4: EVIL}, title=EVIL)
    assert EVIL not in page
    assert page.count("<script") == page.count("</script>") == 2
    data = data_of(page)
    assert data["tokens"][1] == data["labels"]["4"] == data["title"] == EVIL
    assert "innerHTML" not in page


def test_the_page_loads_nothing():
    page = prompt_page(["a", "b", "c"], code())
    assert not re.search(r"https?:|src=|@import|url\(", page)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokens": ["a"]}, sle.ShapeMismatch, "the code of these 1 tokens"),
        ({"tokens": "abc"}, sle.InvalidArgument, "tokens must be a list of strings"),
    ],
)
def test_rejects_invalid_prompts(changes, error, message):
    options = {"tokens": ["a", "b", "c"], "code": code(), **changes}
    with pytest.raises(error, match=message):
        prompt_page(**options)


def test_rejects_nan():
    nan = sle.SparseCode(torch.tensor([[torch.nan]]), torch.tensor([[0]]), d_sae=2)
    with pytest.raises(sle.NonFinite, match="NaN or infinity"):
        prompt_page(["a"], nan)
