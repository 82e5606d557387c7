"""The URL of the API server in a pod."""

from __future__ import annotations

import pytest

from ratchet.errors import RatchetError
from ratchet.install.kubeconfig import api_server_url


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_the_api_server_url_comes_from_the_environment(host: str, server: str) -> None:
    assert api_server_url({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}) == server


def test_outside_of_a_pod_the_error_names_the_kubeconfig_option() -> None:
    with pytest.raises(RatchetError, match="KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set") as caught:
        api_server_url({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "--kubeconfig" in caught.value.details
