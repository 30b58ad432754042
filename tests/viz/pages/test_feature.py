"""The page of a feature is one file that stays text, whatever its tokens are."""

import re
import time
from html.parser import HTMLParser

import pytest

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.viz.pages import (
    Bin,
    Context,
    FeaturePage,
    Neighbour,
    Quantile,
    write_dashboard,
)

HOSTILE = "</bdi><script>alert(1)</script>\"'&"
# Turns the direction of what follows; half of a character; a line.
UNSEEN = "\u202e\ud800\n"


def a_page(feature=981, label=HOSTILE, n_contexts=3, **changes):
    context = Context(
        tokens=[HOSTILE, UNSEEN, " w", "x"] * 8,
        activations=[0.0, 0.5, 2.0, 0.0] * 8,
        at=2,
        row=4,
        position=7,
    )
    fields = {
        "feature": feature,
        "label": label,
        "facts": {"model": HOSTILE, "site": "blocks.1.hook_resid_post"},
        "n_active": 12,
        "density": 0.01,
        "largest": 2.0,
        "histogram": [Bin(0.5, 1.0, 3), Bin(1.0, 2.0, 9)],
        "at_k": [(1, 0.25), (2, 1.0)],
        "smallest_rank": 0,
        "promoted": [(HOSTILE, 1.5)],
        "suppressed": [(UNSEEN, -1.5)],
        "logit_note": "Change of the logits.",
        "nearest": [Neighbour(7, 0.9, HOSTILE), Neighbour(8, 0.5, None)],
        "contexts": [context] * n_contexts,
        "quantiles": [
            Quantile(
                low=0.0,
                high=1.0,
                smallest=0.5,
                largest=2.0,
                contexts=[context] * n_contexts,
                is_sampled=True,
            )
        ],
    }
    return FeaturePage(**{**fields, **changes})


