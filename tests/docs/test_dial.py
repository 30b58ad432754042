"""The code of docs/dial.md runs."""

import tiny
from documents import python_blocks, run_blocks, text_of


def test_the_code_shows_what_it_says(gemma2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = text_of("dial.md").replace("The Eiffel Tower is in", "w1 w2 w3 w4")
    names = run_blocks(tmp_path, python_blocks(text), model=gemma2, sae=tiny.sae())
    assert names["view"]["position"] == 2
    assert [pin["feature"] for pin in names["view"]["pins"]] == [17]
    assert (tmp_path / "prompt.html").read_text(encoding="utf-8") == names["page"]
