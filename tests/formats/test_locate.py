"""Paths and hub repositories lead to the right folder, and only its files are loaded.

The hub is a small server on this machine that answers as the real one does.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import published
import published_saes
import pytest
import tiny
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint
from sae_lens_ext.formats import locate, read_sae

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """Serves ``self.server.folder`` as the repository someone/an-sae."""

    def do_HEAD(self):
        self._answer(send_body=False)

    def do_GET(self):
        self._answer(send_body=True)

    def _answer(self, send_body):
        status, headers, body = self._response(unquote(self.path.split("?")[0]))
        headers = {
            **headers,
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
        }
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def _response(self, path):
        """Status, headers and body of the answer to a request."""
        folder: Path = self.server.folder
        files = sorted(
            str(file.relative_to(folder))
            for file in folder.rglob("*")
            if file.is_file()
        )
        if path.startswith("/api/models/someone/an-sae/tree/"):
            entries = [
                {
                    "type": "file",
                    "path": file,
                    "size": (folder / file).stat().st_size,
                    "oid": _etag(folder / file),
                }
                for file in files
            ]
            return 200, {}, json.dumps(entries).encode()

        if path.startswith("/api/models/someone/an-sae"):
            siblings = [{"rfilename": file} for file in files]
            repo = {"id": "someone/an-sae", "sha": COMMIT, "siblings": siblings}
            return 200, {}, json.dumps(repo).encode()

        name = path.removeprefix(f"/someone/an-sae/resolve/{COMMIT}/")
        if name in files:
            self.server.served.append(name)
            etag = f'"{_etag(folder / name)}"'
            return 200, {"ETag": etag}, (folder / name).read_bytes()

        headers = {"X-Error-Code": "RepoNotFound"}
        return 404, headers, b'{"error": "Repository not found"}'

    def log_message(self, *_):
        pass


def _etag(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; until the test ends, huggingface_hub knows this hub alone.

    It reads its environment when it is imported, so what it read is replaced: a fresh
    process would take seconds to start.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.folder = tmp_path / "repo"
    server.served = []
    tiny.sae().save_pretrained(server.folder / "layer_1")
    (server.folder / "README.md").write_text("not needed by a reader of SAEs")
    (server.folder / "pickled.pt").write_bytes(b"never to be fetched")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": (
            endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        ),
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloads_only_the_sae_of_the_subfolder(hub):
    sae = sle.SAE.from_pretrained("someone/an-sae", subfolder="layer_1")
    assert (
        repr(sae)
        == "SAE(d_model=32, d_sae=48, k=8, hook_name='blocks.1.hook_resid_post')"
    )
    assert set(hub.served) == {"layer_1/cfg.json", "layer_1/sae_weights.safetensors"}


@pytest.mark.usefixtures("hub")
def test_rejects_an_unknown_repository_in_one_line():
    with pytest.raises(sle.FormatError) as raised:
        sle.SAE.from_pretrained("someone/else", subfolder="layer_1")
    message = str(raised.value)
    assert message.startswith(
        "no folder 'someone/else' here, and the hub has no such repository that you "
        "may read"
    )
    assert "\n" not in message


def test_without_a_subfolder_only_the_top_is_downloaded(hub):
    with pytest.raises(
        sle.FormatError,
        match="choose one with subfolder=, such as 'layer_1', 'pickled.pt'",
    ):
        sle.SAE.from_pretrained("someone/an-sae")
    assert hub.served == []


def _kinds(places):
    """The kinds of the SAEs at some places of the repository."""
    return [
        read_sae(locate("someone/an-sae", subfolder=place)).kind for place in places
    ]


def test_downloads_only_what_each_layout_needs(hub, monkeypatch):
    tensors = published_saes.matrices()
    without = published_saes.matrices(threshold=...)
    transposed = without | {"W_enc": without["W_enc"].T.contiguous()}
    for name, content in {
        "scope/layer_1/average_l0_9/params.npz": tensors,
        "scope/layer_2/average_l0_9/params.npz": tensors,
        "set/config.yaml": "model_kind: transcoder_set",
        "set/layer_0.safetensors": transposed,
        "set/layer_1.safetensors": transposed,
        "heads/L0[1].pt": without,
        "heads/L0[1]_cfg.json": {
            "act_name": "blocks.0.attn.hook_z",
            "act_size": published_saes.D_MODEL,
            "dict_size": published_saes.D_SAE,
        },
        "heads/L01.pt": without,
    }.items():
        published_saes.write(hub.folder / name, content)

    places = [
        "scope/layer_1/average_l0_9",
        "set/layer_1.safetensors",
        "heads/L0[1].pt",
        "layer_1/cfg.json",
    ]
    kinds = _kinds(places)
    assert kinds == ["jumprelu", "relu", "relu", "topk"]
    assert set(hub.served) == {
        "scope/layer_1/average_l0_9/params.npz",
        "set/config.yaml",
        "set/layer_1.safetensors",
        "heads/L0[1].pt",
        "heads/L0[1]_cfg.json",
        "layer_1/cfg.json",
        "layer_1/sae_weights.safetensors",
    }

    # What was downloaded is found again without the hub.
    hub.served.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert _kinds(places) == kinds
    assert hub.served == []
    with pytest.raises(
        sle.FormatError,
        match="^no folder or file 'set/layer_0.safetensors' inside",
    ):
        _kinds(["set/layer_0.safetensors"])


@pytest.fixture
def published_model(hub):
    """The repository holds a published model too, as safetensors and as a pickle."""
    weights = published.random_weights(published.hub_shapes(published.HUB_CONFIG))
    (hub.folder / "config.json").write_text(json.dumps(published.HUB_CONFIG))
    save_file(weights, hub.folder / "model.safetensors")
    torch.save(weights, hub.folder / "pytorch_model.bin")


@pytest.mark.usefixtures("published_model")
def test_a_published_model_is_downloaded_without_its_pickle(hub):
    model = load_checkpoint("someone/an-sae", revision="refs/pr/1")
    assert model.config.kernel == "based"
    assert set(hub.served) == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("published_model")
def test_a_pickle_is_downloaded_where_there_is_nothing_else(hub):
    (hub.folder / "model.safetensors").unlink()
    assert load_checkpoint("someone/an-sae").config.kernel == "based"
    assert set(hub.served) == {"config.json", "pytorch_model.bin"}


def test_rejects_a_repository_without_weights(hub):
    (hub.folder / "config.json").write_text("{}")
    with pytest.raises(
        sle.FormatError,
        match="holds no weights: none of model.safetensors, pytorch_model.bin",
    ):
        load_checkpoint("someone/an-sae")


def test_rejects_a_path_that_leads_nowhere(tmp_path):
    folder = tiny.sae().save_pretrained(tmp_path / "sae")
    with pytest.raises(
        sle.FormatError,
        match="no folder 'nowhere' here, and it is not the name of a hub repository",
    ):
        sle.SAE.from_pretrained("nowhere")
    with pytest.raises(
        sle.FormatError, match="is a file, so give the folder that holds it"
    ):
        sle.SAE.from_pretrained(folder / "cfg.json")
    for outside in ("../sae", str(tmp_path)):
        with pytest.raises(sle.FormatError, match="no folder .* inside"):
            sle.SAE.from_pretrained(folder, subfolder=outside)
    assert sle.SAE.from_pretrained(tmp_path, subfolder="sae").config.k == 8


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("./nothing", "no folder './nothing' here"),
        ("../nothing", "no folder '../nothing' here"),
        ("a/b/c", "not the name of a hub repository"),
        (
            "x" * 5000,
            "not a path that this machine can have: File name too long",
        ),
        (3, "give the path of a folder or the name of a hub repository; got 3"),
    ],
)
def test_rejects_an_invalid_place(place, message):
    with pytest.raises(sle.FormatError, match=message):
        sle.SAE.from_pretrained(place)
