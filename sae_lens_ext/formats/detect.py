"""Which format an SAE folder has, by the files in it."""

from pathlib import Path

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats import saelens, sparsify
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.reading import read_object


def read_sae(folder: Path) -> SAECheckpoint:
    """Read an SAE folder in any supported format.

    Raises:
        FormatError: no such folder, a damaged one, or an unsupported format.
        NonFinite: a tensor holds NaN or infinity.
    """
    config_file = folder / saelens.CONFIG_FILE
    if config_file.is_file():
        # The description decides, because a folder can hold the weights of two formats.
        has_architecture = "architecture" in read_object(config_file)
        if not has_architecture and (folder / sparsify.WEIGHTS_FILE).is_file():
            return sparsify.read_sparsify(folder)
        return saelens.read_saelens(folder)

    if (folder / "params.npz").is_file() or (folder / "params.safetensors").is_file():
        raise FormatError(
            f"{folder} holds a Gemma Scope SAE, whose activation is JumpReLU; this "
            "release reads SAEs with TopK activation"
        )
    subfolders = [path.parent.name for path in folder.glob(f"*/{saelens.CONFIG_FILE}")]
    if subfolders:
        raise FormatError(
            f"{folder} holds {len(subfolders)} SAE folders; choose one with "
            f"subfolder=, such as {min(subfolders)!r}"
        )
    # Its error says which file is missing.
    return saelens.read_saelens(folder)
