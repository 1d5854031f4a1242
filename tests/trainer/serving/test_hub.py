"""Uploading to a hub: one that listens on the loopback interface, one that refuses, and none at all."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UserError
from trainer.launch import machine
from trainer.serving import hub

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload of small files needs: it keeps what it gets."""

    files: dict[str, bytes] = {}
    refuse = False

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if Hub.refuse:
            return self.answer(403, {"error": "not yours"})
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            assert asked.get("private") or asked.get("visibility") == "private"  # older clients, newer ones
            return self.answer(200, {"url": f"http://{self.headers['host']}/me/{asked['name']}"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer(200, {"files": modes})
        assert "/commit/" in self.path
        for line in content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                Hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = f"http://{self.headers['host']}/me/model/commit/{'0' * 40}"
        return self.answer(200, {"commitUrl": commit, "commitOid": "0" * 40, "success": True})

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/model", "sha": "0" * 40, "siblings": []})

    def answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Hub.files, Hub.refuse = {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def push(folder: Path, endpoint: str) -> str:
    """Push in a process of its own, as the client reads its environment once; what it prints."""
    script = (
        "import sys; from trainer.serving import hub; from trainer.errors import UserError, line_of\n"
        "from pathlib import Path\n"
        "try: print(hub.push(Path(sys.argv[1]), sys.argv[2]))\n"
        "except UserError as error: print('error:', line_of(error))"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), "me/model"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_gets_every_file(small_export: Path, address: str) -> None:
    assert push(small_export, address).endswith("/me/model")
    assert Hub.files == {path.name: path.read_bytes() for path in small_export.iterdir()}


def test_a_hub_that_refuses(small_export: Path, address: str) -> None:
    Hub.refuse = True
    line = push(small_export, address)
    assert line.startswith(f"error: {small_export} is written, but not uploaded to {address}: ")
    assert "\n" not in line and "403" in line


def test_a_hub_that_cannot_be_reached(small_export: Path) -> None:
    endpoint = f"http://127.0.0.1:{machine.free_port()}"
    line = push(small_export, endpoint)
    assert line.startswith(f"error: {small_export} is written, but not uploaded to {endpoint}: ")
    assert "\n" not in line


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--push-to-hub needs huggingface_hub: pip install"):
        hub.refuse_missing()
