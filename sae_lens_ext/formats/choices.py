"""Which of many files are SAEs, and which of them one SAE needs.

The same for a folder on this machine and for the listing of a repository, of which no
more should be downloaded than is read: there can be an SAE for every layer in it, and
hundreds of gigabytes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    sparsify,
    state_dicts,
)
from sae_lens_ext.formats.saelens.read import (
    CONFIG_FILE,
    OUR_FILES,
    SCALER_FILE,
    WEIGHTS_FILE,
    WHITENING_FILE,
)

LAYOUTS = {
    "SAELens": (CONFIG_FILE, WEIGHTS_FILE),
    "sparsify": (CONFIG_FILE, sparsify.WEIGHTS_FILE),
    "Gemma Scope": (gemma_scope.PARAMS_FILE,),
    "Gemma Scope 2": (gemma_scope_2.PARAMS_FILE,),
    "dictionary_learning": (
        dictionary_learning.WEIGHTS_FILE,
        dictionary_learning.CONFIG_FILE,
    ),
    "Llama Scope": (llama_scope.HYPERPARAMS_FILE, llama_scope.FINAL_FILE),
    "Llama Scope R1": (llama_scope.R1_CONFIG_FILE, llama_scope.R1_WEIGHTS_FILE),
}
"""The files by which the folder of one SAE is recognised."""

# A file with one of these names makes its folder that of an SAE.
_MARKS = {
    CONFIG_FILE: 1,
    WEIGHTS_FILE: 1,
    gemma_scope.PARAMS_FILE: 1,
    gemma_scope_2.PARAMS_FILE: 1,
    dictionary_learning.WEIGHTS_FILE: 1,
    llama_scope.FINAL_FILE: 2,
}
_BESIDE_FOLDER = (
    *OUR_FILES,
    SCALER_FILE,
    WHITENING_FILE,
    sparsify.WEIGHTS_FILE,
    *(name for names in LAYOUTS.values() for name in names),
    gemma_scope_2.CONFIG_FILE,
)
_BESIDE_FILE = (circuit_tracer.CONFIG_FILE,)
_TOP = PurePosixPath(".")


def saes_among(paths: Iterable[str]) -> list[str]:
    """The SAEs among files: folders that hold one, and files that are one.

    >>> saes_among(["a/cfg.json", "a/sae_weights.safetensors", "layer0.sae.pt", "x.md"])
    ['a', 'layer0.sae.pt']
    """
    saes = set()
    for path in map(PurePosixPath, paths):
        folder = _marked_folder(path)
        if folder is not None:
            saes.add(str(folder))
        elif is_sae_file(path.name):
            saes.add(str(path))
    return sorted(saes)


def is_sae_file(name: str) -> bool:
    """Whether a file of this name can be an SAE on its own."""
    is_layer = circuit_tracer.FILE.fullmatch(name) is not None
    is_pickle = name.endswith(state_dicts.SUFFIXES) and name not in _MARKS
    return is_layer or is_pickle


def needed_files(where: str, paths: Sequence[str], subfolder: str | None) -> list[str]:
    """Those of a repository's files that the reader of one SAE needs.

    Args:
        where: the repository, for messages.
        paths: all its files.
        subfolder: the folder or file of the SAE; None for the top.

    Raises:
        FormatError: there is no SAE, or there are several to choose from.
    """
    place = PurePosixPath(subfolder) if subfolder else _TOP
    if str(place) in paths:
        folder = _marked_folder(place)
        if folder is not None:
            return _of_folder(paths, folder)
        if not is_sae_file(place.name):
            refuse_unknown(f"{where}/{place.parent}", [place.name])
        return _of_file(paths, place)

    inside = [path for path in paths if place in PurePosixPath(path).parents]
    choices = saes_among(inside)
    if str(place) in choices:
        return _of_folder(paths, place)
    only = PurePosixPath(choices[0]) if len(choices) == 1 else None
    if only is not None and only.parent == place and str(only) in paths:
        return _of_file(paths, only)

    shown = f"{where}/{place}" if subfolder else where
    if choices:
        refuse_choice(shown, choices)
    refuse_unknown(
        shown, [str(PurePosixPath(path).relative_to(place)) for path in inside]
    )


def refuse_choice(where: Path | str, choices: Sequence[str]) -> NoReturn:
    """Say that there are several SAEs, and how to choose one.

    Raises:
        FormatError: always.
    """
    names = ", ".join(repr(choice) for choice in choices[:5])
    dots = ", ..." if len(choices) > 5 else ""
    are_files = all(is_sae_file(PurePosixPath(choice).name) for choice in choices)
    nouns = "files" if are_files else "folders"
    raise FormatError(
        f"{where} holds {len(choices)} SAE {nouns}; choose one with subfolder=, such "
        f"as {names}{dots}"
    )


def refuse_unknown(where: Path | str, names: Sequence[str]) -> NoReturn:
    """Say which files were looked for, and which are there.

    Raises:
        FormatError: always.
    """
    _refuse_many_layers(where, names)
    layouts = "; ".join(
        f"{' and '.join(files)} ({name})" for name, files in LAYOUTS.items()
    )
    listing = ", ".join(sorted(names)[:12]) or "no files"
    dots = ", ..." if len(names) > 12 else ""
    pickles = ", ".join(f"*{end}" for end in state_dicts.SUFFIXES)
    raise FormatError(
        f"{where} holds no SAE of a known layout, so it is not an SAE folder; looked "
        f"for {layouts}; or one file {pickles} or layer_0.safetensors; it holds "
        f"{listing}{dots}"
    )


def _refuse_many_layers(where: Path | str, names: Sequence[str]) -> None:
    for name in names:
        if circuit_tracer.CROSS_LAYER_FILE.fullmatch(name):
            circuit_tracer.refuse_cross_layer(Path(where))
        family = gemma_scope_2.many_layers(f"{where}/{name}")
        if family is not None:
            raise FormatError(
                f"{where} holds {family}; this reader knows SAEs and transcoders of "
                "one layer"
            )


def _marked_folder(path: PurePosixPath) -> PurePosixPath | None:
    """The SAE folder that a file belongs to; None if it belongs to none."""
    for mark, depth in _MARKS.items():
        if path.match(mark):
            return path.parents[depth - 1] if len(path.parents) >= depth else None
    return None


def _of_folder(paths: Sequence[str], folder: PurePosixPath) -> list[str]:
    needed = {str(folder / name) for name in _BESIDE_FOLDER}
    # sparsify's trainer names the model beside the folders of all its SAEs.
    if str(folder / sparsify.WEIGHTS_FILE) in paths and folder != _TOP:
        needed.add(str(folder.parent / "config.json"))
    return [path for path in paths if path in needed]


def _of_file(paths: Sequence[str], file: PurePosixPath) -> list[str]:
    beside = (*_BESIDE_FILE, state_dicts.config_beside(Path(file)).name)
    needed = {str(file), *(str(file.parent / name) for name in beside)}
    return [path for path in paths if path in needed]
