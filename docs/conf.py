"""How Sphinx builds this documentation: `make docs`, or strictly in `make test`."""

import sae_lens_ext

project = "sae_lens_ext"
author = "the sae_lens_ext authors"
version = release = sae_lens_ext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# Links to headings inside a page; links to files of the repository leave the site.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings: Google style, with a section for the paper and the equation.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "returns_style")]
napoleon_use_ivar = True
# Shapes are in the signature; as types of attributes their asterisks are markup.
napoleon_attr_annotations = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# Signatures show the words for shapes, not what jaxtyping makes of them.
autodoc_preserve_defaults = True
# One argument to a line where a signature is longer.
maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"sae_lens_ext {release}"
html_show_copyright = False
copybutton_exclude = ".linenos, .gp"

# Every reference to a name of this package must lead somewhere. Names of other packages
# have no page to lead to, because their inventories would have to be downloaded.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!sae_lens_ext).*\..*"),
    (r"py:.*", r"Tensor|Path|optional|callable|.*UntilFVU|.*UntilKL|.*SelfT"),
    # Parts of results that are internal.
    (
        r"py:class",
        r".*\.result\.Measured|.*\.direct\..*|.*\.features\.folder\.Contents"
        r"|.*\.setting\.Setting|.*\.alignment\.Alignment",
    ),
    # Words for shapes, and first sentences of properties, are not types. Nor is what
    # is left of `tuple[float, float]` when it is split at its comma.
    (r"py:.*", r".*\s.*|tuple\[float"),
]


def setup(app):
    """Resolve public names, such as those under Raises, wherever they are written."""
    app.connect("missing-reference", resolve_public_name)


def resolve_public_name(app, env, node, contents):
    """A link to a name such as ``InvalidK``, written without its package."""
    name = node.get("reftarget", "").rsplit(".", 1)[-1]
    if node.get("refdomain") != "py" or name not in sae_lens_ext._PUBLIC:
        return None
    target = f"sae_lens_ext.{name}"
    matches = env.get_domain("py").resolve_any_xref(
        env, node.get("refdoc", ""), app.builder, target, node, contents
    )
    return matches[0][1] if matches else None
