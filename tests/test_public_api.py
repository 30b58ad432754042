import ast
from pathlib import Path

import pytest

import sae_lens_ext as sle
from sae_lens_ext import errors


def test_every_public_name_loads():
    assert {name for name in sle._PUBLIC if getattr(sle, name, None) is None} == set()
    assert set(sle._PUBLIC) <= set(dir(sle))


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(sle.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: statement.module.split(".", 1)[1]
        for statement in block.body
        for alias in statement.names
    }
    assert seen == sle._PUBLIC


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(
        AttributeError, match="module 'sae_lens_ext' has no attribute 'splise'"
    ):
        _ = sle.splise


def test_every_error_is_ours_and_a_builtin_one():
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    for kind in kinds:
        assert issubclass(kind, sle.SaeLensExtError)
        assert kind is sle.SaeLensExtError or issubclass(
            kind, ValueError | RuntimeError | KeyError
        ), kind
        assert kind.__name__ in sle._PUBLIC


def test_the_message_of_an_unknown_site_has_no_quotes_around_it():
    assert str(errors.UnknownSite("no site 'x'")) == "no site 'x'"


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    import sys

    from sae_lens_ext._optional import require

    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(sle.MissingDependency) as caught:
        require("transformer_lens", "Opening the bundled model")
    assert str(caught.value) == (
        "Opening the bundled model needs transformer_lens, which is not installed; run: pip install 'sae-lens-ext[transformer-lens]'"
    )
    assert isinstance(caught.value, ImportError)


def test_a_package_that_is_installed_and_broken_raises_its_own_error(
    tmp_path, monkeypatch
):
    from sae_lens_ext._optional import require

    (tmp_path / "broken_package.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere") as caught:
        require("broken_package", "A test")
    assert not isinstance(caught.value, sle.MissingDependency)
