"""The dial in a browser: its keys, its focus, and what it shows after a failure.

A page runs the script of the widget with a model of ten lines in the place of Python's,
does what a user would, and writes down what it sees.
"""

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<script>window.wasRun = true</script>"
SITE = "blocks.1.hook_resid_post"
VIEW = {
    "sites": [{"name": SITE, "k": 6, "largest": 8, "scale": 2.0}],
    "tokens": ["<bos>", HOSTILE, " "],
    "kl": [0.0, 0.5, 0.25],
    "position": 1,
    "bare": [[HOSTILE, 0.5], [" a", 0.25]],
    "spliced": [[" a", 0.5]],
    "features": [{"site": SITE, "feature": 5, "label": HOSTILE, "value": 2.0}],
    "pins": [],
    "error": "",
    "answers": 0,
}
SCENARIO = r"""
const view = JSON.parse(document.getElementById("view").textContent);
const state = { view };
let onView = null;
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => {},
  on: (name, listener) => { onView = listener; },
  off: () => {},
};
const answer = (changes) => {
  state.view = { ...state.view, ...changes, answers: state.request.number };
  onView();
};
const pause = () => new Promise((done) => setTimeout(done, 400));
const reached = [];
document.addEventListener("keydown", (event) => reached.push(event.key));
const press = (target, key, options = {}) => target.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...options }));

const holder = document.getElementById("holder");
widget.render({ model, el: holder });
const knob = holder.querySelector(".sle-knob input");
const tokens = [...holder.querySelectorAll(".sle-token")];
const result = { texts: tokens.map((token) => token.textContent) };

for (const key of ["ArrowLeft", "x", "Enter", "Escape"]) press(knob, key);
press(knob, "s", { ctrlKey: true });
result.reached = reached;

knob.value = "3";
knob.dispatchEvent(new Event("input", { bubbles: true }));
await pause();
result.asked = state.request.k;
answer({ error: "the model has no such k" });
result.afterFailure = [knob.value, holder.querySelector(".sle-error").textContent];

press(tokens[1], "ArrowRight");
result.focusedToken = tokens.indexOf(document.activeElement);
await pause();
answer({ position: state.request.position, error: "" });

holder.querySelector(".sle-feature button").click();
result.focusAfterPin = document.activeElement.getAttribute("aria-label");
await pause();
answer({ pins: state.request.pins.map((pin) => ({ ...view.features[0], ...pin })) });
result.focusAfterAnswer = document.activeElement.getAttribute("aria-label");
holder.querySelector(".sle-pin button").click();
result.focusAfterUnpin = tokens.indexOf(document.activeElement);

result.wasRun = window.wasRun === true;
result.scripts = holder.querySelectorAll("script").length;
document.getElementById("result").textContent = JSON.stringify(result);
"""


def page():
    folder = files("sae_lens_ext.viz")
    script = folder.joinpath("dial.js").read_text(encoding="utf-8")
    style = folder.joinpath("dial.css").read_text(encoding="utf-8")
    view = json.dumps(VIEW).replace("<", "\\u003c")
    widget = script.replace("export default", "const widget =")
    return (
        f'<!doctype html><meta charset="utf-8"><style>{style}</style>'
        f'<div id="holder"></div><pre id="result"></pre>'
        f'<script type="application/json" id="view">{view}</script>'
        f'<script type="module">{widget}{SCENARIO}</script>'
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "dial.html"
    path.write_text(page(), encoding="utf-8")
    run = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=5000",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', run.stdout, re.DOTALL)
    return json.loads(html.unescape(text))


def test_tokens_and_labels_stay_text(result):
    assert result["texts"] == ["<bos>", HOSTILE, "\u2423"]
    assert not result["wasRun"]
    assert result["scripts"] == 0


def test_keys_without_a_modifier_stay_in_the_widget(result):
    assert result["reached"] == ["Escape", "s"]


def test_a_failed_change_is_shown_and_undone(result):
    assert result["asked"] == {SITE: 3}
    assert result["afterFailure"] == ["6", "the model has no such k"]


def test_the_focus_is_where_the_next_key_is_meant(result):
    assert result["focusedToken"] == 2
    assert result["focusAfterPin"] == "steer feature 5 by"
    assert result["focusAfterAnswer"] == "steer feature 5 by"
    assert result["focusAfterUnpin"] == 2
