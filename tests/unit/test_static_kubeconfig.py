"""Kubeconfigs that are read without the `kubernetes` package, and the connections that they give."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from ratchet.errors import ApiUnavailableError, InvalidConfigError
from ratchet.store.apiserver import connect
from ratchet.store.connection import _configuration
from ratchet.store.kubeconfig import StaticAccess, read_static
from tests.support.http_server import HttpServer, JsonHandler, kubeconfig, running

CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SERVER = "https://api.example:6443"
ENCODED = b64encode(CA.encode()).decode()


def written(folder: Path, content: dict[str, Any] | str) -> str:
    path = folder / "kubeconfig"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def read(folder: Path, content: dict[str, Any] | str, context: str | None = None) -> StaticAccess | None:
    return read_static(written(folder, content), context, environ={})


STATIC = {
    "no user": kubeconfig(
        {"server": "http://127.0.0.1:8080/"}, users=[], contexts=[{"name": "x", "context": {"cluster": "c"}}]
    ),
    "a token and CA data": kubeconfig({"server": SERVER, "certificate-authority-data": ENCODED}, {"token": "t"}),
    "a token file": kubeconfig({"server": SERVER}, {"tokenFile": "secrets/token"}),
    "certificates": kubeconfig(
        {"server": f"{SERVER}/base", "certificate-authority": "secrets/ca.crt", "tls-server-name": "other"},
        {"client-certificate": "secrets/ca.crt", "client-key": "secrets/token"},
    ),
    "no verification": kubeconfig({"server": SERVER, "insecure-skip-tls-verify": True}, {"token": "t"}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/token").write_text("from-file")
    (tmp_path / "secrets/ca.crt").write_text(CA)
    return tmp_path


@pytest.mark.parametrize("as_yaml", [False, True])
@pytest.mark.parametrize("content", STATIC.values(), ids=STATIC)
def test_a_static_kubeconfig_is_read_as_the_library_reads_it(
    folder: Path, content: dict[str, Any], as_yaml: bool
) -> None:
    file = written(folder, yaml.safe_dump(content) if as_yaml else content)
    access, library = read_static(file, environ={}), _configuration(file)
    assert access is not None
    assert access.server == library.host
    assert access.verify == library.verify_ssl
    assert access.tls_server_name == (library.tls_server_name or "")
    assert (access.cert_file, access.key_file) == (library.cert_file or "", library.key_file or "")
    assert (f"Bearer {access.token}" if access.token else None) == library.api_key.get("BearerToken")
    authority = access.ca_data or (Path(access.ca_file).read_text() if access.ca_file else "")
    assert authority == (Path(library.ssl_ca_cert).read_text() if library.ssl_ca_cert else "")


def test_another_context_can_be_chosen(tmp_path: Path) -> None:
    content = kubeconfig({"server": "http://one:1"})
    content["clusters"].append({"name": "d", "cluster": {"server": "http://two:2"}})
    content["contexts"].append({"name": "y", "context": {"cluster": "d"}})
    assert read(tmp_path, content, "y") == StaticAccess("http://two:2")


def test_a_line_break_after_the_token_in_a_file_is_ignored(folder: Path) -> None:
    (folder / "secrets/token").write_text("from-file\n")
    access = read(folder, STATIC["a token file"])
    assert access is not None
    assert access.token == "from-file"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "a: b: c",
        "[]",
        kubeconfig({"server": SERVER}, {"exec": {"command": "aws"}}),
        kubeconfig({"server": SERVER}, {"auth-provider": {"name": "oidc"}}),
        kubeconfig({"server": SERVER}, {"username": "a", "password": "b"}),
        kubeconfig({"server": SERVER}, {"client-certificate-data": ENCODED, "client-key-data": ENCODED}),
        kubeconfig({"server": SERVER}, {"token": "t", "tokenFile": "secrets/token"}),
        kubeconfig({"server": SERVER}, {"tokenFile": "nowhere"}),
        kubeconfig({"server": SERVER}, {"token": 7}),
        kubeconfig({"server": SERVER, "proxy-url": "http://proxy:3128"}, {"token": "t"}),
        kubeconfig({"server": SERVER, "certificate-authority": "nowhere"}, {"token": "t"}),
        kubeconfig({"server": SERVER, "certificate-authority-data": "="}, {"token": "t"}),
        kubeconfig({"server": SERVER, "insecure-skip-tls-verify": "yes"}, {"token": "t"}),
        kubeconfig({"server": ""}),
        kubeconfig({}),
        kubeconfig({"server": SERVER}) | {"current-context": "nowhere"},
        kubeconfig({"server": SERVER}, contexts=[{"name": "x", "context": {"cluster": "c"}}] * 2),
        kubeconfig({"server": SERVER}, contexts=None),
    ],
)
def test_any_other_kubeconfig_is_left_to_the_library(folder: Path, content: Any) -> None:
    assert read(folder, content) is None


@pytest.mark.parametrize("variable", ["https_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_in_the_environment_is_left_to_the_library(folder: Path, variable: str) -> None:
    file = written(folder, STATIC["a token and CA data"])
    assert read_static(file, environ={variable: ""}) is not None
    assert read_static(file, environ={variable: "http://proxy:3128"}) is None


@pytest.mark.parametrize("server", ["not a url", "https://host:99999", "https://[::1"])
@pytest.mark.parametrize("user", [{}, {"username": "u", "password": "p"}])
def test_an_invalid_url_of_the_server_is_an_error(server: str, user: dict[str, Any], tmp_path: Path) -> None:
    file = written(tmp_path, kubeconfig({"server": server}, user))
    with pytest.raises(InvalidConfigError, match=f"^cannot use kubeconfig {file}: "):
        connect(file)


def test_a_missing_kubeconfig_is_reported_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=f"cannot use kubeconfig {tmp_path}/none: no such file"):
        connect(f"{tmp_path}/none")


IMPORTS = """
import sys
from ratchet.store.apiserver import connect
connect(sys.argv[1])
print("kubernetes" in sys.modules)
"""


def test_a_static_kubeconfig_does_not_import_the_kubernetes_package(folder: Path) -> None:
    file = written(folder, STATIC["a token file"])
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, file], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout == "False\n"


class Handler(JsonHandler):
    """Answers with the credentials of the request."""

    def get(self) -> None:
        self.send(200, {"authorization": self.headers["Authorization"]})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[str]:
    """The URL of an HTTPS server that is certified as `api.example` and accepts certificates of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    made = HttpServer(Handler)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    with running(made):
        yield f"https://127.0.0.1:{made.server_port}"


