"""The code of docs/behaviours.md runs."""

import re

import tiny
from documents import python_blocks, run_blocks, text_of


def test_the_code_finds_a_circuit_and_tests_it(gemma2, tmp_path):
    blocks = python_blocks(text_of("behaviours.md"))
    # Words of the tiny model, one for one; its SAEs come with the test.
    words: dict[str, str] = {}

    def short(match):
        text = match[0].strip('"').strip()
        numbers = [words.setdefault(word, f"w{len(words)}") for word in text.split()]
        return f'"{" ".join(numbers)}"'

    code = re.sub(r'"(The [a-z ]+| is| are)"', short, "\n".join(blocks))
    code = re.sub(r"(?m)^(model|saes) = .*\n", "", code)
    code = code.replace("blocks.5.", "blocks.0.").replace("blocks.9.", "blocks.1.")
    names = run_blocks(
        tmp_path,
        [code],
        model=gemma2,
        saes=[tiny.sae(k=8), tiny.sae(k=8, hook_name="blocks.2.hook_resid_post")],
    )
    assert 0 <= names["right"] <= 1
    assert 1 <= len(names["circuit"]) <= 0.05 * names["active"]
    assert set(names["features"].nodes) == {"circuit", "other_saes[0]"}
    assert not names["features"].n_errors.any()
    assert len(names["learned"]) == len(names["circuit"])
    assert 0 <= names["shared"] <= 1
    assert names["held"].freeze == ("attention", "norms")
    assert names["overlap"].other_k.tolist() == [8]
    assert set(names["table"].nodes) == {"circuit", "random", "coordinates", "neurons"}
