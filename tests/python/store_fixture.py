"""Object stores for the tests: moto's server (S3) and gcp-storage-emulator (Google Cloud Storage), and a
proxy before them that counts, spoils, slows down and stops answers."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

BUCKET = "osp-test"
# The servers look for a name, not at the signature.
SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def store_python(module: str) -> str:
    """An interpreter that has the server: $OSP_STORES, or this one. Skips where there is none."""
    python = os.environ.get("OSP_STORES", sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode != 0:
        pytest.skip(f"{python} has no {module}: run scripts/setup.sh --with-tests, or set OSP_STORES to one")
    return python


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(command: list, port: int) -> subprocess.Popen:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.1)


class Proxy:
    """Passes requests on and keeps their paths: `gets` are those of objects' contents."""

    def __init__(self, port: int):
        self.requests = []  # (method, path without query, bytes of the answer)
        self.spoil = {}  # end of a path -> number of answers whose last byte is flipped
        self.refuse = None  # a status that every request gets instead of an answer
        self.bytes_per_s = None
        self.hang = False  # accepts requests and never answers
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def handle(self):
                with contextlib.suppress(ConnectionError):  # the other side has ended
                    super().handle()

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                while proxy.hang:
                    time.sleep(0.05)
                path, _, query = unquote(self.path).partition("?")
                # Google's store answers with an object's description unless it is asked for its content.
                if path.startswith("/storage/") and "alt=media" not in query:
                    path += "/description"
                if proxy.refuse is not None:
                    proxy.requests.append((self.command, path, 0))
                    self.send_response(proxy.refuse)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                inner = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                inner.request(self.command, self.path, body, dict(self.headers))
                reply = inner.getresponse()
                content = reply.read()
                for end, count in proxy.spoil.items():
                    if self.command == "GET" and path.endswith(end) and count > 0 and content:
                        proxy.spoil[end] = count - 1
                        content = content[:-1] + bytes([content[-1] ^ 1])
                proxy.requests.append((self.command, path, len(content)))
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                        self.send_header(name, value)
                if "Content-Length" not in reply.headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    proxy.write(self.wfile, content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def write(self, file, content: bytes) -> None:
        """As fast as the wire: all answers share bytes_per_s."""
        if self.bytes_per_s is None:
            file.write(content)
            return
        piece = max(1, int(self.bytes_per_s / 50))
        for begin in range(0, len(content), piece):
            with self.wire:
                time.sleep(min(piece, len(content) - begin) / self.bytes_per_s)
            file.write(content[begin : begin + piece])

    wire = threading.Lock()

    def gets(self, end: str = "") -> list:
        """The objects whose contents were asked for, in order: those with this end of their names."""
        return [path for method, path, _ in self.requests if method == "GET" and path.endswith(end)]

    def reset(self) -> None:
        self.requests.clear()
        self.spoil.clear()
        self.refuse = self.bytes_per_s = None
        self.hang = False

    def close(self) -> None:
        self.hang = False
        self.server.shutdown()
        self.server.server_close()


class Store:
    """A server with one bucket, behind a proxy."""

    def __init__(self, scheme: str, port: int, proxy: Proxy):
        self.scheme, self.port, self.proxy = scheme, port, proxy

    def uri(self, key: str, bucket: str = BUCKET, port: int | None = None) -> str:
        query = f"endpoint_override=127.0.0.1:{port or self.proxy.port}&scheme=http"
        if self.scheme == "s3":
            return f"s3://{bucket}/{key}?{query}&region=us-east-1"
        return f"gs://anonymous@{bucket}/{key}?{query}"

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "text/plain") -> bytes:
        inner = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": kind, "Authorization": SIGNED} if body is not None else {}
        inner.request(method, path, body, headers)
        reply = inner.getresponse()
        content = reply.read()
        assert reply.status < 300, (method, path, reply.status, content)
        return content

    def make_bucket(self) -> None:
        if self.scheme == "s3":
            self.request("PUT", f"/{BUCKET}")
        else:
            self.request(
                "POST", "/storage/v1/b?project=test", b'{"name": "%s"}' % BUCKET.encode(), "application/json"
            )

    def put(self, key: str, content: bytes) -> None:
        if self.scheme == "s3":
            self.request("PUT", f"/{BUCKET}/{key}", content)
        else:
            name = key.replace("/", "%2F")
            self.request("POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}", content)

    def put_folder(self, key: str, folder: Path) -> str:
        """Uploads the files of a folder; returns their URI."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.uri(key)


def start_store(scheme: str, command: list, port: int):
    process = start_server(command, port)
    proxy = Proxy(port)
    store = Store(scheme, port, proxy)
    try:
        store.make_bucket()
        yield store
    finally:
        proxy.close()
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def s3_server():
    port = free_port()
    python = store_python("moto.server")
    yield from start_store("s3", [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port)


@pytest.fixture(scope="session")
def gs_server():
    port = free_port()
    python = store_python("gcp_storage_emulator")
    words = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    yield from start_store("gs", [python, "-m", "gcp_storage_emulator", *words], port)


def store_environment(cache: Path, size: str = "1GB") -> dict:
    """What osp needs of the environment: keys of a store that asks for none, and a cache."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "OSP_CACHE": str(cache),
        "OSP_CACHE_SIZE": size,
    }
