"""Small HTTP servers in place of an API server, and the kubeconfigs that lead to them."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

Json = dict[str, Any]


class JsonHandler(BaseHTTPRequestHandler):
    """A handler of GET requests that keeps connections open and logs nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.get()

    def get(self) -> None:
        """Respond to a GET, mostly with `send`."""
        raise NotImplementedError

    def send(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole response: text as it is, anything else as JSON."""
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class HttpServer(ThreadingHTTPServer):
    """A server on a free port of the loopback interface. Its end does not wait for open connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a request, unless its client has closed or reset the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


Server = TypeVar("Server", bound=HttpServer)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serve requests for a block, in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def kubeconfig(cluster: Json, user: Json | None = None, **changes: Any) -> Json:
    """A kubeconfig with one context. `changes` replace its keys."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    } | changes


def write_kubeconfig(folder: Path, url: str) -> str:
    """Write a kubeconfig with the URL of a server and a token, and return its path."""
    file = folder / "kubeconfig"
    file.write_text(json.dumps(kubeconfig({"server": url}, {"token": "t"})))
    return str(file)
