"""Imports of optional packages: what is raised when one is missing or broken."""

import sys

import pytest

import sae_lens_ext as sle
from sae_lens_ext._optional import require


def test_a_missing_package_raises_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(sle.MissingDependency) as caught:
        require("transformer_lens", "Opening the bundled model")

    assert str(caught.value) == (
        "Opening the bundled model needs transformer_lens, which is not installed; "
        "run: pip install 'sae-lens-ext[transformer-lens]'"
    )
    assert isinstance(caught.value, ImportError)


def test_an_installed_but_broken_package_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere") as caught:
        require("broken_package", "A test")
    assert not isinstance(caught.value, sle.MissingDependency)
