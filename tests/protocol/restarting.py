"""Scenes of one link whose primary restarts."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.kinds import Wiring
from ratchet.core.model import Side
from ratchet.core.plan import Attempt
from tests.protocol.exploring import Process, Search
from tests.protocol.scenes import (
    Expectation,
    Rules,
    UnobservableRequests,
    add_process,
    agent,
    attempt_of,
    collapse_process,
    del_process,
    lost_panel_process,
    manual_delete_process,
    wanted_link,
)
from tests.protocol.world import World


@dataclass(frozen=True)
class Scene:
    """A link whose primary restarts: sandbox s1 on node A is deleted, and s2 is added on node `second`.

    The pair's sandbox is t1, on node `pair`.

    - `kill`: the sandboxes whose ADD may be killed at any step.
    - `late_del`: DEL of s1 comes twice.
    - `agents`: agents run on the nodes. Without them, ADD waits for its peer.
    - `api_may_fail`: DEL of s1 may not reach the API.
    - `gone`: t1 is deleted too, and there is no s2.
    - `collapse`: the namespace of s1 is removed.
    - `may_time_out`: the wait of ADD may end at any time.
    - `deleted_by_hand`: a user deletes the interface of t1.
    - `wiring`: that of the link.
    - `panel_lost`: the panel of the pair's node disappears.
    - `unsynced`: the sandboxes whose ADD may take a record for missing, because no watch has reported it yet.
    """

    second: str
    pair: str
    kill: str = ""
    late_del: bool = False
    agents: bool = True
    api_may_fail: bool = False
    gone: bool = False
    collapse: bool = True
    may_time_out: bool = False
    deleted_by_hand: bool = False
    unsynced: str = ""
    wiring: Wiring = Wiring.DIRECT
    panel_lost: bool = False

    def processes(self, rules: Rules = Rules()) -> list[Process]:  # noqa: B008  # frozen
        link = wanted_link(wiring=self.wiring)
        s1, s2 = (attempt_of(name, Side.PRIMARY, node, link) for name, node in (("s1", "A"), ("s2", self.second)))
        t1 = attempt_of("t1", Side.PAIR, self.pair, link)
        found = [
            self._add(s1, rules),
            del_process(s1, rules=rules, api_may_fail=self.api_may_fail),
            self._add(t1, rules),
        ]
        if self.collapse:
            found.append(collapse_process("s1", "A"))
        if self.deleted_by_hand:
            found.append(manual_delete_process(t1))
        if self.panel_lost:
            nodes = {"s1": "A", "s2": self.second, "t1": self.pair}
            found.append(lost_panel_process(self.pair, tuple(one for one, at in nodes.items() if at == self.pair)))
        if self.late_del:
            found.append(del_process(s1, rules=rules, again=True))
        found.append(del_process(t1, rules=rules) if self.gone else self._add(s2, rules, after="s1"))
        if self.agents:
            found += [agent(node, rules) for node in sorted({"A", self.second, self.pair})]
        return found

    def _add(self, attempt: Attempt, rules: Rules, after: str = "") -> Process:
        return add_process(
            attempt,
            after=after,
            waits_for_peer=not self.agents,
            killable=attempt.container_id in self.kill.split(),
            may_time_out=self.may_time_out,
            unsynced=attempt.container_id in self.unsynced.split(),
            rules=rules,
        )

    def expectation(self, rules: Rules) -> Expectation:
        live = None if self.kill or self.gone or self.may_time_out else ("s2", "t1")
        return Expectation(
            live,
            all_gone=self.gone,
            leases_may_leak=bool(self.kill) or self.api_may_fail,
            locking=rules.locking,
            deleted_by_hand=self.deleted_by_hand or self.panel_lost,
        )

    def search(self, rules: Rules = Rules()) -> Search:  # noqa: B008
        deletable = frozenset({"s1", "t1"} if self.gone else {"s1"})
        is_unobservable = UnobservableRequests(deletable, frozenset({"s1"} if self.collapse else ()))
        return Search(World(), self.processes(rules), self.expectation(rules).check, is_unobservable)
