"""The verdict on the installer's DaemonSet: deleted only if the API server says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.install.deployment import ATTEMPTS, PAUSE_SECONDS, RETRY_SECONDS, DeploymentWatch, Seen, State, decide
from ratchet.store.api_errors import ForbiddenError, NotFoundError, UnauthorizedError
from ratchet.store.apiserver import ApiServer
from ratchet.store.connection import static_connection
from ratchet.store.kubeconfig import StaticAccess
from ratchet.store.session import Watched
from tests.support.http_server import HttpServer, JsonHandler, running

Json = dict[str, Any]
DAEMON_SET = "ratchet/ratchet-install"
PATH = "/apis/apps/v1/namespaces/ratchet/daemonsets/ratchet-install"


def daemon_set(**metadata: str) -> Json:
    named = {"name": "ratchet-install", "uid": "1", "resourceVersion": "7"}
    return {"kind": "DaemonSet", "metadata": {**named, **metadata}}


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
    """A fake API with a list of answers, and the events of one watch. The last answer is repeated."""

    answers: list[Json | RatchetError]
    events: list[tuple[str, Json]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    watched: list[tuple[str, str, str]] = field(default_factory=list)

    def get(self, path: str) -> Json:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(path)
        if isinstance(answer, RatchetError):
            raise answer
        return answer

    def watch(self, path: str, version: str, _seconds: float, fieldSelector: str) -> Iterator[Watched]:  # noqa: N803
        self.watched.append((path, version, fieldSelector))
        return (Watched(*event) for event in self.events)


EXISTED, WITNESSED = Seen(existed=True), Seen(existed=True, deleted=True)


def is_deleted(*answers: Json | RatchetError, seen: Seen = EXISTED) -> tuple[bool | None, int]:
    """The verdict after these answers, and the number of requests. Pauses are between requests only."""
    api, pauses = Api(list(answers)), list[float]()
    deployment = watch_by(api)
    deployment.seen = seen
    verdict = deployment.find_verdict(pauses.append)
    assert set(api.asked) == {PATH}
    assert pauses == [PAUSE_SECONDS] * (len(api.asked) - 1)
    return verdict.deleted, len(api.asked)


def watch_by(api: Any) -> DeploymentWatch:
    return DeploymentWatch(api, DAEMON_SET)


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
    verdict = watch_by(Api([AWAY, DENIED])).find_verdict(lambda _: None)
    assert verdict.reason == "cannot tell whether it is deleted: cannot GET it: forbidden"


def test_no_answer_yet_is_no_decision() -> None:
    assert decide([], WITNESSED) is None
    assert decide([State.ABSENT], WITNESSED) is None


def test_a_daemon_set_that_was_never_seen_cannot_be_deleted() -> None:
    """Its name may be wrong: kustomize's namePrefix changes the DaemonSet, and not the flag `--keep`."""
    assert is_deleted(GONE, seen=Seen()) == (None, ATTEMPTS)
    assert is_deleted(DELETING, seen=Seen()) == (True, 1)


@pytest.mark.parametrize("answer", [GONE, *UNCLEAR, *UNCLEAR_OBJECTS], ids=str)
def test_a_deletion_that_was_watched_counts_unless_the_daemon_set_is_deployed_again(
    answer: Json | RatchetError,
) -> None:
    """The account may be deleted before the DaemonSet, so that requests are denied."""
    assert is_deleted(answer, seen=WITNESSED) == (True, 2)
    assert is_deleted(answer, RECREATED, seen=WITNESSED) == (False, 2)


# The watch


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([], EXISTED),
        ([("MODIFIED", DEPLOYED)], EXISTED),
        ([("DELETED", DEPLOYED)], WITNESSED),
        ([("MODIFIED", DELETING)], WITNESSED),
        ([("MODIFIED", DELETING), ("DELETED", DELETING)], WITNESSED),
        ([("DELETED", DEPLOYED), ("ADDED", RECREATED)], EXISTED),
        ([("DELETED", DEPLOYED), ("BOOKMARK", {"kind": "DaemonSet", "metadata": {}})], WITNESSED),
    ],
    ids=["nothing", "changed", "deleted", "deleting", "both", "created again", "bookmark"],
)
def test_a_watch_notes_what_happened_to_the_daemon_set(events: list[tuple[str, Json]], seen: Seen) -> None:
    api = Api([DEPLOYED], events)
    deployment = watch_by(api)
    assert deployment.seen == Seen()
    deployment.watch_once()
    assert deployment.seen == seen
    assert api.watched == [(PATH.rpartition("/")[0], "7", "metadata.name=ratchet-install")]


def test_a_broken_watch_is_retried_and_keeps_what_was_seen(caplog: pytest.LogCaptureFixture) -> None:
    api = Api([DEPLOYED, DENIED, DENIED, {"kind": "DaemonSet"}, DEPLOYED, GONE], [("DELETED", DEPLOYED)])
    deployment = watch_by(api)
    seen: list[Seen] = []

    def pause(seconds: float) -> None:
        if seconds == RETRY_SECONDS:
            seen.append(deployment.seen)
        if len(api.asked) == len(api.answers):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deployment.run(pause)
    assert seen == [WITNESSED] * 4
    causes = ["cannot GET it: forbidden", "'metadata'", "cannot GET it: not found"]
    assert caplog.messages == [f"DaemonSet not watched daemonset={DAEMON_SET} cause={cause}" for cause in causes]


# Responses as they are on the wire


class Handler(JsonHandler):
    answer: tuple[int, str] = (200, "{}")

    def get(self) -> None:
        self.send(*self.answer)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with (
        running(HttpServer(Handler)) as made,
        closing(ApiServer(lambda: static_connection(StaticAccess(made.url)), patience=0.01)) as api,
    ):
        yield api


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
    deployment = watch_by(server)
    deployment.seen = EXISTED
    assert deployment.find_verdict(lambda _: None).deleted is deleted
