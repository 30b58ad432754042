"""JSON in its several shapes, and rows that must not stop or crash the reading."""

import json
import sys

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import documents, json_rows


def read(folder, name, content):
    """The documents in a file."""
    (folder / name).write_text(content)
    return list(documents(folder / name))


@pytest.mark.parametrize(
    "content",
    [
        '{"text": ["a", "b"], "id": [1, 2]}',
        '{"text": {"0": "a", "1": "b"}, "id": {"0": 1, "1": 2}}',
        '[{"text": "a"}, {"text": "b", "id": 3}]',
        json.dumps([{"text": "a"}, {"text": "b"}], indent=2),
        '{"text": "a"}\n{"text": "b"}',
        '\n{"text": "a"}\n\n{"text": "b"}\n\n',
    ],
)
def test_json_is_a_list_a_table_or_lines(tmp_path, content):
    assert read(tmp_path, "a.json", content) == ["a", "b"]


def test_json_of_one_object_is_one_row(tmp_path):
    assert read(tmp_path, "a.json", json.dumps({"text": "a"}, indent=1)) == ["a"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "2024-01-01T10:00:00"}, {"text": "2024-01-02"}],
        [{"text": "a", "x": 1}, {"text": "b", "x": "c"}, {"text": "d", "x": {"y": 1}}],
        [{"text": "a"}, {"text": "b", "late": [None]}],
        [{"text": "5", "n": 10**4999}, {"text": "", "n": float("nan")}],
    ],
)
def test_text_stays_text_whatever_the_other_columns_hold(tmp_path, rows, monkeypatch):
    # json.dumps cannot write an integer of 5000 digits otherwise.
    monkeypatch.setattr(sys, "set_int_max_str_digits", sys.set_int_max_str_digits)
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    lines = "\n".join(json.dumps(row) for row in rows)
    sys.set_int_max_str_digits(digits)
    assert read(tmp_path, "a.jsonl", lines) == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("5", "the number 5"),
        ("1.5", "the number 1.5"),
        ("true", "true, a truth value"),
        ('["a", "b"]', "the list ['a', 'b']"),
        ('{"a": "b"}', "the object {'a': 'b'}"),
    ],
)
def test_error_of_other_values_names_the_file_and_the_row(tmp_path, cell, kind):
    lines = f'{{"text": "a"}}\n{{"text": {cell}}}'
    with pytest.raises(sle.FormatError) as caught:
        read(tmp_path, "a.jsonl", lines)
    assert f"a.jsonl: 'text' of row 2 must be text; it is {kind}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '[null, {"text": "a"}]',
            "row 1 must be an object with 'text'; it i",
        ),
        ("a.jsonl", '{"text": "a"}\n["b"]', r"row 2 must be an object .* list \['b'\]"),
        ("a.jsonl", '{"text": "a"}\n{"text', "row 2 is not JSON"),
        ("a.json", '{"text": "a"}\n{"text', "row 2 is not JSON"),
        ("a.json", '{"text": "a"', "it is not JSON"),
        ("a.json", '"a"', "row 1 must be an object with 'text'; it is the text 'a'"),
        ("a.json", "[" * 10**6, "it is nested more than 500 levels deep"),
        ("a.jsonl", "[" * 10**6, "row 1 is nested more than 500 levels deep"),
        (
            "a.jsonl",
            '{"text": "a", "x": ' + "[" * 10**5 + "]" * 10**5 + "}",
            "row 1 is nested more than 500 levels deep",
        ),
        ("a.jsonl", '{"a":' * 10**5, "row 1 is nested more than 500 levels deep"),
    ],
)
def test_broken_rows_are_errors_that_name_the_row(tmp_path, name, content, message):
    with pytest.raises(
        sle.FormatError, match=f"{name} cannot be read to its end: {message}"
    ):
        read(tmp_path, name, content)


def test_brackets_inside_of_strings_do_not_count_as_depth(tmp_path):
    text = '[{"' * 1000 + "\\"
    assert read(tmp_path, "a.jsonl", json.dumps({"text": text})) == [text]
    rows = [{"text": "a", "x": [[]] * 300}] * 3
    assert read(tmp_path, "a.json", json.dumps(rows)) == ["a"] * 3


def test_depth_is_limited_whatever_the_recursion_limit(tmp_path):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(sle.FormatError, match="more than 500 levels deep"):
            read(tmp_path, "a.jsonl", "[" * 10**6)
    finally:
        sys.setrecursionlimit(limit)


def test_lines_and_values_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_LONGEST_LINE", 30)
    monkeypatch.setattr(json_rows, "_LONGEST_VALUE", 40)
    row = '{"text": "0123456789"}'
    assert len(read(tmp_path, "a.jsonl", f"{row}\n" * 9)) == 9
    assert len(read(tmp_path, "a.json", f"{row}\n" * 9)) == 9
    with pytest.raises(sle.FormatError, match="line 2 has more than 30 characters"):
        read(tmp_path, "a.jsonl", f"{row}\n{row * 2}")
    with pytest.raises(sle.FormatError, match="one JSON value of more than 40 charact"):
        read(tmp_path, "a.json", f"[\n{row},\n{row}]")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lone_surrogates_do_not_stop_the_reading(tmp_path, name):
    lines = '{"text": "a \\ud83d b"}\n{"text": "\\ud83d\\ude00"}'
    assert read(tmp_path, name, lines) == ["a \ufffd b", "😀"]
