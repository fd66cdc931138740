"""The seam between deciding and doing: real processes (`local`) or a simulated world (`memory`), one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from headway.model.action import Action
from headway.model.observed import Observed
from headway.model.replica import Replica
from headway.model.wanted import Wanted


class Runtime(Protocol):
    """Where replicas live. All calls are made from one thread, the control loop's."""

    def now_s(self) -> float:
        """The loop's clock, seconds; never goes back."""

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        """Facts of this moment. Never waits longer than a fraction of a tick."""

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Carry one action out; the text of an error when it failed, else empty. It is decided anew next tick."""

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """After a tick's actions: store what a restart of the edge or of the controller needs.

        Gives the text of an error when it could not be, else empty; it is tried again next tick.
        """
