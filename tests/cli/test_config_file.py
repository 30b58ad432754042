"""Options in a file stand for the same options typed."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.cli.config_file import with_config_file

NAMES = ["config", "d_sae", "lr", "ks", "progress", "objective_options", "cache"]


def _with(tmp_path, text, *typed):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    return with_config_file(["--config", str(path), *typed], NAMES)


def test_every_kind_of_value_becomes_what_would_be_typed(tmp_path):
    text = """
        d-sae: 64
        lr: 8e-4
        ks: [1, 2]
        progress: no
        objective_options: {stride: 8, levels: [1, 2]}
        cache: null
    """
    assert _with(tmp_path, text)[:-2] == [
        *("--d-sae", "64", "--lr", "8e-4", "--ks", "1", "2", "--no-progress"),
        *("--objective-options", "stride=8", "levels=[1, 2]", "--cache", "None"),
    ]


def test_what_is_typed_comes_after_the_file(tmp_path):
    arguments = _with(tmp_path, "d_sae: 64", "--d-sae", "32")
    assert arguments[:2] == ["--d-sae", "64"]
    assert arguments[-2:] == ["--d-sae", "32"]


def test_nothing_changes_without_a_file():
    assert with_config_file(["--lr", "1"], NAMES) == ["--lr", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3", "has an option 'steps'.*closest: "),
        ("config: other.yaml", "has an option 'config'"),
        ("- 3", "must have options and their values.*got list"),
        ("", "must have options and their values.*got NoneType"),
        ("k: {", "is not YAML"),
        ("lr: 1\nlr: 2", "has 'lr' more than once; keep one"),
        ("d_sae: 1\nd-sae: 2", "has 'd_sae' more than once; keep one"),
    ],
)
def test_a_file_that_is_no_list_of_options_is_an_error(tmp_path, text, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        _with(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(sle.InvalidArgument, match=r"no\.yaml cannot be read: No such"):
        with_config_file([f"--config={tmp_path / 'no.yaml'}"], NAMES)

    not_text = tmp_path / "bytes.yaml"
    not_text.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(sle.InvalidArgument, match="is not YAML"):
        with_config_file(["--config", str(not_text)], NAMES)
