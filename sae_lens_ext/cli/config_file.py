"""Options in a YAML file, which ``--config`` puts before those that are typed.

    d_sae: 4096
    k: 64
    hook_name: blocks.9.hook_resid_post
    objective_options: {weights: inverse}
    progress: false

A name is that of an option, with underscores or hyphens. A list stands for several
values, a mapping for ``name=value`` pairs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, closest

OPTION = "--config"
"""The option that names the file."""


def with_config_file(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments, behind those of the file that ``--config`` names, if there is one.

    What is typed comes later, so it counts.

    Args:
        arguments: what was typed.
        names: the options that the command has, with underscores.

    Raises:
        InvalidArgument: the file cannot be read, is not a mapping of options in YAML,
            or has an option that the command does not have.
    """
    path = named_file(arguments)
    if path is None:
        return list(arguments)
    return [*_arguments_of(_settings(Path(path)), path, names), *arguments]


def named_file(arguments: Sequence[str]) -> str | None:
    """The file that ``--config`` names; None without that option."""
    path = None
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option != OPTION:
            continue
        path = value if equals else next(iter(arguments[position + 1 :]), None)
    return path


def _settings(path: Path) -> Mapping[Any, Any]:
    yaml = require("yaml", f"Reading the options in {path}")
    try:
        text = path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
        pairs = getattr(yaml.compose(text, Loader=yaml.SafeLoader), "value", ())
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, Mapping):
        raise InvalidArgument(
            f"{path} must have options and their values, such as `k: 64`; got "
            f"{type(settings).__name__}"
        )
    # Of two values of one key, YAML's readers keep the last.
    names = Counter(str(key.value).replace("-", "_") for key, _ in pairs)
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise InvalidArgument(f"{path} has {repeated[0]!r} more than once; keep one")
    return settings


def _arguments_of(
    settings: Mapping[Any, Any], path: str, names: Sequence[str]
) -> list[str]:
    arguments: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        # A file that names another would be read once only.
        if name not in names or f"--{name}" == OPTION:
            raise InvalidArgument(
                f"{path} has an option {key!r}, which this command does not have; the "
                f"closest: {closest(name, names)}"
            )
        arguments += _typed(name.replace("_", "-"), value)
    return arguments


def _typed(option: str, value: Any) -> list[str]:
    """An option with its value as they would be typed.

    >>> _typed("ks", [1, 2]), _typed("progress", False), _typed("lr", "8e-4")
    (['--ks', '1', '2'], ['--no-progress'], ['--lr', '8e-4'])
    """
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, Mapping):
        pairs = [f"{name}={each}" for name, each in value.items()]
        return [f"--{option}", *pairs]
    if isinstance(value, list):
        return [f"--{option}", *map(str, value)]
    return [f"--{option}", str(value)]
