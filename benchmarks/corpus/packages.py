"""The documentation packages that the corpora are made of.

Licences are those of the text, in short; every package carries its own in
``/usr/share/doc/PACKAGE/copyright``. Nothing of the text is part of this repository.
"""

from typing import Literal, NamedTuple

Reader = Literal[
    "html", "plain", "man", "dictd", "mallard", "sword", "r_data", "wesnoth", "fortunes"
]

_TECHNICAL = 1_500_000
_PROSE = 4_000_000


class Package(NamedTuple):
    """Where a package has its text, and how to read it."""

    name: str
    reader: Reader
    pattern: str
    """Glob of its files below the root of the package."""
    licence: str
    most: int = _TECHNICAL
    """Characters to take; a larger package gives a sample of its documents."""


TRAINING = (
    # Fiction, religion, politics, history, law.
    Package(
        "r-cran-janeaustenr", "r_data", "**/data/Rdata.rdx", "public domain", _PROSE
    ),
    *(
        Package(f"wesnoth-1.16-{name}", "wesnoth", "**/campaigns/**/*.cfg", "GPL-2+")
        for name in ("dm", "httt", "low", "nr", "trow", "utbs")
    ),
    Package("sword-comm-tdavid", "sword", "**/*.?zs", "public domain", _PROSE),
    Package("sword-comm-mhcc", "sword", "**/*.?zs", "public domain", _PROSE),
    Package("anarchism", "html", "**/*.html", "GFDL or GPL", _PROSE),
    Package("cfi-en", "html", "**/html/*.htm*", "free to copy"),
    Package("doc-debian", "plain", "**/doc/debian/*.txt*", "GPL, MIT and others"),
    Package("debian-history", "html", "**/*.en.html", "GPL-2+"),
    Package("miscfiles", "plain", "**/state/*.gz", "public domain"),
    Package("base-files", "plain", "**/common-licenses/*", "each its own"),
    # Dictionaries and encyclopaedias.
    Package("dict-gcide", "dictd", "**/*.dict.dz", "GPL-3+", _PROSE),
    Package("dict-foldoc", "dictd", "**/*.dict.dz", "GFDL", _PROSE),
    Package("dict-devil", "dictd", "**/*.dict.dz", "public domain"),
    Package("dict-elements", "dictd", "**/*.dict.dz", "GPL-2+"),
    Package("dict-vera", "dictd", "**/*.dict.dz", "GFDL"),
    Package("jargon-text", "plain", "**/jargon*.txt*", "public domain"),
    # Games, graphics, music, desktops.
    Package("nethack-spoilers", "html", "**/*.html*", "public domain and others"),
    Package("crossfire-doc", "html", "**/*.*html", "GPL-2+"),
    Package("gimp-help-en", "html", "**/en/*.html", "GFDL"),
    Package("lilypond-doc-html", "html", "**/html/Documentation/**/*.html", "GFDL"),
    Package("gnome-user-docs", "mallard", "**/help/C/**/*.page", "CC-BY-SA-3.0"),
    Package("mate-user-guide", "mallard", "**/help/C/**/*.xml", "GFDL"),
    Package("libreoffice-help-en-us", "html", "**/en-US/text/**/*.html", "MPL-2.0"),
    Package("festival-doc", "html", "**/*.html", "X11"),
    # Mathematics and statistics.
    Package("octave-doc", "html", "**/octave.html/*.html", "GPL-3+"),
    Package("maxima-doc", "html", "**/html/*.html", "GPL-2+"),
    Package("r-doc-html", "html", "**/manual/*.html", "GPL-2+"),
    # Systems and programming.
    Package("debian-handbook", "html", "**/html/en-US/*.html", "CC-BY-SA or GPL-2+"),
    Package("debian-reference-en", "html", "**/*.en.html", "GPL-2+"),
    Package("developers-reference", "html", "**/developers-reference/*.html", "GPL-2+"),
    Package("debian-policy", "html", "**/policy.html/*.html", "GPL-2+"),
    Package("harden-doc", "html", "**/html/en-US/*.html", "GPL-2+"),
    Package("user-mode-linux-doc", "html", "**/html/*.html", "GPL"),
    Package("gitmagic", "html", "**/html/**/*.html", "GPL-3+"),
    Package("git-doc", "html", "**/git-doc/**/*.html", "GPL-2"),
    Package("abs-guide", "html", "**/*.html", "public domain"),
    Package("c++-annotations-txt", "plain", "**/*.txt*", "GPL-3"),
    Package(
        "rust-doc",
        "html",
        "**/rust-doc/html/*book*/*.html",
        "MIT or Apache-2.0",
        3_000_000,
    ),
    Package("python3.11-doc", "html", "**/html/**/*.html", "PSF-2", 4_000_000),
    Package("perl-doc", "man", "**/man1/*.1.gz", "GPL-1+ or Artistic", 3_000_000),
    Package("manpages", "man", "**/man/man?/*.gz", "GPL and BSD", 2_000_000),
    Package("manpages-dev", "man", "**/man/man?/*.gz", "GPL and BSD", 2_000_000),
    Package("linux-doc-6.1", "plain", "**/*.rst*", "GPL-2", 4_000_000),
    Package("apache2-doc", "html", "**/manual/en/**/*.html", "Apache-2.0"),
    Package("exim4-doc-html", "html", "**/*.html", "GPL-2+"),
    Package("postfix-doc", "html", "**/html/*.html", "IPL-1.0 or EPL-2.0"),
    Package("bind9-doc", "html", "**/*.html", "MPL-2.0"),
    Package("zsh-doc", "html", "**/*.html", "MIT-like"),
    Package("vim-doc", "html", "**/*.html", "Vim"),
)
"""Of the text to train on."""

HELD_OUT = {
    "fortunes": Package(
        "fortunes", "fortunes", "usr/share/games/fortunes/*", "BSD and others", _PROSE
    ),
    "postgresql": Package(
        "postgresql-doc-15", "html", "**/html/*.html", "PostgreSQL", _PROSE
    ),
}
"""Of text of kinds that is never trained on, by the name of its corpus."""

TOOLS = ("mandoc",)
"""Packages of programs that the readers call."""