class Tags(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.text = []
        self.open = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in ("rect", "line"):
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_tokens_and_labels_stay_text():
    for page in (a_page().html(), a_page()._repr_html_()):
        tags = Tags(page)
        assert "script" not in [tag for tag, _ in tags.elements]
        text = "".join(tags.text)
        # The label twice, the model, a token of each of 2 * 3 contexts eight times, ...
        assert text.count(HOSTILE) >= 2 * 3 * 8 + 3
        assert "\u202e" not in page
        assert "\u21b5" in text
        page.encode("utf-8")


def test_a_page_loads_nothing():
    page = a_page().html()
    elements = Tags(page).elements
    attributes = {name for _, attrs in elements for name in attrs}
    assert not attributes & {"src", "srcset", "onclick", "onload"}
    assert [tag for tag, _ in elements if tag in ("link", "iframe", "img")] == []
    assert re.findall(r"url\(|@import|https?://", page) == []


def test_a_page_is_made_for_dark_light_keys_and_narrow_screens():
    page = a_page().html()
    assert "color-scheme:light dark" in page
    assert "width=device-width" in page
    elements = [tag for tag, _ in Tags(page).elements]
    # What folds is a native control, and so is every link.
    assert elements.count("summary") == 1
    assert ":focus-visible" in page


def test_every_number_has_its_place_on_the_page():
    text = " ".join("".join(Tags(a_page().html()).text).split())
    for part in (
        "Feature 981",
        "12 (1%)",
        "best rank0",
        "25%",
        "+1.5",
        "-1.5",
        "0.90",
        "0% to 100%: activations from 0.5 to 2",
        "a uniform sample of its activations",
    ):
        assert part in text


def test_the_strongest_token_is_shaded_most():
    shades = re.findall(
        r'<([bi]) style="--a:([\d.]+)" title="([\d.]+)"', a_page().html()
    )
    assert {(value, shade) for _, shade, value in shades} == {
        ("0.5", "0.21"),
        ("2", "0.60"),
    }
    # One peak per context.
    assert [tag for tag, _, _ in shades].count("b") == 6


def test_a_feature_that_was_never_active_has_a_page():
    page = a_page(
        label=None,
        n_active=0,
        density=0.0,
        largest=0.0,
        histogram=[],
        at_k=[],
        smallest_rank=None,
        promoted=[],
        suppressed=[],
        contexts=[],
        quantiles=[],
    )
    text = "".join(Tags(page.html()).text)
    assert "It is active on no token of this text." in text
    assert "best rank" not in text


def test_the_style_of_a_notebook_s_output_stays_inside_of_it():
    output = a_page()._repr_html_()
    style = output[output.index("<style>") + 7 : output.index("</style>")]
    style = re.sub(r"@media[^{]*\{(.*?\}\s*)\}", r"\1", style, flags=re.S)
    for rule in re.findall(r"([^{}]+)\{", style):
        for selector in rule.split(","):
            assert ".sle-page" in selector


def test_without_its_style_an_activation_stands_apart_from_its_context():
    text = "".join(Tags(a_page().html()).text)
    start = text[text.index("Strongest contexts") :]
    assert f"2 {HOSTILE}" in start


def test_without_its_style_a_page_hides_its_drawing_and_with_it_shows_it():
    output = a_page()._repr_html_()
    (section,) = re.findall(r"<section[^>]*>(?=<h2>Activations)", output)
    assert section == '<section class="chart" hidden>'
    assert ".sle-page .chart[hidden] { display:block; }" in output
    assert output.count("hidden>") == 1


def test_a_page_prints_as_one_short_line():
    text = repr(a_page(label="towers"))
    assert text == "FeaturePage('Feature 981: towers', active on 12 tokens)"


def test_save_writes_the_file(tmp_path):
    path = a_page().save(tmp_path / "made" / "981.html")
    assert path.read_text(encoding="utf-8") == a_page().html()
    with pytest.raises(InvalidArgument, match="cannot be written to .* another file"):
        a_page().save(tmp_path)


def test_a_hundred_pages_take_less_than_three_seconds(tmp_path, without_shape_checks):
    pages = [a_page(feature=number, n_contexts=16) for number in range(100)]
    # Of this process, because the machine may have other work.
    start = time.process_time()
    write_dashboard(tmp_path, pages, "Features")
    assert time.process_time() - start < 3
    start = time.process_time()
    pages[0].save(tmp_path / "one.html")
    assert time.process_time() - start < 1


@pytest.fixture
def dashboard(tmp_path):
    pages = [a_page(feature=7), a_page(feature=981, label=None)]
    dead = {"n_active": 0, "largest": 0.0, "smallest_rank": None}
    dead |= {"contexts": [], "quantiles": []}
    pages.append(a_page(feature=5, **dead))
    return write_dashboard(tmp_path / "pages", pages, f"Features of {HOSTILE}")


def test_a_dashboard_has_a_page_for_each_feature_and_links_them(dashboard):
    names = sorted(path.name for path in dashboard.parent.iterdir())
    features = ["feature-5.html", "feature-7.html", "feature-981.html"]
    assert names == [*features, "index.html"]
    index = Tags(dashboard.read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in index.elements if tag == "a"]
    assert sorted(links) == features
    page = Tags((dashboard.parent / "feature-981.html").read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    # Its neighbour 8 has no page.
    assert links == ["index.html", "feature-7.html"]


def test_a_dashboard_takes_the_place_of_an_earlier_one_alone(dashboard):
    folder = dashboard.parent
    (folder / "notes.html").write_text("mine")
    write_dashboard(folder, [a_page(feature=8)], "Others")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["feature-8.html", "index.html", "notes.html"]

    dashboard.write_text("my home page")
    with pytest.raises(InvalidArgument, match=r"index\.html is not a page of this"):
        write_dashboard(folder, [a_page(feature=9)], "Others")
    assert dashboard.read_text() == "my home page"
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_dashboard_has_one_script_and_it_is_ours(dashboard):
    page = dashboard.read_text(encoding="utf-8")
    tags = Tags(page)
    assert [tag for tag, _ in tags.elements].count("script") == 1
    assert re.findall(r"https?://|innerHTML|eval\(", page) == []
    buttons = [attrs for tag, attrs in tags.elements if tag == "button"]
    assert len(buttons) == 6
    assert ("input", "search") in [
        (tag, attrs.get("id")) for tag, attrs in tags.elements
    ]
