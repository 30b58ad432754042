"""Whatever a file holds, an error of this package names it, or it is read."""

import json
import random
import shutil

import checkpoints
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import locate, read_sae

# One case of every layout.
CHOSEN = {
    ("saelens-6", "gated-plain"),
    ("saelens-6", "batchtopk-checkpoint"),
    ("saelens-6", "topk-whitening-checkpoint"),
    ("saelens-6", "jumprelu_skip_transcoder"),
    ("saelens-3", "topk"),
    ("sparsify", "skip_transcode"),
    ("dictionary_learning", "gated"),
    ("dictionary_learning", "batchtopk"),
    ("circuit-tracer", "jumprelu-skip-0"),
    ("published", "gemma-scope-res"),
    ("published", "gemma-scope-2-transcoder_all-layer_5_width_16k_l0_small_affine"),
    ("published", "qwen-scope-0"),
    ("published", "llama-scope"),
    ("published", "llama-scope-r1"),
    ("published", "goodfire"),
    ("published", "attention-gpt2"),
}
CASES = [case for case in checkpoints.cases() if case[:2] in CHOSEN]
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    float("nan"),
    float("inf"),
    "text",
    "../../etc",
    [],
    [1],
    {},
    {"k": []},
)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}/{case[1]}")
def place(request, tmp_path):
    """A copy of a case under the names that lead to it, and what is read of it."""
    _, _, folder, subfolder = request.param
    copy = tmp_path / folder.relative_to(checkpoints.FIXTURES)
    shutil.copytree(folder, copy)
    return copy, subfolder


def _files(place):
    folder, subfolder = place
    root = folder / (subfolder or "")
    if root.is_file():
        beside = [path for path in root.parent.iterdir() if path.suffix != root.suffix]
        return [root, *(path for path in beside if path.is_file())]
    return sorted(path for path in root.rglob("*") if path.is_file())


def _outcome(place):
    """The checkpoint, or the error; anything foreign passes through."""
    folder, subfolder = place
    try:
        checkpoint = read_sae(locate(folder, subfolder=subfolder))
    except sle.SaeLensExtError as error:
        return error
    for tensor in checkpoint.tensors.values():
        assert bool(torch.isfinite(tensor).all())
    x = torch.randn(3, checkpoint.d_model)
    assert checkpoints.reconstructed(checkpoint, x).ndim == 2
    return checkpoint


def test_all_layouts_are_here():
    assert len(CASES) == len(CHOSEN)


@pytest.mark.usefixtures("without_shape_checks")
def test_bytes_that_are_cut_or_changed(place):
    generator = random.Random(0)
    for path in _files(place):
        whole = path.read_bytes()
        n_failures = 0
        for _ in range(12):
            damaged = bytearray(whole[: generator.randrange(len(whole) + 1)])
            if generator.random() < 0.6:
                damaged = bytearray(whole)
                for _ in range(generator.randrange(1, 9)):
                    damaged[generator.randrange(len(damaged))] = generator.randrange(
                        256
                    )
            path.write_bytes(damaged)
            n_failures += isinstance(_outcome(place), sle.SaeLensExtError)
        path.write_bytes(whole)
        # A config beside a single file may not be needed.
        assert n_failures or path.suffix in (".json", ".yaml")


@pytest.mark.usefixtures("without_shape_checks")
def test_values_of_other_types_in_a_config(place):
    for path in _files(place):
        if path.suffix != ".json":
            continue
        config = json.loads(path.read_text())
        objects = [config, *(v for v in config.values() if isinstance(v, dict))]
        for holder in objects:
            for key in list(holder):
                whole = holder[key]
                for value in VALUES:
                    holder[key] = value
                    path.write_text(json.dumps(config))
                    _outcome(place)
                del holder[key]
                path.write_text(json.dumps(config))
                _outcome(place)
                holder[key] = whole
        path.write_text(json.dumps(config))
    assert not isinstance(_outcome(place), sle.SaeLensExtError)


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/etc", "a\0b", "x" * 5000])
def test_a_subfolder_stays_inside(tmp_path, subfolder):
    with pytest.raises(sle.FormatError, match="no folder"):
        locate(tmp_path, subfolder=subfolder)
