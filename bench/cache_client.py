"""One process that asks a cache: `python -m bench.cache_client KIND WORK JSON`.

It says `ready` when it is warm, begins at a line on its standard input, which is the moment to begin at, and ends with
one line of JSON. Moments are those of the machine's monotonic clock, which its processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from bench.cache_board import Board
from bench.cache_peers import Origin, Peer, opened

Task = dict[str, Any]


async def begins() -> float:
    """Until the parent says so, and then until the moment that it names."""
    print("ready", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        raise SystemExit(1)
    at = float(line)
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    return at


async def near(kind: str, task: Task) -> Task:
    """One value, asked for again and again, with nothing else to do."""
    peer = await opened(kind, Origin())
    ask, plain = peer.ask, peer.plain
    if plain is not None:
        plain(7)
    else:
        await ask(7)
        await asyncio.sleep(0.3)
        await ask(7)
    at = await begins()
    count = 0
    if plain is not None:
        while time.monotonic() < at + task["seconds"]:
            for _ in range(500):
                plain(7)
            count += 500
    else:
        while time.monotonic() < at + task["seconds"]:
            for _ in range(500):
                await ask(7)
            count += 500
    return {"per_s": count / (time.monotonic() - at)}


async def shared(kind: str, task: Task) -> Task:
    """Many tasks at once, each with keys of its own, all of which the server has."""
    origin = Origin()
    peer = await opened(kind, origin)
    keys = [[number * 1000 + each for each in range(task["keys"])] for number in range(task["tasks"])]
    for mine in zip(*keys, strict=True):
        await asyncio.gather(*(peer.ask(key) for key in mine))
    await asyncio.sleep(0.3)
    loads = len(origin.began)
    at = await begins()
    until = at + task["seconds"]
    count = 0

    async def reader(mine: list[int]) -> None:
        nonlocal count
        ask = peer.ask
        while time.monotonic() < until:
            for key in mine:
                await ask(key)
                count += 1

    await asyncio.gather(*(reader(mine) for mine in keys))
    return {"per_s": count / (time.monotonic() - at), "loads": len(origin.began) - loads}


async def cold(kind: str, task: Task) -> Task:
    """Everybody wants one value that nobody has, in the same moment; several times, each time another value."""
    origin = Origin(task["load_s"])
    peer = await opened(kind, origin)
    await peer.ask(1)
    at = await begins()
    rounds = []
    for number in range(task["rounds"]):
        began = at + number * task["apart_s"]
        await asyncio.sleep(max(0.0, began - time.monotonic()))
        before = len(origin.began)
        took: list[float] = []

        async def caller(key: int, took: list[float]) -> bool:
            try:
                await peer.ask(key)
            except Exception:
                return False
            took.append(time.monotonic())
            return True

        answered = await asyncio.gather(*(caller(1000 + number, took) for _ in range(task["callers"])))
        last_s = max(took, default=began) - began
        rounds.append({"loads": len(origin.began) - before, "last_s": last_s, "errors": answered.count(False)})
    return {"rounds": rounds}


async def refresh(kind: str, task: Task) -> Task:
    """Steady readers of one value, whose time ends again and again."""
    origin = Origin(task["load_s"])
    peer = await opened(kind, origin, task["ttl_s"])
    await peer.ask(5)
    at = await begins()
    settled, until = at + 2 * task["ttl_s"], at + task["seconds"]
    took_ms: Counter[float] = Counter()  # how many calls took how long
    errors = 0

    async def reader() -> None:
        nonlocal errors
        await asyncio.sleep(random.random() * task["pause_s"])
        while (began := time.monotonic()) < until:
            try:
                await peer.ask(5)
            except Exception:
                errors += 1
            if began > settled:
                took_ms[round((time.monotonic() - began) * 1000, 1)] += 1
            await asyncio.sleep(task["pause_s"] * (0.5 + random.random()))

    await asyncio.gather(*(reader() for _ in range(task["readers"])))
    return {
        "loads": [moment for moment in origin.began if moment > settled],
        "took_ms": list(took_ms.items()),
        "errors": errors,
    }


async def killed(kind: str, task: Task) -> Task:
    """Steady readers of many values while the server goes away and comes back."""
    origin = Origin(task["load_s"])
    peer = await opened(kind, origin, task["ttl_s"])
    for key in range(task["keys"]):
        await peer.ask(key)
    at = await begins()
    until = at + task["seconds"]
    calls: list[tuple[float, float, bool]] = []

    async def reader() -> None:
        while (began := time.monotonic()) < until:
            failed = False
            try:
                await asyncio.wait_for(peer.ask(random.randrange(task["keys"])), 30)
            except Exception:
                failed = True
            calls.append((began, time.monotonic() - began, failed))
            await asyncio.sleep(task["pause_s"] * (0.5 + random.random()))

    await asyncio.gather(*(reader() for _ in range(task["readers"])))
    gone, back = at + task["gone_s"], at + task["back_s"]
    away = [call for call in calls if gone <= call[0] < back]
    limit_s = task["load_s"] + 0.05
    after = [call for call in calls if call[0] >= gone]
    return {
        "calls": len(calls),
        "calls_away": len(away),
        "loads_away": sum(gone <= moment < back for moment in origin.began),
        "errors": sum(failed for _, _, failed in after),
        "slow": sum(took > limit_s for _, took, _ in after),
        "slowest_s": max(took for _, took, _ in after),
    }


async def raced(kind: str, task: Task) -> Task:
    """Readers in this process while another invalidates; then each value is compared with what is true by now.

    The board is a file that the processes share: what is true of each key, and which part is on.
    """
    board = Board(task["board"], task["keys"])
    origin = Origin(read=board.truth)
    load = origin.load

    async def slowly(key: int) -> Any:
        value = await load(key)
        await asyncio.sleep(random.random() * task["load_max_s"])
        return value

    origin.load = slowly  # type: ignore[method-assign]
    peer = await opened(kind, origin)
    for key in range(task["keys"]):
        await peer.ask(key)
    await begins()
    reads = seen = late = 0
    while (part := board.part) != Board.OVER:
        if part == seen:
            await asyncio.sleep(0.0005)
            continue
        seen = part
        if part % 2:  # the race is on
            if task["races"]:
                reads += await _race(peer, board, part, task["keys"])
        else:
            values = await asyncio.gather(*(peer.ask(key) for key in range(task["keys"])))
            wrong = [key for key, value in enumerate(values) if value != board.truth(key)]
            late += len(wrong)
            if wrong:  # word of it may still be on its way; what is wrong a second later stays wrong
                await asyncio.sleep(1)
            for key in wrong:
                if await peer.ask(key) != board.truth(key):
                    board.mark(key, part)
        board.done(task["number"], part)
    return {"reads": reads, "late": late}


async def _race(peer: Peer, board: Board, part: int, keys: int) -> int:
    count = 0

    async def reader(key: int) -> None:
        nonlocal count
        while board.part == part:
            with contextlib.suppress(Exception):
                await peer.ask(key)
            count += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(reader(key) for key in range(keys)))
    return count


async def invalidates(kind: str, task: Task) -> Task:
    """The other side of `raced`: changes what is true, says so to the cache, waits a moment, and has all compared."""
    board = Board(task["board"], task["keys"])
    peer = await opened(kind, Origin(read=board.truth))
    forget = peer.forget
    assert forget is not None
    for key in range(task["keys"]):
        await peer.ask(key)
    await begins()

    async def change(key: int) -> None:
        # Twice: after the first somebody loads it, and the second comes while that is under way.
        await asyncio.sleep(random.random() * 0.02)
        for _ in range(2):
            board.change(key)
            await forget(key)
            await asyncio.sleep(random.random() * 2 * task["load_max_s"])

    part = stale = 0
    for number in range(task["rounds"] + 1):
        board.part = part = part + 1
        if not task["races"]:
            await board.all_done(part, task["readers"])
        await asyncio.sleep(0.01)
        await asyncio.gather(*(change(key) for key in range(task["keys"])))
        await asyncio.sleep(task["settle_s"])
        board.part = part = part + 1
        await board.all_done(part, task["readers"])
        if number:  # the first makes everybody warm
            stale += board.marked(part)
    board.part = Board.OVER
    return {"changes": task["rounds"] * task["keys"], "stale": stale}


WORKS: dict[str, Callable[[str, Task], Awaitable[Task]]] = {
    "near": near,
    "shared": shared,
    "cold": cold,
    "refresh": refresh,
    "killed": killed,
    "raced": raced,
    "invalidates": invalidates,
}

if __name__ == "__main__":
    import uvloop

    logging.disable(logging.CRITICAL)  # some tell of each call that fails
    gc.freeze()
    print(json.dumps(uvloop.run(WORKS[sys.argv[2]](sys.argv[1], json.loads(sys.argv[3])))))  # type: ignore[arg-type]
    sys.stdout.flush()
    os._exit(0)  # threads of libraries that would be waited for
