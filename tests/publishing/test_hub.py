"""An SAE is uploaded whole, in one commit.

The hub is a small server on this machine.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import tiny
from safetensors.torch import load

import sae_lens_ext as sle

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """Answers what an upload asks, and keeps the files of commits."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        status, answer = self._answer(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, path, body):
        server = self.server
        if server.refuses:
            return 403, {"error": "You don't have the rights"}
        if path == "/api/repos/create":
            server.created.append(json.loads(body))
            return 200, {"url": f"{server.url}/me/an-sae"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/models/me/an-sae/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": n, "uploadMode": "regular", "shouldIgnore": False}
                for n in names
            ]
            return 200, {"files": modes}
        assert path == "/api/models/me/an-sae/commit/main"
        lines = [json.loads(line) for line in body.splitlines()]
        server.commits.append(
            {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
        )
        address = f"{server.url}/me/an-sae/commit/{COMMIT}"
        return 200, {"commitUrl": address, "commitOid": COMMIT}

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.refuses, server.created, server.commits = False, [], []
    # Both are read when the library is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    connect = huggingface_hub.HfApi
    monkeypatch.setattr(
        huggingface_hub,
        "HfApi",
        lambda token: connect(server.url, token=token or "hf_x"),
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_everything_is_uploaded_in_one_commit(hub, model, tmp_path):
    sae = tiny.sae()
    table = sle.sweep_k(model, tiny.tokens(), sae, ks=[1, 4], progress=False)
    address = sle.push_to_hub(sae, "me/an-sae", table=table, private=True)
    assert address == f"{hub.url}/me/an-sae"
    (created,) = hub.created
    # Releases name it differently.
    assert created.get("visibility") == "private" or created.get("private") is True

    (files,) = hub.commits
    assert sorted(files) == [
        *("README.md", "cfg.json", "frontier.png"),
        *("sae_weights.safetensors", "sweep.csv"),
    ]
    assert "](frontier.png)" in files["README.md"].decode()
    assert load(files["sae_weights.safetensors"])["W_dec"].equal(sae.W_dec)
    # What was uploaded is what is loaded again.
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert sle.SAE.from_pretrained(tmp_path).config == sae.config


def test_a_refusal_is_one_sentence_with_what_to_do(hub):
    hub.refuses = True
    with pytest.raises(sle.SaeLensExtError, match="hf auth login") as raised:
        sle.push_to_hub(tiny.sae(), "me/an-sae")
    assert "\n" not in str(raised.value)
    assert hub.commits == []


def test_nothing_is_sent_for_invalid_input(hub, without_shape_checks):
    with pytest.raises(sle.InvalidArgument, match="repo_id must be"):
        sle.push_to_hub(tiny.sae(), "an-sae")
    with pytest.raises(sle.InvalidArgument, match="sae must be an SAE"):
        sle.push_to_hub("me/an-sae", "me/an-sae")
    with pytest.raises(sle.InvalidArgument, match="what sweep_k returned"):
        sle.push_to_hub(tiny.sae(), "me/an-sae", table=3)
    assert (hub.created, hub.commits) == ([], [])
