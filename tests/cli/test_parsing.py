"""Arguments become options: fields of configs, repeated values, errors with names."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

import sae_lens_ext as sle
from sae_lens_ext.cli.parsing import (
    default_of,
    field_texts,
    fields_of,
    make_folder,
    merge_repeated,
    not_empty,
    option_names,
    options_with_none,
    parse,
)


@dataclass(frozen=True)
class Config:
    """A config that checks its fields."""

    width: int = 8
    """How wide ``x`` is;
    two lines."""
    depth: int | None = None
    kernel: str = "based"
    """One kernel."""
    is_deep: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise sle.InvalidArgument("width must be positive")


@dataclass(frozen=True, kw_only=True)
class Here:
    kernel: tuple[str, ...] = ("based", "rebased")
    """Kernels to compare."""
    lr: tuple[float, ...] = (0.5,)
    """Learning rates."""


@dataclass(frozen=True, kw_only=True)
class Options:
    here: Here = field(default_factory=Here)
    config: Annotated[
        Any, fields_of(Config, without=("kernel",), texts={"depth": "How deep."})
    ]


def parsed(*arguments):
    return parse(Options, arguments, "mqar", repeatable=("--kernel", "--lr"))


@pytest.mark.parametrize(
    ("arguments", "merged"),
    [
        ("", ""),
        ("--lr 1", "--lr 1"),
        ("--lr 1 2", "--lr 1 2"),
        ("--lr 1 --lr 2", "--lr 1 2"),
        ("--lr 1 2 --lr 3 4", "--lr 1 2 3 4"),
        ("--lr=1 --lr=2", "--lr 1 2"),
        ("--lr=1 2", "2 --lr 1"),
        ("--lr -1 --lr -1e-3", "--lr -1 -1e-3"),
        ("--lr 1 --seeds 2 --lr 3", "--seeds 2 --lr 1 3"),
        ("--lr 1 --save --kernel a --lr 2", "--save --lr 1 2 --kernel a"),
        ("--seeds 2 --seeds 3", "--seeds 2 --seeds 3"),
        ("stray --lr 1", "stray --lr 1"),
        ("--lr --save", "--save --lr"),
    ],
)
def test_merges_repeated_options(arguments, merged):
    assert merge_repeated(arguments.split(), ("--lr", "--kernel")) == merged.split()


def test_repeated_and_listed_values_mean_the_same():
    repeated = parsed("--kernel", "a", "--lr", "1", "--kernel", "b", "--lr", "2")
    listed = parsed("--kernel", "a", "b", "--lr", "1", "2")
    assert repeated.here == listed.here == Here(kernel=("a", "b"), lr=(1.0, 2.0))


def test_the_last_of_a_repeated_single_option_counts():
    assert parsed("--width", "1", "--width", "2").config.width == 2


def test_defaults_are_those_of_the_config():
    options = parsed()
    assert Config(**vars(options.config)) == Config()
    assert options.here == Here()
    assert not hasattr(options.config, "kernel")


def test_boolean_fields_are_pairs():
    assert parsed("--no-is-deep").config.is_deep is False
    assert parsed("--is-deep").config.is_deep is True


def test_values_of_a_config_arrive_unchecked():
    options = parsed("--width", "0")
    with pytest.raises(sle.InvalidArgument, match="width must be positive"):
        Config(**vars(options.config))


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--width", "wide"], "--width"),
        (["--width"], "--width"),
        (["--wide", "3"], "--wide"),
        (["--width", "None"], "--width"),
        (["stray"], "stray"),
    ],
)
def test_rejects_invalid_arguments_by_name(arguments, option, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_none_is_accepted_where_it_is_the_default():
    assert parsed("--depth", "None").config.depth is None
    assert parsed("--depth", "3", "--depth=None").config.depth is None
    assert parsed("--depth", "None", "--depth", "3").config.depth == 3
    assert options_with_none(Options) == ["--depth"]


def test_fields_of_fields_are_options():
    assert option_names(Options) == ["kernel", "lr", "width", "depth", "is_deep"]


def test_makes_a_folder_or_says_why_not(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(sle.InvalidArgument, match="file is a file; give a folder"):
        make_folder(file)
    with pytest.raises(sle.InvalidArgument, match="file/sub cannot be written to"):
        make_folder(file / "sub")


def test_help_shows_texts_defaults_and_groups(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    for part in (
        "config options",
        "here options",
        "--width INT How wide x is; two lines. (default: 8)",
        "--depth INT How deep. (default: None)",
        "Kernels to compare. (default: based rebased)",
    ):
        assert part in shown


def test_reads_the_text_under_each_field():
    assert field_texts(Config) == {
        "width": "How wide x is; two lines.",
        "kernel": "One kernel.",
    }


def test_reads_the_default_of_a_parameter():
    assert default_of(lambda a, b=3: None, "b") == 3


def test_rejects_an_option_without_values():
    assert not_empty((1,), "--lr") == (1,)
    with pytest.raises(sle.InvalidArgument, match="--lr needs at least one value"):
        not_empty((), "--lr")
