"""How many transactions are at work on a server at once, bounded over all processes of this machine.

A database that everybody comes to at once locks up; twice its cores at work, and the others waiting in order, is
where it does most. The bound must hold over processes that know nothing of each other and die without a word. So a
permit is a lock on one byte of a shared file, taken by open file description (fcntl, F_OFD_SETLK): the kernel keeps
them, and gives back at once what a killed process held. Everything else here is a hint, and may be lost:

- Who waits in this process waits in order. A permit that comes back goes to the next of them without the kernel.
- After `_TURN_S` of that a process gives it up, if another one has none and waits: it says so by a byte in the file.
- Whoever gives one up writes to a named pipe, which those without one listen to; and they look by themselves, too.

Outside of Headway (no shared folder) the bound is the process's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from headway.errors import DatabaseBusy, MachineError

PERMITS_MAX = 1024
WAITERS_MAX = 2000  # of a process: more than that will not be served within any patience
_ROWS = 512  # one a process: a byte that says "I wait and have none"
_ROW_LOCKS = 4096  # where their locks begin, behind those of the permits
_TURN_S = 0.05
_PAUSE_S = 0.003  # for others to take what was given up
_LOOK_S = 0.01
_IDLE_S = 5.0
# struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")
_TAKE = {start: _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0) for start in range(64)}
_FREE = {start: _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0) for start in range(64)}
_SETLK: int = getattr(fcntl, "F_OFD_SETLK", 37)


def _flock(kind: int, start: int) -> bytes:
    known = (_TAKE if kind == fcntl.F_WRLCK else _FREE).get(start)
    return known or _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0)


class Waiter:
    """One who waits; `wake` is called by whichever thread has a permit for it. RuntimeError: nobody is there."""

    __slots__ = ("permit", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.permit = -1

    def give(self, permit: int) -> bool:
        self.permit = permit
        try:
            self.wake()
        except RuntimeError:  # its event loop is closed
            self.permit = -1
            return False
        return True


class Permits:
    """The permits of one server. Safe to use from any thread; after a fork the child begins with none."""

    def __init__(self, name: str, most: int, folder: Path | None) -> None:
        self.name = name
        self.most = max(1, min(most, PERMITS_MAX))
        self._folder = folder
        self._file = self._pipe = -1
        self._begin()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """The parent's locks are on descriptors that the child has as well, and would outlive the parent with them."""
        for descriptor in (self._file, self._pipe):
            if descriptor >= 0:
                os.close(descriptor)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiters: deque[Waiter] = deque()
        self._turn_ends_s: dict[int, float] = {}  # by permit that this process holds
        self._not_before_s = 0.0
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._file = self._pipe = self._row = -1
        self._shared: mmap.mmap | None = None
        self._next = 0

    def _open(self) -> None:
        """The shared file and pipe, when they are first needed: a process that never asks holds nothing open."""
        assert self._folder is not None
        place = self._folder / f"{self.name}.permits"
        try:
            self._file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._file).st_size < _ROWS:
                os.ftruncate(self._file, _ROWS)
            self._shared = mmap.mmap(self._file, _ROWS)
            pipe = self._folder / f"{self.name}.freed"
            with contextlib.suppress(FileExistsError):
                os.mkfifo(pipe, 0o600)
            self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise MachineError(
                f"the permits of server {self.name} cannot be shared: {place}: {error.strerror}",
                hint="Is the run folder gone? headway up makes it again.",
            ) from error
        for row in range(_ROWS):
            if self._set(fcntl.F_WRLCK, _ROW_LOCKS + row):
                self._row = row
                self._shared[row] = 0
                break
        # Processes that start together begin at different permits and so do not try the same ones.
        self._next = self._row % self.most if self._row >= 0 else 0

    def _set(self, kind: int, start: int) -> bool:
        try:
            fcntl.fcntl(self._file, _SETLK, _flock(kind, start))
        except (BlockingIOError, PermissionError):
            return False
        return True

    # -- taking and giving back -----------------------------------------------------------------------------------

    def take(self) -> int:
        """A permit at once, or -1."""
        with self._lock:
            return -1 if self._waiters else self._take()

    def _take(self) -> int:
        held = self._turn_ends_s
        if len(held) >= self.most:
            return -1
        if self._folder is None:
            permit = next(number for number in range(self.most) if number not in held)
            held[permit] = 0.0
            return permit
        if self._file < 0:
            self._open()
        for step in range(self.most):
            permit = (self._next + step) % self.most
            if permit not in held and self._set(fcntl.F_WRLCK, permit):
                self._next = permit
                held[permit] = time.monotonic() + _TURN_S
                return permit
        return -1

    def give_back(self, permit: int) -> None:
        """End a transaction's turn: to the next who waits here, or to whoever wants it."""
        with self._lock:
            self._give_back(permit)

    def _give_back(self, permit: int) -> None:
        waiters = self._waiters
        if waiters:
            if self._folder is None or time.monotonic() < self._turn_ends_s[permit] or not self._others_wait():
                while waiters:
                    if waiters.popleft().give(permit):
                        return
            else:
                self._not_before_s = time.monotonic() + _PAUSE_S
        self._turn_ends_s.pop(permit, None)
        if self._folder is None:
            return
        self._set(fcntl.F_UNLCK, permit)
        assert self._shared is not None
        if self._shared.find(b"\1") >= 0:
            with contextlib.suppress(OSError):  # full: they have been told often enough
                os.write(self._pipe, b"\1")
        if waiters:
            self._wanted.set()

    def _others_wait(self) -> bool:
        """Whether a living process waits that has no permit; clears the word of one that has died."""
        assert self._shared is not None
        row = -1
        while (row := self._shared.find(b"\1", row + 1)) >= 0:
            if row == self._row:
                continue
            if not self._set(fcntl.F_WRLCK, _ROW_LOCKS + row):
                return True
            self._shared[row] = 0
            self._set(fcntl.F_UNLCK, _ROW_LOCKS + row)
        return False

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, wake: Callable[[], object]) -> Waiter:
        """Queue for a permit; DatabaseBusy when too many do already. End it by `leave`."""
        waiter = Waiter(wake)
        with self._lock:
            if len(self._waiters) >= WAITERS_MAX:
                raise DatabaseBusy(
                    f"server {self.name} is busy: {WAITERS_MAX} transactions wait in this process alone",
                    hint="Fewer requests at once, quicker transactions, or more servers: headway walls",
                )
            permit = -1 if self._waiters else self._take()  # one may have come back just now
            if permit < 0:
                self._waiters.append(waiter)
                self._look_out()
            else:
                waiter.give(permit)
        return waiter

    def leave(self, waiter: Waiter) -> int:
        """Stop waiting: the permit that it has, which is the caller's from now on, or -1."""
        with self._lock, contextlib.suppress(ValueError):
            if waiter.permit < 0:
                self._waiters.remove(waiter)
        return waiter.permit

    @property
    def at_work(self) -> int:
        """Permits that this process holds."""
        return len(self._turn_ends_s)

    @property
    def waiting(self) -> int:
        """How many wait in this process."""
        return len(self._waiters)

    def _look_out(self) -> None:
        """Have the thread look for a permit of another process's; it lives for as long as there is need of it."""
        self._wanted.set()
        if self._thread is None and self._folder is not None:
            self._thread = threading.Thread(target=self._watch, name=f"headway-permits-{self.name}", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while True:
            if not self._wanted.wait(_IDLE_S):
                with self._lock:
                    if not self._wanted.is_set():
                        self._thread = None
                        return
            pause_s = self._not_before_s - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
            with self._lock:
                self._serve()
                if not self._waiters:
                    self._tell(0)
                    self._wanted.clear()
                    continue
                has_none = not self._turn_ends_s
                self._tell(int(has_none))
            if has_none:
                if self._is_told():
                    with contextlib.suppress(OSError):
                        os.read(self._pipe, 1)
            else:
                time.sleep(_LOOK_S)  # those that are held serve the queue; another one is taken when it lies free

    def _is_told(self) -> bool:
        """Whether one was given up, within a moment. By poll: select takes no descriptor above 1023, and an app with
        as many clients has none below."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(_LOOK_S * 1000))

    def _serve(self) -> None:
        if time.monotonic() < self._not_before_s:
            return
        while self._waiters and (permit := self._take()) >= 0:
            while self._waiters:
                if self._waiters.popleft().give(permit):
                    break
            else:
                self._give_back(permit)

    def _tell(self, waits: int) -> None:
        if self._shared is not None and self._row >= 0:
            self._shared[self._row] = waits
