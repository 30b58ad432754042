"""The code of docs/circuits.md runs."""

import tiny
from documents import python_blocks, run_blocks, text_of

# The tiny model's tokenizer knows no English.
WORDS = {
    "The Eiffel Tower is in the city of": "w1 w2 w3 w4",
    "The Colosseum Arch is in the city of": "w5 w6 w3 w4",
    " Paris": "w7",
    " Rome": "w8",
}


def test_the_code_gives_effects_and_checks_them(gemma2, tmp_path):
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
