"""How often a tier that is full has what is asked for: the in-process tier's rule, replayed on traces.

`BENCH_BLOCK_TRACE=FILE` adds a trace of one's own, a key a line; that of the figures we publish is
`cloudPhysicsIO.txt` from libCacheSim, blocks that a virtual disk was asked for.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from headway.caching.eviction import FREQ_MAX, Held, S3Fifo

SHARES = (0.001, 0.01, 0.1)  # of the keys that there are, for which there is room
REQUESTS, KEYS = 300_000, 100_000
QUICK_REQUESTS, QUICK_KEYS = 60_000, 20_000
SCAN = 500
_NEVER = 1 << 60


def run(quick: bool = False) -> str:
    """The table in Markdown."""
    traces = made(*((QUICK_REQUESTS, QUICK_KEYS) if quick else (REQUESTS, KEYS)))
    path = os.environ.get("BENCH_BLOCK_TRACE")
    if path:
        names: dict[str, int] = {}
        lines = Path(path).read_text().split()
        traces = {f"block trace ({Path(path).stem})": [names.setdefault(line, len(names)) for line in lines], **traces}
    rows = ["| | " + " | ".join(traces) + " |", "|---|" + "---|" * len(traces)]
    for label, hits in RULES.items():
        cells = []
        for trace in traces.values():
            unique = len(set(trace))
            rooms = [max(10, round(unique * share / 10) * 10) for share in SHARES]
            cells.append(" / ".join(f"{hits(trace, room) / len(trace) * 100:.1f}" for room in rooms))
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def made(requests: int, keys: int) -> dict[str, list[int]]:
    """Traces that everybody can make again."""
    chance = random.Random(1)
    return {
        "Zipf 0.9": zipf(requests, keys, 0.9, chance),
        "Zipf 1.0 + 20 % scan": with_scans(zipf(round(requests * 0.8), keys, 1.0, chance)),
    }


def zipf(requests: int, keys: int, skew: float, chance: random.Random) -> list[int]:
    """Keys of which the second is asked for half as often as the first, and so on, for a skew of 1."""
    weights = list(itertools.accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    return [bisect.bisect(weights, chance.random() * weights[-1]) for _ in range(requests)]


def with_scans(trace: Sequence[int]) -> list[int]:
    """After each 4 x 500 requests 500 for keys that nobody asks for again."""
    fresh = itertools.count(1 << 40)
    found: list[int] = []
    for start in range(0, len(trace), 4 * SCAN):
        found += trace[start : start + 4 * SCAN]
        found += itertools.islice(fresh, SCAN)
    return found


def headway(trace: Sequence[int], room: int) -> int:
    """The tier as the client uses it; values of 1,000 bytes."""
    tier: S3Fifo[Held] = S3Fifo(room * 1000)
    hits = 0
    for key in trace:
        name = b"%d" % key
        entry = tier.entries.get(name)
        if entry is None:
            tier.insert(Held(name, 1000))
        else:
            hits += 1
            if entry.freq < FREQ_MAX:
                entry.freq += 1
    return hits


def reference(trace: Sequence[int], room: int) -> int:
    """S3-FIFO as its paper writes it down (Yang et al., SOSP 2023), for values of one size."""
    small: deque[int] = deque()
    main: deque[int] = deque()
    ghost: OrderedDict[int, None] = OrderedDict()
    freq: dict[int, int] = {}
    main_max, ghost_max = room - int(room * 0.1), int(room * 0.9)

    def evict() -> None:
        if len(main) > main_max or not small:
            while True:
                key = main.popleft()
                if not freq[key]:
                    del freq[key]
                    return
                freq[key] -= 1
                main.append(key)
        while small:
            key = small.popleft()
            if freq[key] > 1:
                freq[key] = 0
                main.append(key)
                continue
            del freq[key]
            ghost[key] = None
            if len(ghost) > ghost_max:
                ghost.popitem(last=False)
            return

    hits = 0
    for key in trace:
        if key in freq:
            hits += 1
            freq[key] = min(freq[key] + 1, 3)
            continue
        was_there = key in ghost
        ghost.pop(key, None)
        while len(small) + len(main) >= room:
            evict()
        freq[key] = 0
        (main if was_there else small).append(key)
    return hits


def lru(trace: Sequence[int], room: int) -> int:
    """The least recently used goes."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in held:
            hits += 1
            held.move_to_end(key)
            continue
        if len(held) >= room:
            held.popitem(last=False)
        held[key] = None
    return hits


def optimum(trace: Sequence[int], room: int) -> int:
    """Belady's: who knows the future lets go what is asked for last."""
    following = [_NEVER] * len(trace)
    seen: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        following[at] = seen.get(trace[at], _NEVER)
        seen[trace[at]] = at
    held: dict[int, int] = {}
    queue: list[tuple[int, int]] = []
    hits = 0
    for at, key in enumerate(trace):
        if key in held:
            hits += 1
        elif len(held) >= room:
            while True:
                when, goes = heapq.heappop(queue)
                if held.get(goes) == -when:
                    del held[goes]
                    break
        held[key] = following[at]
        heapq.heappush(queue, (-following[at], key))
    return hits


RULES: dict[str, Callable[[Sequence[int], int], int]] = {
    "optimum (Belady)": optimum,
    "S3-FIFO, written from its paper": reference,
    "Headway's tier": headway,
    "LRU": lru,
}

if __name__ == "__main__":
    print(run())
