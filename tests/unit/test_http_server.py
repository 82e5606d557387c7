"""The HTTP servers of tests: which errors of a request they print."""

from __future__ import annotations

import urllib.request
from http.client import RemoteDisconnected
from typing import ClassVar

import pytest

from tests.support.http_server import HttpServer, JsonHandler, running


class Failing(JsonHandler):
    """Each request fails with the error of its path."""

    errors: ClassVar[dict[str, Exception]] = {
        "/closed": BrokenPipeError(),
        "/reset": ConnectionResetError(),
        "/bug": ValueError("a bug"),
    }

    def get(self) -> None:
        raise self.errors[self.path]


@pytest.mark.parametrize(("path", "printed"), [("/closed", ""), ("/reset", ""), ("/bug", "ValueError: a bug")])
def test_an_error_is_printed_unless_the_client_has_left(
    path: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(HttpServer(Failing)) as server, pytest.raises(RemoteDisconnected):
        urllib.request.urlopen(server.url + path)
    lines = capsys.readouterr().err.splitlines()
    assert (printed in lines) if printed else lines == []
