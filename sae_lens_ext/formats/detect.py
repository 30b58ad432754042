"""Which layout an SAE has, by the names of the files."""

import os
from collections.abc import Callable
from pathlib import Path

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    saelens,
    sparsify,
    state_dicts,
)
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.choices import (
    LAYOUTS,
    refuse_choice,
    refuse_unknown,
    saes_among,
)
from sae_lens_ext.formats.folder import SAVED, current_file, read_unchanged
from sae_lens_ext.formats.reading import read_object
from sae_lens_ext.formats.saelens.read import CONFIG_FILE, OUR_FILES, WEIGHTS_FILE

Reader = Callable[[Path], SAECheckpoint]

# Layouts of ``choices`` whose folder has no cfg.json, and what reads it.
_FOLDERS: dict[str, Reader] = {
    "Gemma Scope": lambda folder: gemma_scope.read_gemma_scope(
        folder / gemma_scope.PARAMS_FILE
    ),
    "Gemma Scope 2": lambda folder: gemma_scope_2.read_gemma_scope_2(
        folder / gemma_scope_2.PARAMS_FILE
    ),
    "dictionary_learning": dictionary_learning.read_dictionary_learning,
    "Llama Scope": llama_scope.read_llama_scope,
    "Llama Scope R1": llama_scope.read_llama_scope_r1,
}

# Files that belong to a folder: to choose one of them is to choose the folder.
_OF_FOLDER = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    sparsify.WEIGHTS_FILE,
    dictionary_learning.WEIGHTS_FILE,
)
# No published layout nests its folders deeper.
_DEPTH = 5


def read_sae(path: Path) -> SAECheckpoint:
    """Read an SAE or transcoder in any supported layout, from a folder or a file.

    A folder that this package writes to meanwhile is read as it is after one save.

    Raises:
        FormatError: no such place, a damaged file, an unknown layout, or a place that
            holds several SAEs.
        NonFinite: a tensor holds NaN or infinity.
    """
    if path.is_file():
        return _read_file(path)
    return read_unchanged(path, OUR_FILES, _read_folder)


def _read_file(path: Path) -> SAECheckpoint:
    if path.name in _OF_FOLDER:
        return read_sae(path.parent)
    if path.name == gemma_scope.PARAMS_FILE:
        return gemma_scope.read_gemma_scope(path)
    if path.name == gemma_scope_2.PARAMS_FILE:
        return gemma_scope_2.read_gemma_scope_2(path)
    if path.match(llama_scope.FINAL_FILE):
        return llama_scope.read_llama_scope(path.parents[1])
    if circuit_tracer.FILE.fullmatch(path.name):
        return circuit_tracer.read_circuit_tracer(path)
    if circuit_tracer.CROSS_LAYER_FILE.fullmatch(path.name):
        circuit_tracer.refuse_cross_layer(path.parent)
    if path.suffix in state_dicts.SUFFIXES:
        return state_dicts.read_state_dict_file(path)
    refuse_unknown(path.parent, [path.name])


def _read_folder(folder: Path) -> SAECheckpoint:
    if not folder.is_dir():
        raise FormatError(f"no folder {folder}")

    config_file = current_file(folder, CONFIG_FILE)
    if config_file.exists():
        # The description decides, because a folder can hold the weights of two layouts.
        config = read_object(config_file)
        is_saelens = "architecture" in config or "d_sae" in config
        if not is_saelens and (folder / sparsify.WEIGHTS_FILE).is_file():
            return sparsify.read_sparsify(folder)
        return saelens.read_saelens(folder)

    for layout, reader in _FOLDERS.items():
        if all((folder / name).is_file() for name in LAYOUTS[layout]):
            return reader(folder)

    paths = _files_below(folder)
    choices = [sae for sae in saes_among(paths) if sae != "."]
    if len(choices) == 1 and (folder / choices[0]).is_file() and "/" not in choices[0]:
        return _read_file(folder / choices[0])
    if choices:
        refuse_choice(folder, choices)
    refuse_unknown(folder, paths)


def _files_below(folder: Path) -> list[str]:
    """The files in a folder and in its folders, relative to it."""
    paths = []
    for place, folders, files in os.walk(folder):
        relative = Path(place).relative_to(folder)
        # Files of a save that was stopped belong to the folder above.
        if relative.name == SAVED:
            relative = relative.parent
        paths += [(relative / name).as_posix() for name in files]

        is_deep = len(relative.parts) >= _DEPTH
        folders[:] = [
            name
            for name in folders
            if name == SAVED or not (is_deep or name.startswith("."))
        ]
    return paths
