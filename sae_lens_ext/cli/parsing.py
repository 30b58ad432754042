"""From arguments to the options of a command.

The options of a command are the fields of a dataclass, with their defaults; the string
literal under a field is its help. ``fields_of`` adds the fields of a config to them, so
that names, defaults and help of a config are written once, in the config.
"""

import ast
import dataclasses
import inspect
import itertools
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import tyro

from sae_lens_ext.cli.config_file import named_file, with_config_file
from sae_lens_ext.cli.outcome import PROGRAM, complain
from sae_lens_ext.errors import InvalidArgument, SaeLensExtError

# Each fits a line of the help: tyro leaves a description on one line.
COMMANDS = {
    "demo": "Splice an SAE into a small real model at every k, and report.",
    "train": "Train an SAE on a language model's activations, and evaluate it.",
    "eval": "Measure SAEs at every k: reconstruction, and what the model predicts.",
    "index": "Index what an SAE's features are about, on a text.",
    "dashboard": "Write pages of features from an index, to read in a browser.",
    "mqar": "Train small models to recall, and compare kernels of linear attention.",
    "pretrain": "Train language models with linear and softmax attention on one text.",
}
"""The commands, and what each does in a sentence."""

Options = TypeVar("Options")

# What fields_of has returned, by its identity, and the class that it stands for. The
# first is stored so that its identity is not given to another object.
_UNCHECKED: dict[int, tuple[Any, type]] = {}


def parse(
    options: type[Options],
    arguments: Sequence[str] | None,
    command: str,
    *,
    repeatable: Collection[str] = (),
) -> Options:
    """The options of a command, from its arguments.

    Args:
        options: a dataclass; fields of fields are options without a prefix.
        arguments: what follows the command's name; None takes what was typed.
        command: a key of ``COMMANDS``.
        repeatable: options with several values; see ``merge_repeated``.

    ``None`` is accepted where it is the default; for a file of that name write
    ``./None``. A command with an option ``config`` takes options from that file too;
    see ``with_config_file``.

    Raises:
        SystemExit: with code 2 if an argument is invalid, after a message that names
            it; with code 0 after ``--help``.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    names = option_names(options)
    file = None
    if "config" in names:
        file = named_file(arguments)
        try:
            arguments = with_config_file(arguments, names)
        except SaeLensExtError as error:
            complain(str(error))
            raise SystemExit(2) from error
    arguments = without_nones(arguments, options_with_none(options))
    try:
        return tyro.cli(
            options,
            args=merge_repeated(arguments, repeatable),
            prog=f"{PROGRAM} {command}",
            description=COMMANDS[command],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
    except SystemExit as error:
        # tyro names the option, and not where its value comes from.
        if error.code == 2 and file is not None:
            complain(f"options that are not typed are those of {file}")
        raise


def merge_repeated(arguments: Sequence[str], repeatable: Collection[str]) -> list[str]:
    """Move all values of an option behind one mention of it.

    ``--lr 1 --lr 2`` and ``--lr 1 2`` then mean the same; tyro by itself would take the
    last ``--lr`` alone. Arguments of other options keep their order and come first.

    >>> merge_repeated(["--lr", "1", "--seeds", "2", "--lr=3", "--save"], ["--lr"])
    ['--seeds', '2', '--save', '--lr', '1', '3']
    """
    others: list[str] = []
    values: dict[str, list[str]] = {}
    current: list[str] | None = None
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in repeatable:
            current = values.setdefault(option, [])
            # As in argparse, an attached value is the only one of its mention.
            if equals:
                current.append(value)
                current = None
        elif current is not None and not _is_option(argument):
            current.append(argument)
        else:
            current = None
            others.append(argument)
    merged = ([option, *listed] for option, listed in values.items())
    return [*others, *itertools.chain.from_iterable(merged)]


def without_nones(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Leave out options whose value is ``None``, and earlier mentions of them.

    >>> without_nones(["--steps", "2", "--warmup=3", "--warmup", "None"], ["--warmup"])
    ['--steps', '2']
    """
    mentions: list[tuple[str, list[str]]] = []
    remaining = list(arguments)
    while remaining:
        words = [remaining.pop(0)]
        option, equals, value = words[0].partition("=")
        if option in options and not equals and remaining:
            words.append(remaining.pop(0))
            value = words[1]
        if option in options and value == "None":
            # The last mention of an option counts.
            mentions = [mention for mention in mentions if mention[0] != option]
        else:
            mentions.append((option, words))
    return list(itertools.chain.from_iterable(words for _, words in mentions))


