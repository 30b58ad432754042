"""The public names of the package, and how they are loaded."""

import ast
from pathlib import Path

import pytest

import sae_lens_ext as sle


def test_every_public_name_loads():
    missing = {name for name in sle._PUBLIC if getattr(sle, name, None) is None}
    assert missing == set()
    assert set(sle._PUBLIC) <= set(dir(sle))


def test_every_public_package_loads():
    assert all(getattr(sle, name).__all__ for name in sle._PACKAGES)
    assert set(sle._PACKAGES) <= set(dir(sle))


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(sle.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = [line for line in block.body if line.module != "sae_lens_ext"]
    packages = [line for line in block.body if line.module == "sae_lens_ext"]
    named = [alias.asname for line in packages for alias in line.names]
    assert tuple(named) == sle._PACKAGES
    declared = {
        alias.asname: statement.module.split(".", 1)[1]
        for statement in names
        for alias in statement.names
    }
    assert declared == sle._PUBLIC


def test_an_unknown_name_raises_attribute_error():
    with pytest.raises(
        AttributeError, match="module 'sae_lens_ext' has no attribute 'splise'"
    ):
        _ = sle.splise
