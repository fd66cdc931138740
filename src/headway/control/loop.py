"""The control loop: observe → decide → act → journal, every tick. The decision is pure; this only carries it round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from headway.control.decide import decide
from headway.control.journal import Journal
from headway.model.action import Action, EndReplica, ReplaceEdge, Tell
from headway.model.observed import Observed
from headway.model.replica import Replica
from headway.model.wanted import Wanted
from headway.runtimes.protocol import Runtime

TICK_S = 0.1

_DEEDS = {
    "StartReplica": "start",
    "EndReplica": "end",
    "ForgetReplica": "forget",
    "AdmitReplica": "admit to the edge",
    "DrainReplica": "drain",
    "SuspendReplica": "take out of the edge",
    "RemoveReplica": "remove from the edge",
    "LimitReplica": "limit",
    "ReplaceEdge": "replace the edge",
}
_QUIET = frozenset({"LimitReplica", "ForgetReplica", "RemoveReplica"})  # many, and no news to anyone


class Loop:
    """One system's loop. Not thread-safe: the thread that ticks owns it; `wanted` may be swapped by any thread."""

    def __init__(
        self, runtime: Runtime, journal: Journal, wanted: Wanted, replicas: Mapping[str, Replica] | None = None
    ) -> None:
        self.runtime = runtime
        self.journal = journal
        self.wanted = wanted
        self.replicas: dict[str, Replica] = dict(replicas or {})
        self.observed = Observed()
        self._refused: dict[str, str] = {}

    def tick(self) -> tuple[Action, ...]:
        """One turn; gives the actions carried out."""
        wanted = self.wanted
        self.observed = self.runtime.observe(self.replicas)
        decision = decide(self.replicas, wanted, self.observed, self.runtime.now_s())
        changed = decision.replicas != self.replicas
        before, self.replicas = self.replicas, dict(decision.replicas)
        for action in decision.actions:
            done = self._act(action, wanted)
            if not done and isinstance(action, EndReplica) and action.how == "ask" and action.replica in before:
                # Not told to end: remembering that it was would make it wait for a kill. (A lost kill is repeated.)
                self.replicas[action.replica] = before[action.replica]
        # After the deeds, never before: a controller that dies in between then does again what it did not finish, and
        # adopts what it started without a record. The other way round it would take for done what was not.
        if changed or decision.actions:
            self.runtime.settle(self.replicas, wanted)
        return decision.actions

    def _act(self, action: Action, wanted: Wanted) -> bool:
        """Carry one action out and journal it; False when it failed."""
        about = _about(action)
        if isinstance(action, Tell):
            self.journal.write(about, "note", action.reason, action.level)
            return True
        name = type(action).__name__
        error = self.runtime.act(action, self.replicas, wanted)
        deed = _DEEDS[name]
        if error:
            # The same refusal tick after tick (an idle connection holds a server for a while) is told once.
            if self._refused.get(about) != error and name not in _QUIET:
                self.journal.write(about, f"{deed} failed", error, "warning")
            self._refused[about] = error
            return False
        self._refused.pop(about, None)
        if name not in _QUIET:
            self.journal.write(about, deed, action.reason)
        return True


def _about(action: Action) -> str:
    if isinstance(action, ReplaceEdge):
        return "edge"
    return str(getattr(action, fields(action)[0].name))