def option_fields(options: type) -> list[dataclasses.Field[Any]]:
    """The fields that become options, those of fields and of ``fields_of`` included."""
    fields: list[dataclasses.Field[Any]] = []
    for field in dataclasses.fields(options):
        nested: Any = field.type
        for extra in getattr(field.type, "__metadata__", ()):
            _, nested = _UNCHECKED.get(id(extra), (None, nested))
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            fields += option_fields(nested)
        else:
            fields.append(field)
    return fields


def option_names(options: type) -> list[str]:
    """The names of the fields that become options."""
    return [field.name for field in option_fields(options)]


def options_with_none(options: type) -> list[str]:
    """The options whose default is None."""
    return [
        f"--{field.name.replace('_', '-')}"
        for field in option_fields(options)
        if field.default is None
    ]


def fields_of(
    config: type,
    *,
    without: Collection[str] = (),
    required: Collection[str] = (),
    texts: Mapping[str, str] | None = None,
) -> Any:
    """Make a field of an options class stand for the fields of a config.

    ``task: Annotated[Any, fields_of(MQAR)]`` gives the command the options of ``MQAR``,
    and ``MQAR(**vars(options.task))`` the config. The values arrive unchecked: errors
    of a config that tyro builds would be shown in a box of tyro's, with the name of the
    options' field in place of the config's.

    Args:
        config: a dataclass; its fields have plain defaults, or none and are required.
        without: fields to leave out.
        required: fields whose default None does not do for the command.
        texts: help by field, where an option differs from its field.
    """
    texts = {**field_texts(config), **(texts or {})}
    options = [
        _option(field, texts.get(field.name, ""), is_required=field.name in required)
        for field in dataclasses.fields(config)
        if field.name not in without
    ]
    unchecked = dataclasses.make_dataclass(config.__name__, options, kw_only=True)
    argument = tyro.conf.arg(constructor=unchecked)
    _UNCHECKED[id(argument)] = (argument, unchecked)
    return argument


def _option(
    field: dataclasses.Field[Any], text: str, *, is_required: bool
) -> tuple[str, Any, Any]:
    """A field of a config as one of options, for ``make_dataclass``."""
    kind: Any = field.type
    default = field.default
    if is_required:
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
        default = dataclasses.MISSING
    option: Any = dataclasses.field(default=default, metadata={"help": text})
    return field.name, kind, option


def field_texts(config: type) -> dict[str, str]:
    """The string literal under each field of a dataclass, as one line of plain text."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for statement, following in itertools.pairwise(definition.body):
        if not isinstance(statement, ast.AnnAssign):
            continue
        # A string that stands as a statement.
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                words = " ".join(text.split())
                texts[ast.unparse(statement.target)] = words.replace("``", "")
    return texts


def default_of(function: Callable[..., Any], parameter: str) -> Any:
    """The default of a function's parameter, for an option that is passed to it."""
    return inspect.signature(function).parameters[parameter].default


def not_empty(values: tuple[Any, ...], option: str) -> tuple[Any, ...]:
    """The values of a repeatable option.

    Raises:
        InvalidArgument: there are none; tyro takes an option without values for such.
    """
    if not values:
        raise InvalidArgument(f"{option} needs at least one value")
    return values


def check_unused(options: Any, names: tuple[str, ...], needed: str) -> None:
    """Check that options that do nothing without another one were not given.

    Raises:
        InvalidArgument: they were.
    """
    defaults = {each.name: each.default for each in dataclasses.fields(options)}
    given = [name for name in names if getattr(options, name) != defaults[name]]
    if given:
        raise InvalidArgument(
            f"{' and '.join(given)} would do nothing without --{needed}; give it as "
            "well"
        )


def make_folder(folder: Path) -> None:
    """Make the folder of an option ``--out``, unless it is there.

    Raises:
        InvalidArgument: it is a file, cannot be made, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(
            f"{folder} is a file; give a folder to write to with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The rights alone do not tell: file systems can be full or read-only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidArgument(
            f"{folder} cannot be written to ({error.strerror or error}); give another "
            "folder with --out"
        ) from error


def _is_option(argument: str) -> bool:
    """Whether an argument is an option; negative numbers are values."""
    if not argument.startswith("-"):
        return False
    try:
        float(argument)
    except ValueError:
        return True
    return False