def get(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Any:
    return connect(written(folder, kubeconfig(cluster, user)), patience=0.1).get("/version")


def data_of(authority: trustme.CA) -> str:
    return b64encode(authority.cert_pem.bytes()).decode()


def test_a_server_is_verified_by_its_authority_and_name(tmp_path: Path, server: str, authority: trustme.CA) -> None:
    trusted = {"server": server, "certificate-authority-data": data_of(authority), "tls-server-name": "api.example"}
    assert get(tmp_path, trusted, {"token": "t"}) == {"authorization": "Bearer t"}
    assert get(tmp_path, trusted, {}) == {"authorization": None}
    with pytest.raises(ApiUnavailableError, match="mismatch"):
        get(tmp_path, {**trusted, "tls-server-name": "other.example"}, {"token": "t"})
    with pytest.raises(ApiUnavailableError, match="verify failed"):
        get(tmp_path, {**trusted, "certificate-authority-data": data_of(trustme.CA())}, {"token": "t"})
    with pytest.raises(ApiUnavailableError, match="verify failed"):
        get(tmp_path, {"server": server}, {"token": "t"})


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verification_can_be_turned_off(tmp_path: Path, server: str) -> None:
    insecure = {"server": server, "insecure-skip-tls-verify": True}
    assert get(tmp_path, insecure, {"token": "t"}) == {"authorization": "Bearer t"}


def test_a_client_certificate_is_sent(tmp_path: Path, server: str, authority: trustme.CA) -> None:
    trusted = {"server": server, "certificate-authority-data": data_of(authority), "tls-server-name": "api.example"}
    client = authority.issue_cert(common_name="node")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "node.crt"))
    client.private_key_pem.write_to_path(str(tmp_path / "node.key"))
    certificate = {"client-certificate": "node.crt", "client-key": "node.key"}
    assert get(tmp_path, trusted, certificate) == {"authorization": None}
    stranger = trustme.CA().issue_cert(common_name="node")
    stranger.cert_chain_pems[0].write_to_path(str(tmp_path / "node.crt"))
    stranger.private_key_pem.write_to_path(str(tmp_path / "node.key"))
    with pytest.raises(ApiUnavailableError, match="cannot reach the Kubernetes API"):
        get(tmp_path, trusted, certificate)
