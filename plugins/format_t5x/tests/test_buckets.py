"""Checkpoints in a bucket, served on this machine by a small imitation of Google Cloud Storage."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest

READ = """
import sys
import numpy as np
from prompt_tuning_files import formats
from prompt_tuning_core.errors import InputError
try:
    model = formats.open_model(sys.argv[1])
except InputError as error:
    sys.exit(f"InputError: {error}")
rows = model.rows("token_embedder/embedding", np.array([5, 1]))
np.savez(sys.argv[2], rows=rows, step=model.step)
"""


class Bucket(http.server.BaseHTTPRequestHandler):
    """Serves the files below `server.root` as the objects of a bucket named `bucket`."""

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        key = urllib.parse.unquote(url.path.removeprefix("/storage/v1/b/bucket/o").strip("/"))
        if key:
            file = self.server.root / key
            self.answer(file.read_bytes() if file.is_file() else None)
        else:
            files = [file for file in self.server.root.rglob("*") if file.is_file()]
            names = sorted(str(file.relative_to(self.server.root)) for file in files)
            first, end = (query[name][0] for name in ("startOffset", "endOffset"))
            items = [{"name": name} for name in names if first <= name < end]
            self.answer(json.dumps({"items": items}).encode())

    def answer(self, body):
        status, body = (404, b"") if body is None else (200, body)
        if "Range" in self.headers and status == 200:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            size, status = len(body), 206
            body = body[int(first) : int(last or size) + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        del args


def read(url, result, address):
    environment = {
        **os.environ,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
    }
    command = [sys.executable, "-c", READ, url, str(result)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "directory", "step"),
    [("t5x_orbax", "", 7), ("t5x_checkpoint_prompt", "/checkpoint_0", 0)],
)
def test_a_checkpoint_in_a_bucket_is_read(unpack, parameters, tmp_path, name, directory, step):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        server.root = unpack(name).parent
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = read(f"gs://bucket/{name}{directory}", tmp_path / "read.npz", address)
        missing = read("gs://bucket/other", tmp_path / "none.npz", address)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "read.npz") as found:
        np.testing.assert_array_equal(found["rows"], parameters["token_embedder/embedding"][[5, 1]])
        assert found["step"] == step
    assert "gs://bucket/other: no installed format plugin recognizes it" in missing.stderr


def test_a_bucket_that_cannot_be_reached_is_an_error(tmp_path):
    done = read("gs://some-bucket/model", tmp_path / "read.npz", "http://127.0.0.1:1")
    (line,) = (line for line in done.stderr.splitlines() if "InputError" in line)
    assert done.stderr.count("Traceback") == 0
    assert line.startswith("InputError: gs://some-bucket/model: checkpoint cannot be read (")
    assert line.endswith("can the bucket 'some-bucket' be reached, and may you read it?")
