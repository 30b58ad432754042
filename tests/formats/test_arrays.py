"""Files of numpy hold plain arrays, or an error names the file."""

import io
import zipfile

import numpy as np
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats.arrays import read_npz


def _bytes_of(save, *args, **options):
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def _zip_of(content, name="W_enc.npy", **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr(name, content)
    return file.getvalue()


WHOLE = _bytes_of(np.savez, W_enc=np.ones((2, 3), dtype=np.float32))
HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(
        117
    )
    + b"\n"
)


def test_reads_arrays_by_name(tmp_path):
    path = tmp_path / "params.npz"
    path.write_bytes(WHOLE)
    assert torch.equal(read_npz(path)["W_enc"], torch.ones(2, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-10],
        b"\x00" * 500,
        _bytes_of(np.savez, W_enc=np.array([{"a": 1}], dtype=object)),
        _bytes_of(np.savez, W_enc=np.array(["text"])),
        _bytes_of(np.savez, W_enc=np.zeros(2, dtype=[("a", "f4")])),
        _bytes_of(np.savez, W_enc=np.zeros(2, dtype=">f4")),
        _bytes_of(np.save, np.ones(3)),
        _bytes_of(np.save, np.array([{"a": 1}], dtype=object), allow_pickle=True),
        _zip_of(b"no array"),
        _zip_of(HUGE),
        _zip_of(b"\x93NUMPY\x09\x00"),
        WHOLE.replace(b"NUMPY", b"NAMPY"),
    ],
    ids=[
        "empty",
        "cut zip",
        "half",
        "without its end",
        "zeros",
        "pickled object",
        "text",
        "records",
        "big-endian",
        "one array",
        "one pickled array",
        "no array",
        "huge header",
        "unknown version",
        "damaged header",
    ],
)
def test_rejects_anything_else_with_the_name_of_the_file(tmp_path, content):
    path = tmp_path / "params.npz"
    path.write_bytes(content)
    with pytest.raises(sle.FormatError, match="params.npz (is not a whole|must hold)"):
        read_npz(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(sle.FormatError, match="holds no params.npz"):
        read_npz(tmp_path / "params.npz")
