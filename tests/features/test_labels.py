"""Labels come from files and from Neuronpedia, and a missing network is no error."""

import json
import sys
import types

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.features import neuronpedia

SOURCE = "tiny/1-res"


class NPError(Exception):
    """Stands for the errors of the client."""


class Client:
    """A Neuronpedia with some labels, which counts what it is asked."""

    def __init__(self, monkeypatch, answers):
        self.asked = []
        self.timeouts = set()
        client = self

        class SAEFeatureRequest:
            def __init__(self):
                if isinstance(answers, Exception):
                    raise answers

            def send_request(self, uri, method="POST", **options):
                sys.stdout.write("Sending a request")
                client.asked.append((method, uri))
                client.timeouts.add(options["timeout"])
                answer = answers.get(uri.rsplit("/", 1)[-1])
                if answer is None:
                    raise OSError("Resource not found: 404")
                if isinstance(answer, Exception):
                    raise answer
                return answer

        feature = types.ModuleType("neuronpedia.requests.sae_feature_request")
        feature.SAEFeatureRequest = SAEFeatureRequest
        base = types.ModuleType("neuronpedia.requests.base_request")
        for name in ("KeyMissing", "Unauthorized", "RateLimit", "InvalidResponse"):
            setattr(base, f"NP{name}Error", NPError)
        for name, module in {
            "neuronpedia": types.ModuleType("neuronpedia"),
            "neuronpedia.requests": types.ModuleType("neuronpedia.requests"),
            feature.__name__: feature,
            base.__name__: base,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)


def about(text):
    return {"explanations": [{"description": text}]}


@pytest.fixture
def sae(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path / "cache"))
    return tiny.sae(metadata={"neuronpedia_id": SOURCE})


def test_labels_are_asked_for_once_and_kept(sae, monkeypatch, capsys):
    client = Client(monkeypatch, {"3": about("cities"), "5": {"explanations": []}})
    expected = {3: "cities", 5: None, 7: None}
    assert sle.labels(sae, [3, 5, 7]) == expected
    assert client.asked == [("GET", f"{SOURCE}/{number}") for number in (3, 5, 7)]
    assert client.timeouts == {neuronpedia._SECONDS_TO_WAIT}
    assert capsys.readouterr().out == ""

    assert sle.labels(sae, 3) == {3: "cities"}
    assert len(client.asked) == 3
    # One that was missing may have been written meanwhile.
    assert sle.labels(sae, [3, 5]) == {3: "cities", 5: None}
    assert client.asked[3:] == [("GET", f"{SOURCE}/5")]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        TimeoutError("too slow"),
        NPError("limit"),
        ValueError("x"),
    ],
)
def test_without_a_network_labels_are_none_after_one_warning(sae, monkeypatch, error):
    client = Client(monkeypatch, {"1": about("one"), "2": error, "3": about("three")})
    with pytest.warns(UserWarning, match="labels for 1 of 4 features") as warned:
        assert sle.labels(sae, [1, 2, 3, 4]) == {1: "one", 2: None, 3: None, 4: None}
    assert len(warned) == 1
    # Every other request would wait as long.
    assert len(client.asked) == 2
    assert sle.labels(sae, 1) == {1: "one"}


def test_without_a_key_there_are_no_labels(sae, monkeypatch):
    Client(monkeypatch, NPError("No API key provided."))
    with pytest.warns(UserWarning, match="No API key provided"):
        assert sle.labels(sae, [1]) == {1: None}


def test_an_sae_that_is_not_at_neuronpedia_has_no_labels(monkeypatch):
    with pytest.warns(UserWarning, match="does not say where it is at Neuronpedia"):
        assert sle.labels(tiny.sae(), [1]) == {1: None}
    with pytest.raises(sle.InvalidArgument, match="source must name a model and an"):
        sle.labels(tiny.sae(), [1], source="../../etc/passwd")


def test_a_missing_client_raises_with_the_command_that_installs_it(sae, monkeypatch):
    monkeypatch.setitem(sys.modules, "neuronpedia", None)
    with pytest.raises(sle.MissingDependency, match=r"sae-lens-ext\[labels\]"):
        sle.labels(sae, [1])


def test_a_damaged_cache_is_asked_for_again(sae, tmp_path, monkeypatch):
    client = Client(monkeypatch, {"3": about("cities")})
    sle.labels(sae, 3)
    (file,) = (tmp_path / "cache" / "labels").glob("*.json")
    file.write_text("{")
    assert sle.labels(sae, 3) == {3: "cities"}
    assert len(client.asked) == 2
    assert json.loads(file.read_text()) == {"3": "cities"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"3": "cities, <b>", "4": "x"}'),
        ("a.csv", 'feature,label\n3,"cities, <b>"\n4,x\n'),
        ("a.json", '{"3": "cities, <b>", "9": null}'),
        ("a.csv", 'feature,label\n3,"cities, <b>"\n3,"cities, <b>"\n'),
        ("a.csv", '\ufefflabel,more,feature\n"cities, <b>",1,3\n'),
    ],
)
def test_labels_of_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    labels = sle.labels(tiny.sae(), [3, 9], file=tmp_path / name)
    assert labels == {3: "cities, <b>", 9: None}


def test_half_of_a_character_is_replaced(tmp_path):
    (tmp_path / "a.json").write_text('{"3": "a \\ud83d b"}')
    labels = sle.labels(tiny.sae(), [3], file=tmp_path / "a.json")
    assert labels == {3: "a \N{REPLACEMENT CHARACTER} b"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1]", "must hold one JSON object"),
        ("a.json", '{"x": "y"}', "a text for the number of each feature"),
        ("a.json", '{"1": 2}', "got 2 for '1'"),
        ("a.json", '{"1": "x", "2": "y", "1": "z"}', "has '1' more than once; keep"),
        ("a.csv", "number,text\n1,x\n", "must have the columns feature and label"),
        ("a.csv", "", "its first line has none"),
        ("a.csv", "feature,label\n1\n", "got None for '1'"),
        ("a.csv", "feature,label\n1,x\n1,y\n", "two labels of feature 1, 'x' and 'y'"),
        ("a.csv", "feature,label\n7,Paris, France\n", "line 2: more values than"),
        ("a.csv", 'feature,label\n1,"open\n2,x\n', "cannot be read: unexpected end"),
        ("missing.csv", None, "cannot be read"),
        ("missing.json", None, "there are no labels"),
    ],
)
def test_a_file_without_labels_is_an_error(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(sle.FormatError, match=message):
        sle.labels(tiny.sae(), [1], file=tmp_path / name)


def test_rejects_features_that_the_sae_does_not_have():
    with pytest.raises(sle.InvalidArgument, match="from 0 to 47 for this SAE; got 48"):
        sle.labels(tiny.sae(), [48])


@pytest.mark.parametrize("source", ["gemma", "../..", ".hidden/a"])
def test_rejects_invalid_sources(source):
    with pytest.raises(
        sle.InvalidArgument, match="source must name a model and an SAE"
    ):
        sle.labels(tiny.sae(), [1], source=source)
