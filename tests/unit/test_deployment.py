"""The verdict on the installer's DaemonSet: deleted only if the API server says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.install.deployment import ATTEMPTS, PAUSE_SECONDS, State, decide, find_verdict
from ratchet.store.api_errors import ForbiddenError, NotFoundError, UnauthorizedError
from ratchet.store.apiserver import ApiServer
from ratchet.store.connection import static_connection
from ratchet.store.kubeconfig import StaticAccess

Json = dict[str, Any]
DAEMON_SET = "ratchet/ratchet-install"
PATH = "/apis/apps/v1/namespaces/ratchet/daemonsets/ratchet-install"


def daemon_set(**metadata: str) -> Json:
    return {"kind": "DaemonSet", "metadata": {"name": "ratchet-install", "uid": "1", **metadata}}


DEPLOYED, RECREATED = daemon_set(), daemon_set(uid="2")
DELETING = daemon_set(deletionTimestamp="2026-01-02T03:04:05Z")
RECREATED_AND_DELETING = daemon_set(uid="2", deletionTimestamp="2026-01-02T03:04:05Z")
GONE, DENIED = NotFoundError("cannot GET it: not found"), ForbiddenError("cannot GET it: forbidden")
UNAUTHORIZED, AWAY = UnauthorizedError("cannot GET it: Unauthorized"), ApiUnavailableError("cannot reach the API")
OTHER_KIND, OTHER_NAME = {"kind": "Status", "metadata": {}}, daemon_set(name="other")
UNCLEAR = [DENIED, UNAUTHORIZED, AWAY, RatchetError("cannot GET it: HTTP status 520")]
UNCLEAR_OBJECTS: list[Json] = [OTHER_KIND, OTHER_NAME, {}, {"kind": "DaemonSet", "metadata": None}]


@dataclass
class Api:
    """A fake API with a list of answers. The last one is repeated."""

    answers: list[Json | RatchetError]
    asked: list[str] = field(default_factory=list)

    def get(self, path: str) -> Json:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(path)
        if isinstance(answer, RatchetError):
            raise answer
        return answer


def is_deleted(*answers: Json | RatchetError) -> tuple[bool | None, int]:
    """The verdict after these answers, and the number of requests. Pauses are between requests only."""
    api, pauses = Api(list(answers)), list[float]()
    verdict = find_verdict(api, DAEMON_SET, pauses.append)  # type: ignore[arg-type]
    assert set(api.asked) == {PATH}
    assert pauses == [PAUSE_SECONDS] * (len(api.asked) - 1)
    return verdict.deleted, len(api.asked)


@pytest.mark.parametrize("answer", [DELETING, RECREATED_AND_DELETING], ids=["the same", "another of its name"])
def test_a_daemon_set_that_is_being_deleted_counts_as_deleted_at_once(answer: Json) -> None:
    assert is_deleted(answer) == (True, 1)


@pytest.mark.parametrize("answer", [DEPLOYED, RECREATED], ids=["the same", "created again"])
def test_a_deployed_daemon_set_is_not_deleted(answer: Json) -> None:
    assert is_deleted(answer) == (False, 1)


def test_a_404_counts_only_if_a_second_one_follows() -> None:
    assert is_deleted(GONE) == (True, 2)
    assert is_deleted(GONE, RECREATED) == (False, 2)
    assert is_deleted(GONE, AWAY, GONE, AWAY, GONE) == (None, ATTEMPTS)
    assert is_deleted(DENIED, AWAY, GONE, GONE) == (True, 4)


@pytest.mark.parametrize("answer", [*UNCLEAR, *UNCLEAR_OBJECTS], ids=str)
def test_an_unclear_answer_never_means_deleted(answer: Json | RatchetError) -> None:
    assert is_deleted(answer) == (None, ATTEMPTS)
    assert is_deleted(answer, GONE, answer) == (None, ATTEMPTS)
    assert is_deleted(answer, DELETING) == (True, 2)


def test_the_verdict_names_the_last_cause_if_it_is_unclear() -> None:
    api = Api([AWAY, DENIED])
    verdict = find_verdict(api, DAEMON_SET, lambda _: None)  # type: ignore[arg-type]
    assert verdict.reason == "cannot tell whether it is deleted: cannot GET it: forbidden"


def test_no_answer_yet_is_no_decision() -> None:
    assert decide([]) is None
    assert decide([State.ABSENT]) is None


# Responses as they are on the wire


class Handler(BaseHTTPRequestHandler):
    answer: tuple[int, str] = (200, "{}")

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        api = ApiServer(lambda: static_connection(StaticAccess(f"http://127.0.0.1:{made.server_port}")), patience=0.01)
        yield api
        api.close()
        made.shutdown()
        thread.join()


NOT_FOUND = json.dumps({"kind": "Status", "reason": "NotFound", "code": 404})


@pytest.mark.parametrize(
    ("status", "body", "deleted"),
    [
        (200, json.dumps(DELETING), True),
        (200, json.dumps(DEPLOYED), False),
        (404, NOT_FOUND, True),
        (404, "<html>404 Not Found</html>", None),
        (404, '{"message": "no route"}', None),
        (403, NOT_FOUND, None),
        (401, NOT_FOUND, None),
        (410, NOT_FOUND, None),
        (502, "bad gateway", None),
        (302, "", None),
        (200, "<html>log in</html>", None),
        (200, '["kind"]', None),
        (200, json.dumps(DELETING)[:-5], None),
    ],
)
def test_a_response_is_judged_by_status_and_body(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, status: int, body: str, deleted: bool | None
) -> None:
    monkeypatch.setattr(Handler, "answer", (status, body))
    assert find_verdict(server, DAEMON_SET, lambda _: None).deleted is deleted
