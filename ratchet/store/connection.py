"""Connections to an API server: where it is, how to verify it, and the credentials of each request.

This is the only module that imports `kubernetes`, and it does so only if a kubeconfig needs it (`kubeconfig`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3

from ratchet.errors import InvalidConfigError
from ratchet.store.api_errors import first_line
from ratchet.store.kubeconfig import StaticAccess, read_static

if TYPE_CHECKING:
    from kubernetes.client import Configuration

CONNECTIONS = 64
DEFAULT_NAMESPACE = "default"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Keepalive ends a watch 25 s after its connection was lost without a FIN (tcp(7)). urllib3 sets these options instead
# of its own.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """HTTP connections to one API server.

    `host` is its URL. `pool` sends the requests. `base` is what precedes a request's path: the path of the host's URL,
    or with a proxy the whole URL. `credentials` returns the headers that authenticate a request, and `close` closes the
    connections.
    """

    host: str
    pool: urllib3.HTTPConnectionPool | urllib3.PoolManager
    base: str
    credentials: Callable[[], dict[str, str]]
    close: Callable[[], None]


def open_connection(kubeconfig: str | None, context: str | None = None) -> Connection:
    """Connect to the API server of a kubeconfig's context (None: its current context).

    Without a kubeconfig it is the API server of the pod's own cluster. A kubeconfig may be several files, as in
    $KUBECONFIG. Raises InvalidConfigError.
    """
    try:
        if kubeconfig and (access := read_static(kubeconfig, context)) is not None:
            return static_connection(access)
        return library_connection(_configuration(kubeconfig, context))
    except ValueError as cause:  # that of urllib3 for a URL
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster credentials"
        raise InvalidConfigError(f"cannot use {where}: server: {first_line(cause)}") from cause


def static_connection(access: StaticAccess) -> Connection:
    """A connection with static credentials."""
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "socket_options": SOCKET_OPTIONS}
    if access.server.startswith("https"):
        options |= {
            "cert_reqs": "CERT_REQUIRED" if access.verify else "CERT_NONE",
            "ca_certs": access.ca_file or None,
            "ca_cert_data": access.ca_data or None,
            "cert_file": access.cert_file or None,
            "key_file": access.key_file or None,
        }
        if access.tls_server_name:
            options["server_hostname"] = access.tls_server_name
    pool = urllib3.connection_from_url(access.server, **options)
    headers = {"authorization": f"Bearer {access.token}"} if access.token else {}
    return Connection(access.server, pool, _path_of(access.server), lambda: headers, pool.close)


def library_connection(configuration: Configuration) -> Connection:
    """A connection of the `kubernetes` package.

    The connections are used directly, because the layers of the package above them take a third of the CPU of a
    request. With a proxy, urllib3's manager decides between a tunnel and a request with the whole URL.
    """
    from kubernetes.client import ApiClient

    client = ApiClient(configuration)
    host = str(configuration.host)
    manager: urllib3.PoolManager = client.rest_client.pool_manager

    def credentials() -> dict[str, str]:
        headers: dict[str, str] = {}
        client.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return headers

    if configuration.proxy:
        return Connection(host, manager, host, credentials, manager.clear)
    pool = manager.connection_from_url(host)

    def close() -> None:
        manager.clear()
        pool.close()

    return Connection(host, pool, _path_of(host), credentials, close)


def namespace_of(kubeconfig: str | None, context: str | None = None) -> str:
    """The namespace of a kubeconfig's context, or of the pod's own service account. Raises InvalidConfigError."""
    if not kubeconfig:
        return _own_namespace()
    from kubernetes import config

    try:
        contexts, _ = config.list_kube_config_contexts(config_file=kubeconfig)
        meant = context or _current_context(kubeconfig)
    except Exception as cause:  # as below
        raise InvalidConfigError(f"cannot use kubeconfig {kubeconfig}: {first_line(cause)}") from cause
    found: dict[str, Any] = next((one for one in contexts if one.get("name") == meant), {})
    return (found.get("context") or {}).get("namespace") or DEFAULT_NAMESPACE


def _own_namespace() -> str:
    try:
        return POD_NAMESPACE.read_text().strip() or DEFAULT_NAMESPACE
    except FileNotFoundError:
        return DEFAULT_NAMESPACE
    except OSError as error:
        raise InvalidConfigError(f"cannot read {POD_NAMESPACE}: {error.strerror}") from error


def _current_context(kubeconfig: str) -> str | None:
    """The current context. Of several files it is the first file's that has one, as with kubectl."""
    from kubernetes import config

    for one in kubeconfig.split(os.pathsep):
        if Path(one).is_file():
            with suppress(config.ConfigException):
                _, current = config.list_kube_config_contexts(config_file=one)
                return str(current["name"])
    return None


def _configuration(kubeconfig: str | None, context: str | None = None) -> Configuration:
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if kubeconfig:
            if not any(Path(one).is_file() for one in kubeconfig.split(os.pathsep)):
                raise config.ConfigException("no such file")
            config.load_kube_config(
                config_file=kubeconfig,
                context=context or (_current_context(kubeconfig) if os.pathsep in kubeconfig else None),
                client_configuration=configuration,
            )
        else:
            config.load_incluster_config(client_configuration=configuration)
    except Exception as cause:  # the loader has no error class of its own for malformed YAML
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster credentials"
        raise InvalidConfigError(
            f"cannot use {where}: {first_line(cause)}",
            details='name a kubeconfig in the key "kubeconfig" of the network configuration, or with ratchet install',
        ) from cause
    configuration.retries = False
    configuration.connection_pool_maxsize = CONNECTIONS
    configuration.socket_options = SOCKET_OPTIONS
    return configuration


def _path_of(url: str) -> str:
    return urlsplit(url).path.rstrip("/")
