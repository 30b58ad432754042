"""The code of docs/features.md runs."""

import tiny
from documents import python_blocks, run_blocks, text_of

# The tiny model's tokenizer knows no English.
WORDS = {
    "The Eiffel Tower is in Paris": "w1 w2 w3 w4",
    "The Colosseum is in Rome": "w5 w6 w3",
}


def test_the_code_makes_an_index_and_searches_it(gemma2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_texts").mkdir()
    words = " ".join(f"w{i * i % 90}" for i in range(700))
    (tmp_path / "my_texts" / "text.txt").write_text(words)
    (tmp_path / "my_labels.csv").write_text("feature,label\n7,squares\n")
    text = text_of("features.md")
    for english, replacement in WORDS.items():
        assert english in text
        text = text.replace(english, replacement)

    names = run_blocks(tmp_path, python_blocks(text), model=gemma2, sae=tiny.sae())
    assert (tmp_path / "feature-7.html").exists()
    assert set(names["found"].feature) < set(names["active"].feature)
    assert names["labels"] == {7: "squares", 12: None}
    assert names["labelled"].page(7).label == "squares"
