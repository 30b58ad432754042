"""The documentation site names every public name and error, and its code runs."""

import re

import pytest
import tiny
import torch
from documents import DOCS, python_blocks, text_of

import sae_lens_ext as sle
from sae_lens_ext import errors, kernels
from sae_lens_ext.publishing import model_card

CONCEPTS = sorted(path.name for path in (DOCS / "concepts").glob("*.md"))


def code_of(page):
    return "\n".join(python_blocks(text_of(page)))


@pytest.fixture
def names(gemma2):
    """What the pages take for granted: a model, an SAE that fits it, tokens."""
    return {
        "model": gemma2,
        "sae": tiny.sae(d_sae=64, k=8, hook_name="blocks.2.hook_resid_post"),
        "tokens": tiny.tokens(),
        "torch": torch,
    }


@pytest.mark.parametrize("page", CONCEPTS)
def test_the_code_of_a_concept_page_runs(page, names):
    exec(compile(code_of(f"concepts/{page}"), page, "exec"), names)


def test_the_code_of_the_training_page_runs(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("my_texts", "other_texts")):
        (tmp_path / folder).mkdir()
        words = " ".join(f"w{(i + number) * i % 90}" for i in range(700))
        (tmp_path / folder / "text.txt").write_text(words)
    uploads = []
    monkeypatch.setattr(
        sle, "push_to_hub", lambda *args, **options: uploads.append((args, options))
    )
    exec(compile(code_of("training.md"), "training.md", "exec"), names)
    assert list(names["table"]["k"]) == [1, 2, 4, 8, 16]
    ((sae, _), options) = uploads.pop()
    assert model_card(sae, **options)


def test_the_first_page_shows_calls_that_exist(names):
    code = code_of("index.md").replace("blocks.12", "blocks.2").replace("32", "8")
    code = code.replace("ks=[1, 2, 4, 8, 16, 8]", "ks=[1, 2, 4, 8]")
    exec(compile(code, "index.md", "exec"), names)
    assert len(names["table"]) == 4


def test_every_public_name_has_its_place_in_the_api_pages():
    pages = [*(DOCS / "api").glob("*.md"), DOCS / "errors.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    documented = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)$", text, re.M))
    packages = [kernels, *(getattr(sle, name) for name in sle._PACKAGES)]
    public = {*sle._PUBLIC, *(name for package in packages for name in package.__all__)}
    assert public - {"Coefficients", "holds_numbers"} <= documented


def test_every_error_has_a_section():
    text = text_of("errors.md")
    raised = {
        name
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.SaeLensExtError)
    }
    sections = set(re.findall(r"^## (\w+)$", text, re.M))
    assert sections == raised - {"SaeLensExtError"}
