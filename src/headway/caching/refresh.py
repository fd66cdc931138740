"""When to load a value again before its time is over, so that nobody waits for it at the end.

Each reader in the last stretch throws a die, and the chance to refresh grows as the end comes nearer and with the
time a load takes: many readers refresh early, few do so late, and one alone seldom for nothing. The rule is XFetch
(Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015), with beta = 1.
"""

from __future__ import annotations

import math

BETA = 1.0
# Before this many loads from the end a throw wins less than once in e^10 (22,000): readers need not throw there.
_LOADS_AHEAD = 10.0
_SHARE_MAX = 0.5  # of a value's time that may be given away at the end, however long its load takes


def window_s(ttl_s: float, load_s: float) -> float:
    """The stretch before the end in which readers throw, in seconds."""
    return min(BETA * load_s * _LOADS_AHEAD, ttl_s * _SHARE_MAX)


def is_due(left_s: float, load_s: float, chance: float) -> bool:
    """Whether a reader with `left_s` to the end refreshes; `chance` is uniform in [0, 1)."""
    return BETA * load_s * -math.log(1.0 - chance) >= left_s
