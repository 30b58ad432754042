"""Folders in the layout of SAELens, read and written."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import sae_lens_ext as sle


@pytest.fixture
def folder(tmp_path):
    return tiny.sae(
        levels=tuple(range(1, 9)),
        model_name="tiny",
        exclude_special_tokens=True,
        metadata={"note": [1, "two"]},
    ).save_pretrained(tmp_path / "sae")


def _change_config(folder, **changes):
    """Replace values of cfg.json; ``...`` removes one, a dict is merged."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del config[key]
        elif isinstance(value, dict):
            config[key] = {**config[key], **value}
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def _change_weights(folder, **changes):
    """Replace tensors of the weights file; ``...`` removes one."""
    path = folder / "sae_weights.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        if tensor is ...:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path)


def test_saving_twice_writes_the_same_bytes(folder, tmp_path):
    again = sle.SAE.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_folder_has_the_layout_of_saelens(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    config = json.loads((folder / "cfg.json").read_text())
    assert config["architecture"] == "topk"
    assert (config["d_in"], config["d_sae"], config["k"], config["dtype"]) == (
        32,
        48,
        8,
        "float32",
    )
    assert config["metadata"]["sae_lens_version"].startswith("6.")
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    shapes = {
        name: list(tensor.shape)
        for name, tensor in load_file(folder / "sae_weights.safetensors").items()
    }
    assert shapes == {
        "W_enc": [32, 48],
        "b_enc": [48],
        "W_dec": [48, 32],
        "b_dec": [32],
    }


def test_rescaling_by_decoder_norm_is_read_as_the_same_function(tmp_path):
    """SAELens selects by activation times decoder norm when the flag is on."""
    sae = tiny.sae(apply_b_dec_to_input=False)
    folder = sae.save_pretrained(tmp_path)
    _change_config(folder, rescale_acts_by_decoder_norm=True)
    x = torch.randn(7, 32)
    norms = sae.W_dec.norm(dim=1)
    values, indices = ((x @ sae.W_enc + sae.b_enc) * norms).topk(5)
    dense = torch.zeros(7, 48).scatter(1, indices, values.relu())
    torch.testing.assert_close(
        sle.SAE.from_pretrained(folder)(x, 5), dense / norms @ sae.W_dec + sae.b_dec
    )


def test_a_decoder_row_of_zeros_survives_the_rescaling(tmp_path):
    sae = tiny.sae()
    with torch.no_grad():
        sae.W_dec[5] = 0
    folder = sae.save_pretrained(tmp_path)
    _change_config(folder, rescale_acts_by_decoder_norm=True)
    assert sle.SAE.from_pretrained(folder)(torch.randn(3, 32), 8).isfinite().all()


def test_rejects_what_cannot_be_saved_before_writing_anything(tmp_path):
    with pytest.raises(sle.InvalidArgument, match="metadata must be JSON values"):
        tiny.sae(metadata={"x": object()}).save_pretrained(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(sle.InvalidArgument, match="file is a file; give a folder"):
        tiny.sae().save_pretrained(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _with_config(**changes):
    return lambda folder: _change_config(folder, **changes)


def _with_extension(**extension):
    """A change of the facts that this package adds to a description."""
    return _with_config(metadata={"sae_lens_ext": extension})


def _with_weights(**changes):
    return lambda folder: _change_weights(folder, **changes)


def _with_text(text):
    return lambda folder: (folder / "cfg.json").write_text(text)


def _without(name):
    return lambda folder: (folder / name).unlink()


def _replace_config_by_a_folder(folder):
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("cfg.json"), "it is not an SAE folder; looked for cfg.json and"),
        (_without("sae_weights.safetensors"), "holds no sae_weights.safetensors"),
        (_with_text('{"architecture": "to'), "is not JSON .was it cut short"),
        (_with_text("[1]"), "must hold one JSON object; it holds a value of type list"),
        (_with_config(d_sae=...), "lacks d_sae"),
        (_with_config(k=...), "lacks k"),
        (_with_config(k=4.5), "k must be a positive integer; it is 4.5"),
        (_with_config(k=49), "k=49 is more than d_sae=48 features"),
        (
            _with_config(architecture="abstopk"),
            "describes architecture 'abstopk'; its features may be negative",
        ),
        (
            _with_config(normalize_activations="expected_average_only_in"),
            "normalize_activations is 'expected_average_only_in', and the factor is",
        ),
        (
            _with_config(metadata=["topk"]),
            r"metadata must be an object; it is \['topk'\]",
        ),
        (
            _with_config(metadata={"sae_lens_version": "7.0.0"}),
            "sae_lens_version '7.0.0'; this reader knows versions 3 to 6",
        ),
        (
            _with_extension(format_version=2),
            "format_version 2; this release reads 1",
        ),
        (
            _with_config(metadata={"sae_lens_ext": []}),
            r"metadata.sae_lens_ext must be an object; it is \[\]",
        ),
        (
            _with_extension(format_version=1, levels="abc"),
            "levels must be a list of integers; got 'abc'",
        ),
        (
            _with_extension(format_version=1, levels=[1.5, 8]),
            "levels must be a list of integers; got",
        ),
        (
            _with_config(metadata={"hook_name": 5}),
            "does not describe an SAE: hook_name must be a string; got 5",
        ),
        (
            _with_config(metadata={"exclude_special_tokens": "yes"}),
            "exclude_special_tokens must be True, False, or a list",
        ),
        (
            _with_config(apply_b_dec_to_input="no"),
            "apply_b_dec_to_input must be true or false; it is 'no'",
        ),
        (
            _with_weights(b_enc=torch.zeros(48).to(torch.float8_e4m3fn)),
            "must hold tensors of one floating-point dtype",
        ),
        (_replace_config_by_a_folder, "cfg.json cannot be read"),
        (
            _with_config(d_in=31),
            r"W_enc must be \[31, 48\], by cfg.json; it is \[32, 48\]",
        ),
        (
            _with_weights(b_enc=...),
            "must hold exactly W_dec, W_enc, b_dec, b_enc; it holds W_dec, W_enc, "
            "b_dec",
        ),
        (
            _with_weights(extra=torch.zeros(1)),
            "must hold exactly W_dec, W_enc, b_dec, b_enc; it holds",
        ),
        (
            _with_weights(b_enc=torch.zeros(48, dtype=torch.int64)),
            "tensors of one floating-point dtype; it holds .*, b_enc torch.int64",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_damaged_folder_with_the_reason(folder, change, message):
    change(folder)
    with pytest.raises(sle.FormatError, match=message):
        sle.SAE.from_pretrained(folder)


def test_rejects_weights_that_are_not_finite_in_both_directions(folder, tmp_path):
    _change_weights(folder, b_dec=torch.full((32,), float("nan")))
    with pytest.raises(
        sle.NonFinite, match="32 of 32 numbers in b_dec of .* are NaN or infinite"
    ):
        sle.SAE.from_pretrained(folder)
    sae = tiny.sae()
    with torch.no_grad():
        sae.W_dec[0, 0] = float("inf")
    with pytest.raises(sle.NonFinite, match="1 of 1536 numbers in W_dec"):
        sae.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_place_where_nothing_can_be_saved(folder, tmp_path):
    with pytest.raises(sle.InvalidArgument, match="cfg.json is a file; give a folder"):
        tiny.sae().save_pretrained(folder / "cfg.json" / "sae")
    with pytest.raises(
        sle.InvalidArgument, match="give the folder to save to as a path; got None"
    ):
        tiny.sae().save_pretrained(None)
    with pytest.raises(
        sle.FormatError, match="subfolder must be the name of a folder, or None; got 3"
    ):
        sle.SAE.from_pretrained(folder, subfolder=3)
