"""Where a pod finds the API."""

from __future__ import annotations

import pytest

from ratchet.errors import RatchetError
from ratchet.install.kubeconfig import api_server_url


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_the_api_is_where_the_environment_says(host: str, server: str) -> None:
    assert api_server_url({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}) == server


def test_outside_of_a_pod_it_is_said_what_to_do() -> None:
    with pytest.raises(RatchetError, match="KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set") as told:
        api_server_url({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "--kubeconfig" in told.value.details
