"""Any SAE folder, by the files that are in it."""

from pathlib import Path

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats import saelens, sparsify
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.reading import read_object


def read_sae(folder: Path) -> SAECheckpoint:
    """Read an SAE folder of any kind that is known.

    Raises:
        FormatError: no such folder, or a damaged one.
        NonFinite: a tensor holds NaN or infinity.
    """
    if (folder / saelens.CONFIG_FILE).is_file():
        # By what the description says, because a folder can hold the weights of more than one format.
        is_sparsify = (
            "architecture" not in read_object(folder / saelens.CONFIG_FILE)
            and (folder / sparsify.WEIGHTS_FILE).is_file()
        )
        return (
            sparsify.read_sparsify(folder)
            if is_sparsify
            else saelens.read_saelens(folder)
        )
    if (folder / "params.npz").is_file() or (folder / "params.safetensors").is_file():
        raise FormatError(
            f"{folder} holds a Gemma Scope SAE, whose activation is JumpReLU; this release reads SAEs with TopK activation"
        )
    inside = sorted(
        path.parent.name for path in folder.glob(f"*/{saelens.CONFIG_FILE}")
    )
    if inside:
        raise FormatError(
            f"{folder} holds {len(inside)} SAE folders; choose one with subfolder=, such as {inside[0]!r}"
        )
    return saelens.read_saelens(folder)
