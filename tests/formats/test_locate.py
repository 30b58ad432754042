"""Loading from a hub repository, against a small server on this machine that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import published
import pytest
import tiny
import torch
from safetensors.torch import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """Serves ``self.server.folder`` as the repository someone/an-sae."""

    def do_HEAD(self):
        self._answer(send_body=False)

    def do_GET(self):
        self._answer(send_body=True)

    def _answer(self, send_body):
        path = self.path.split("?")[0]
        folder: Path = self.server.folder
        files = sorted(
            str(file.relative_to(folder))
            for file in folder.rglob("*")
            if file.is_file()
        )
        name = path.removeprefix(f"/someone/an-sae/resolve/{COMMIT}/")
        headers = {"X-Repo-Commit": COMMIT}
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
            body, status = json.dumps(entries).encode(), 200
        elif path.startswith("/api/models/someone/an-sae"):
            body = json.dumps(
                {
                    "id": "someone/an-sae",
                    "sha": COMMIT,
                    "siblings": [{"rfilename": file} for file in files],
                }
            ).encode()
            status = 200
        elif name in files:
            body, status = (folder / name).read_bytes(), 200
            headers["ETag"] = f'"{_etag(folder / name)}"'
            self.server.served.append(name)
        else:
            body, status = b'{"error": "Repository not found"}', 404
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for key, value in {
            **headers,
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def _etag(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.folder, server.served = tmp_path / "repo", []
    tiny.sae().save_pretrained(server.folder / "layer_1")
    (server.folder / "README.md").write_text("not needed by a reader of SAEs")
    (server.folder / "pickled.pt").write_bytes(b"never to be fetched")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _load(hub, tmp_path, repo, subfolder="layer_1"):
    return _run(
        hub,
        tmp_path,
        f"print(sle.SAE.from_pretrained({repo!r}, subfolder={subfolder!r}))",
    )


def _load_model(hub, tmp_path, options=""):
    loading = "from sae_lens_ext.based import load_checkpoint"
    return _run(
        hub,
        tmp_path,
        f"print(load_checkpoint('someone/an-sae'{options}).config.kernel)",
        loading,
    )


def _run(hub, tmp_path, line, first=""):
    """In a fresh process, because huggingface_hub reads its environment when it is imported."""
    code = f"import sae_lens_ext as sle\n{first}\ntry: {line}\nexcept sle.SaeLensExtError as error: print(type(error).__name__, error)"
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_sae_in_a_folder_of_a_repository_is_downloaded_and_nothing_else(
    hub, tmp_path
):
    assert (
        _load(hub, tmp_path, "someone/an-sae")
        == "SAE(d_model=32, d_sae=48, k=8, hook_name='blocks.1.hook_resid_post')"
    )
    assert set(hub.served) == {"layer_1/cfg.json", "layer_1/sae_weights.safetensors"}


def test_a_repository_that_is_not_there_is_said_in_one_sentence(hub, tmp_path):
    said = _load(hub, tmp_path, "someone/else")
    assert said.startswith(
        "FormatError no folder 'someone/else' here, and the hub has no such repository that you may read"
    )
    assert "\n" not in said


def test_without_a_subfolder_only_the_top_of_a_repository_is_downloaded(hub, tmp_path):
    said = _load(hub, tmp_path, "someone/an-sae", subfolder=None)
    assert said.startswith("FormatError")
    assert "choose it with subfolder=" in said
    assert hub.served == []


@pytest.fixture
def published_model(hub):
    """The repository holds a published model too, as safetensors and as a pickle."""
    weights = published.random_weights(published.hub_shapes(published.HUB_CONFIG))
    (hub.folder / "config.json").write_text(json.dumps(published.HUB_CONFIG))
    save_file(weights, hub.folder / "model.safetensors")
    torch.save(weights, hub.folder / "pytorch_model.bin")


@pytest.mark.usefixtures("published_model")
def test_a_published_model_is_downloaded_without_its_pickle(hub, tmp_path):
    assert _load_model(hub, tmp_path, ", revision='refs/pr/1'") == "based"
    assert set(hub.served) == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("published_model")
def test_the_pickle_is_downloaded_where_there_is_nothing_else(hub, tmp_path):
    (hub.folder / "model.safetensors").unlink()
    assert _load_model(hub, tmp_path) == "based"
    assert set(hub.served) == {"config.json", "pytorch_model.bin"}


def test_a_repository_without_weights_is_said_to_be_one(hub, tmp_path):
    (hub.folder / "config.json").write_text("{}")
    assert (
        "holds no weights: none of model.safetensors, pytorch_model.bin"
        in _load_model(hub, tmp_path)
    )
