"""The control loop: observe → decide → act → journal, every tick. The decision is pure; this only carries it round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from headway.control.adapting import Adapted
from headway.control.decide import decide
from headway.control.journal import Journal
from headway.model.action import (
    Action,
    AssignRoute,
    BoundQueue,
    CapReplica,
    EndReplica,
    LimitReplica,
    ReplaceEdge,
    Tell,
)
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
    "CapReplica": "cap",
    "BoundQueue": "bound the queue",
    "AssignRoute": "assign a route",
    "ReplaceEdge": "replace the edge",
}
# Many, and no news to anyone: what limits and bounds mean is told by what begins and ends an overload.
_QUIET = frozenset({"LimitReplica", "CapReplica", "BoundQueue", "AssignRoute", "ForgetReplica", "RemoveReplica"})
_ADJUSTING = (LimitReplica, CapReplica, BoundQueue, Tell)
_ADJUSTED_EVERY_S = 1.0  # limits that follow the load are stored this often; a restarted edge is told anew anyway


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
        self.adapted = Adapted()
        self._unsettled = False
        self._settled_at_s = 0.0
        self._not_settled = ""  # why what is to be stored could not be
        self._refused: dict[str, str] = {}

    def tick(self) -> tuple[Action, ...]:
        """One turn; gives the actions carried out."""
        wanted = self.wanted
        self.observed = self.runtime.observe(self.replicas)
        now_s = self.runtime.now_s()
        decision = decide(self.replicas, wanted, self.observed, now_s, self.adapted)
        self.adapted = decision.adapted
        changed = decision.replicas != self.replicas
        before, self.replicas = self.replicas, dict(decision.replicas)
        for action in decision.actions:
            done = self._act(action, wanted)
            if not done and isinstance(action, EndReplica) and action.how == "ask" and action.replica in before:
                # Not told to end: remembering that it was would make it wait for a kill. (A lost kill is repeated.)
                self.replicas[action.replica] = before[action.replica]
            if not done:
                self._not_told(action)
        # After the deeds, never before: a controller that dies in between then does again what it did not finish, and
        # adopts what it started without a record. The other way round it would take for done what was not.
        adjusting = all(isinstance(action, _ADJUSTING) for action in decision.actions)
        self._unsettled = self._unsettled or bool(decision.actions)
        is_due = self._unsettled and now_s - self._settled_at_s >= _ADJUSTED_EVERY_S
        if changed or (decision.actions and not adjusting) or is_due or self._not_settled:
            self._settle(wanted, now_s)
        return decision.actions

    def _settle(self, wanted: Wanted, now_s: float) -> None:
        error = self.runtime.settle(self.replicas, wanted)
        if error and not self._not_settled:
            self.journal.write("edge", "store failed", f"{error}; tried again until it works", "warning")
        elif self._not_settled and not error:
            self.journal.write("edge", "store", "what is in force is stored again")
        self._unsettled, self._settled_at_s, self._not_settled = False, now_s, error

    def _not_told(self, action: Action) -> None:
        """What the edge or a worker was not told of is not in force: it is told again in the next tick."""
        adapted = self.adapted
        if isinstance(action, BoundQueue):
            kept = {key: b for key, b in adapted.in_force.items() if key != (action.service, action.number)}
            self.adapted = replace(adapted, in_force=kept)
        elif isinstance(action, CapReplica):
            caps = {name: cap for name, cap in adapted.caps.items() if name != action.replica}
            self.adapted = replace(adapted, caps=caps)
        elif isinstance(action, AssignRoute):
            slow = adapted.slow.get(action.service, frozenset()) ^ {action.prefix}
            self.adapted = replace(adapted, slow={**adapted.slow, action.service: slow})

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
