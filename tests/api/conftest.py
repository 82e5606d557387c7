"""Fixtures of the API contract tests, which run against the embedded server by default.

Set ``RATCHET_TEST_KUBECONFIG`` to a kubeconfig to test another server. The ``test_embedded_*`` modules start their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_kube_config

from ratchet.dev.api import EmbeddedApi

JsonObject = dict[str, Any]

_GROUPS = {"leases": "apis/coordination.k8s.io/v1"}
_SECONDS = 10.0


@dataclass(frozen=True)
class Response:
    """An HTTP response; ``json`` is None when the body is not JSON."""

    code: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def refused(self, code: int, reason: str) -> str:
        """Check that the response is a ``Status`` of this code and reason; return its message."""
        assert self.code == code, self.text
        status = self.json
        assert status["kind"] == "Status"
        assert status["apiVersion"] == "v1"
        assert status["status"] == "Failure"
        assert status["code"] == code
        assert status["reason"] == reason, self.text
        return str(status["message"])

    def accepted(self, code: int = 200) -> JsonObject:
        """Check that the response has this code; return its object."""
        assert self.code == code, self.text
        body: JsonObject = self.json
        return body


class WatchStream:
    """The events of one watch."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.code = response.status
        self._lines = self._read(response)

    @staticmethod
    def _read(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        rest = b""
        for chunk in response.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        assert not rest

    def next(self) -> JsonObject:
        """Return the next event; fail if the read times out or the stream ends."""
        event: JsonObject = json.loads(next(self._lines))
        return event

    def take(self, count: int) -> list[tuple[str, str]]:
        """Return the types and object names of the next ``count`` events."""
        events = [self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    def rest(self) -> list[JsonObject]:
        """Return the remaining events until the server ends the stream."""
        return [json.loads(line) for line in self._lines]


class Client:
    """Plain HTTP to the API server of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=configuration)
        self._client = ApiClient(configuration)
        self._host = configuration.host
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager

    def close(self) -> None:
        self._pool.clear()

    @staticmethod
    def path(resource: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection or an object."""
        parts = ["", _GROUPS.get(resource, "api/v1")]
        parts += ["namespaces", namespace] if namespace else []
        return "/".join([*parts, resource, *filter(None, [name, subresource])])

    def _open(
        self, method: str, path: str, body: Any, query: Mapping[str, Any], headers: JsonObject, *, preload: bool
    ) -> urllib3.BaseHTTPResponse:
        auth: dict[str, str] = {}
        self._client.update_params_for_auth(auth, [], ["BearerToken"], path, method, None)
        url = self._host + path + ("?" + urlencode(query) if query else "")
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        timeout = urllib3.Timeout(connect=_SECONDS, read=_SECONDS)
        return self._pool.request(
            method,
            url,
            body=data,
            headers={**auth, **headers},
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=preload,
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        **query: Any,
    ) -> Response:
        """Send a request; ``body`` is sent as JSON unless it is bytes, keyword arguments become the query."""
        headers = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {})}
        answer = self._open(method, path, body, query, headers, preload=True)
        return Response(answer.status, answer.headers, answer.data.decode())

    def get(self, path: str, **query: Any) -> Response:
        return self.request("GET", path, **query)

    def post(self, path: str, body: Any, **query: Any) -> Response:
        return self.request("POST", path, body, **query)

    def put(self, path: str, body: Any, **query: Any) -> Response:
        return self.request("PUT", path, body, **query)

    def delete(self, path: str, body: Any = None, **query: Any) -> Response:
        return self.request("DELETE", path, body, **query)

    def patch(self, path: str, body: Any, kind: str = "merge-patch+json", **query: Any) -> Response:
        """Send a patch; ``kind`` completes the content type ``application/...``."""
        return self.request("PATCH", path, body, content_type=f"application/{kind}", **query)

    def items(self, path: str, **query: Any) -> list[str]:
        """Return the names of the objects in a list."""
        return [item["metadata"]["name"] for item in self.get(path, **query).accepted()["items"]]

    @contextlib.contextmanager
    def watch(self, path: str, accept: str = "application/json", **query: Any) -> Iterator[WatchStream]:
        """Open a watch; it is closed when the context ends."""
        query = {"watch": "true", "timeoutSeconds": 30, **query}
        answer = self._open("GET", path, None, query, {"Accept": accept}, preload=False)
        try:
            yield WatchStream(answer)
        finally:
            answer.close()


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubeconfig of the server under test."""
    if given := os.environ.get("RATCHET_TEST_KUBECONFIG"):
        yield Path(given)
        return
    with EmbeddedApi() as server:
        yield server.write_kubeconfig(tmp_path_factory.mktemp("api") / "kubeconfig")


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[Client]:
    """A client of the server under test."""
    client = Client(kubeconfig)
    yield client
    client.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Path], Client]]:
    """Factory of clients of other servers; they are closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def make(config: Path) -> Client:
            return stack.enter_context(contextlib.closing(Client(config)))

        yield make


