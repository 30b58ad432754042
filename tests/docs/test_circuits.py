"""The code of docs/circuits.md runs, and docs/circuit_graphs.md is the format."""

import json
import re
from dataclasses import fields

import tiny
from documents import python_blocks, run_blocks, text_of

import sae_lens_ext as sle

# The tiny model's tokenizer knows no English.
WORDS = {
    "The Eiffel Tower is in the city of": "w1 w2 w3 w4",
    "The Colosseum is in the city of": "w5 w6 w3 w4",
    " Paris": "w7",
    " Rome": "w8",
}


def test_the_code_gives_effects_and_checks_them(gemma2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = text_of("circuits.md")
    for words, replacement in WORDS.items():
        assert words in text
        text = text.replace(words, replacement)

    names = run_blocks(
        tmp_path,
        python_blocks(text),
        model=gemma2,
        sae=tiny.sae(),
        tokens=tiny.tokens(),
        clean="w1 w2 w3 w4",
        corrupted="w5 w6 w3 w4",
    )
    assert len(names["strongest"]) == 10
    assert names["every_k"].k.max() == 8
    assert len(names["checked"].at()) == 20
    (gap,) = names["gap"].values()
    (total,) = names["path"].totals().values()
    assert gap.abs().max() < 0.1 * total.abs().max()
    assert names["again"] == names["graph"]
    assert 0 < len(names["graph"].edges) < len(names["edges"].at(8))
    assert len(names["at_4"]) > 0
    assert not names["direct"].at(8).effect.equals(names["at_8"].effect)
    assert len(names["nodes"]) == 16
    assert names["curve"].budget.max() == 16
    assert set(names["controlled"].table().nodes) == {
        "circuit",
        "random",
        "coordinates",
        "splits",
    }
    assert len(names["learned"]) == 16
    assert 0 <= names["shared"] <= 1
    assert names["overlap"].other_k.tolist() == [4, 8, 8]
    assert "label" in names["named"]


def test_the_format_of_graphs_is_the_described_one():
    text = text_of("circuit_graphs.md")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    graph = sle.circuits.Graph.from_json(example)
    assert json.loads(graph.to_json()) == json.loads(example)

    parts = (sle.circuits.Graph, sle.circuits.GraphNode, sle.circuits.GraphEdge)
    described = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    expected = [field.name for part in parts for field in fields(part)]
    assert described == ["format", "version", *expected]
