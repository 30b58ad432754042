"""The page holds the report's data, as data."""

import json
import re

import pytest

from sae_lens_ext.viz import FeatureOnText, Report, render_report


def report(**changes):
    contents = {
        "title": "A report",
        "facts": {"model": "tiny"},
        "sweep": [{"k": 1, "fvu": 0.5}],
        "ends": {"ce_bare": 3.0, "ce_mean": 8.0, "ce_zero": 20.0},
        "tokens": ["<bos>", " a"],
        "codes": [[], [(7, 2.5)]],
        "predictions": {"bare": [(" b", 0.5)], "1": [(" c", 0.25)]},
        "features": [FeatureOnText(7, (0.0, 2.5))],
    }
    return Report(**{**contents, **changes})


def data_of(page):
    (payload,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(payload)


def test_the_page_holds_every_field():
    data = data_of(render_report(report()))
    assert data["title"] == "A report"
    assert data["tokens"] == ["<bos>", " a"]
    assert data["codes"] == [[], [[7, 2.5]]]
    assert data["features"] == [{"feature": 7, "activations": [0.0, 2.5]}]
    assert data["predictions"]["1"] == [[" c", 0.25]]


def test_a_token_cannot_end_the_script():
    token = "</script><script>alert(1)</script>"
    page = render_report(report(tokens=["<bos>", token]))
    assert page.count("<script") == page.count("</script>") == 2
    assert data_of(page)["tokens"][1] == token


def test_rejects_numbers_that_json_has_no_name_for():
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_report(report(ends={"ce_bare": float("nan")}))
