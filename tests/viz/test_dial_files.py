"""The script and the style of the dial load nothing and write no markup."""

import re
from importlib.resources import files

import pytest

SOURCES = {
    name: files("sae_lens_ext.viz").joinpath(name).read_text(encoding="utf-8")
    for name in ("dial.js", "dial.css")
}


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_loaded_from_elsewhere(name):
    forbidden = r"https?:|//cdn|@import|url\(|\bimport\b\s*[({'\"]|fetch\(|XMLHttp"
    assert not re.search(forbidden, SOURCES[name])


def test_nothing_is_set_as_markup():
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
    assert not re.search(forbidden, SOURCES["dial.js"])
