"""Files of numpy: ``.npz``, without the pickled objects that one can hold."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file as tensors.

    Raises:
        FormatError: no such file, a damaged one, or one with pickled objects.
    """
    try:
        # Opened here, because numpy leaves the file of a damaged archive open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FormatError(
                    f"{path} must hold arrays by name; it holds one array"
                )
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}") from None
    except FormatError:
        raise
    # What the readers of a damaged archive raise is not documented: errors of zipfile,
    # zlib, of headers, of arrays that do not fit into memory.
    except Exception as error:
        raise FormatError(
            f"{path} is not a whole .npz file of plain arrays (was it cut short?): "
            f"{str(error) or type(error).__name__}"
        ) from error
