"""The widget of the dial, which shows views and passes on what is asked of it.

Its script and style are files beside this one. They load nothing from elsewhere, and
set what comes from a model as text.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

Update = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From what the user asks for to the view that answers."""


def _file(name: str) -> str:
    return files("sae_lens_ext.viz").joinpath(name).read_text(encoding="utf-8")


class DialWidget(anywidget.AnyWidget):
    """Shows a view, and asks for another whenever the user turns something.

    Attributes:
        view: what is shown; see ``DialState.view``. ``answers`` is the number of the
            request that it answers.
        request: what the user asked for last, with its ``number``.
    """

    _esm = _file("dial.js")
    _css = _file("dial.css")
    view = traitlets.Dict().tag(sync=True)
    request = traitlets.Dict().tag(sync=True)

    def __init__(self, view: dict[str, Any], update: Update) -> None:
        """Show ``view``; ``update`` answers requests."""
        super().__init__(view={**view, "answers": 0})
        self._update = update
        self.state: Any = None

    @traitlets.observe("request")
    def _answer(self, change: Any) -> None:
        request = dict(change["new"])
        number = request.pop("number", 0)
        self.view = {**self._update(request), "answers": number}
