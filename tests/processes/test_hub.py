"""Models by hub name, against a small hub on loopback. Hub clients read their environment once, hence the processes."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

NAME, COMMIT = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"architectures": ["BertModel"]}',
    "1_Pooling/config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights again",
    "onnx/model.onnx": b"and again",
    "README.md": b"",
}
FETCH = f"""
import time
from shoal.inference import models
from shoal.errors import ModelUnavailable
started = time.monotonic()
try:
    print(models.resolve({NAME!r}).fetch())
except ModelUnavailable as error:
    print("ModelUnavailable", round(time.monotonic() - started), error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hugging Face hub's protocol that a download of one repository takes."""

    def do_GET(self) -> None:
        api = f"/api/models/{NAME}"
        if self.path.startswith(f"{api}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": COMMIT} for name in FILES]
            self._answer(json.dumps(tree).encode())
        elif self.path in (api, f"{api}/revision/main"):
            files = [{"rfilename": name} for name in FILES]
            self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode())
        else:
            self._answer(FILES.get(self.path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")))

    do_HEAD = do_GET

    def _answer(self, body: bytes | None) -> None:
        self.server.requests.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(cache: Path, port: int) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"HF_HOME": str(cache), "HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, "-c", FETCH], capture_output=True, text=True, env=environment, timeout=120)


def test_a_model_is_downloaded_once_and_only_what_is_needed(
    hub: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    done = fetch(tmp_path, hub.server_port)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {name: FILES[name] for name in ("config.json", "1_Pooling/config.json", "model.safetensors")}

    hub.requests.clear()  # type: ignore[attr-defined]
    again = fetch(tmp_path, hub.server_port)
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert hub.requests == []  # type: ignore[attr-defined]

    (folder / "model.safetensors").unlink()  # what an interrupted download leaves behind is completed
    assert fetch(tmp_path, hub.server_port).stdout == done.stdout
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_hub_out_of_reach_is_reported_at_once(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    port = hub.server_port
    hub.shutdown()
    hub.server_close()
    done = fetch(tmp_path, port)
    kind, seconds, message = done.stdout.split(maxsplit=2)
    assert kind == "ModelUnavailable", done.stderr
    assert int(seconds) <= 10  # the hub's own clients would retry for minutes
    assert "HF_HOME" in message
    assert "local folder" in message
    assert done.stderr == ""
