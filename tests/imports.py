"""Which files of the package import which: read from the source, nothing is run."""

import ast
from pathlib import Path
from typing import NamedTuple

from paths import PACKAGE

import sae_lens_ext

_ROOT = "sae_lens_ext"
# Functions that import what their first argument names.
_IMPORTERS = ("require", "import_module", "__import__")


class Import(NamedTuple):
    """One imported name."""

    module: str
    """The module that the statement names: ``a.b`` of ``from a.b import c``."""
    name: str | None
    """``c`` of ``from a.b import c``; it may be a module itself."""
    line: int

    @property
    def dotted(self) -> str:
        """Module and name together."""
        return self.module if self.name is None else f"{self.module}.{self.name}"


def imports_of(source: str) -> list[Import]:
    """Every import of a source, inside functions too, and by functions that import."""
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out from the package's name"
            for alias in node.names:
                imports.append(_from(str(node.module), alias.name, node.lineno))
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name in _IMPORTERS and isinstance(node.args[0], ast.Constant):
                imports.append(Import(str(node.args[0].value), None, node.lineno))
    return imports


def _from(module: str, name: str, line: int) -> Import:
    # A public name of the package stands for the module that it comes from.
    if module == _ROOT and name in sae_lens_ext._PUBLIC:
        return Import(f"{_ROOT}.{sae_lens_ext._PUBLIC[name]}", name, line)
    return Import(module, name, line)


def file_of(imported: Import, files: set[str]) -> str | None:
    """The file of the package that an import reads; None for other packages."""
    if imported.module.split(".")[0] != _ROOT:
        return None
    for dotted in (imported.dotted, imported.module):
        path = "/".join(dotted.split(".")[1:])
        for candidate in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
            if candidate in files:
                return candidate
    return None


def package_sources() -> dict[str, str]:
    """Every module of the package by its path relative to it."""
    return {
        str(path.relative_to(PACKAGE)): Path(path).read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """File -> the files it imports.

    The package's own ``__init__`` is left out: it imports nothing until a name is used.
    """
    files = set(sources)
    edges: dict[str, set[str]] = {}
    for path, source in sources.items():
        targets = {file_of(imported, files) for imported in imports_of(source)}
        edges[path] = {target for target in targets if target not in (None, path)}
    edges["__init__.py"] = set()
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other in a circle, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)

        for target in edges.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])

        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in edges:
        if node not in order:
            visit(node)
    return groups