@pytest.fixture
def namespace(api: Client) -> Iterator[str]:
    """A namespace for this test only."""
    name = f"ratchet-test-{uuid.uuid4().hex[:10]}"
    api.post("/api/v1/namespaces", {"metadata": {"name": name}}).accepted(201)
    account = api.post(api.path("serviceaccounts", name), {"metadata": {"name": "default"}})
    assert account.code in (201, 409)
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def node(api: Client) -> Iterator[str]:
    """A node for this test only."""
    name = f"node-{uuid.uuid4().hex[:10]}"
    api.post("/api/v1/nodes", {"metadata": {"name": name}}).accepted(201)
    yield name
    api.delete(f"/api/v1/nodes/{name}")


@pytest.fixture
def configmap(api: Client, namespace: str) -> JsonObject:
    """A stored ConfigMap "x" with data a=1."""
    body = {"metadata": {"name": "x", "labels": {"app": "web"}}, "data": {"a": "1"}}
    return api.post(api.path("configmaps", namespace), body).accepted(201)


@pytest.fixture
def new_pod() -> Callable[..., JsonObject]:
    """Factory of pod bodies that any server admits; without `scheduler`, no scheduler places the pod."""

    def make(name: str, scheduler: str = "nobody") -> JsonObject:
        spec: JsonObject = {"containers": [{"name": "main", "image": "busybox:1"}], "schedulerName": scheduler}
        return {"metadata": {"name": name}, "spec": spec | {"automountServiceAccountToken": False}}

    return make


@pytest.fixture
def pod(api: Client, namespace: str, new_pod: Callable[[str], JsonObject]) -> Iterator[JsonObject]:
    """A stored pod "p"."""
    yield api.post(api.path("pods", namespace), new_pod("p")).accepted(201)
    api.delete(api.path("pods", namespace, "p"), gracePeriodSeconds=0)


def _kubectls() -> list[Any]:
    """Return the kubectl beside the interpreter and the first other one on the path, as parameters."""
    beside = Path(sys.prefix, "bin", "kubectl")
    found = {"beside": beside} if beside.exists() else {}
    outside = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != beside.parent]
    on_path = shutil.which("kubectl", path=os.pathsep.join(outside))
    if on_path:
        found["path"] = Path(on_path)
    missing = pytest.param("", marks=pytest.mark.skip("no kubectl installed"))
    return [pytest.param(str(path), id=name) for name, path in found.items()] or [missing]


class Kubectl:
    """Runs a kubectl binary in the test's namespace: ``kubectl("get", "pods", stdin="", editor="")``."""

    def __init__(self, binary: str, namespace: str, environment: Mapping[str, str]) -> None:
        self._command = [binary, "-n", namespace]
        self._environment = dict(environment)

    def __call__(self, *arguments: str, stdin: str = "", editor: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            input=stdin,
            env={**self._environment, **({"KUBE_EDITOR": editor} if editor else {})},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command until the context ends; its output can be read line by line."""
        command = [*self._command, *arguments]
        with subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(params=_kubectls())
def kubectl(request: pytest.FixtureRequest, kubeconfig: Path, namespace: str, tmp_path: Path) -> Kubectl:
    """A runner of kubectl; the test runs once with each installed kubectl."""
    folder = str(tmp_path)
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "KUBECONFIG": str(kubeconfig)}
    return Kubectl(request.param, namespace, environment)
