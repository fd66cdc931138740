"""Work of an ASGI app that nobody waits for any more is cancelled, where the service is declared so.

The edge closes its connection to the worker when the client has hung up, the calling service has given up or the
deadline has passed, and the server says so to whoever receives (`http.disconnect`). Most apps do not receive again
once they have the body, so this does it for them. Nobody listens for a request that is answered quickly: to listen
costs more than a small answer does, so it begins at the second beat that finds the request at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Work:
    """One request of a service whose work is to be cancelled, made in its own `task`.

    `has_all`: of the body, so that what comes next is the client's going. `has_begun` is set when its answer begins,
    `is_cancelled` when nobody waited for that, `listening` while somebody but the app receives.
    """

    # Defaults of the class: to set each of them would be paid for by every request.
    has_begun = is_cancelled = False
    listening: asyncio.Task[Message] | None = None
    _receives = False  # the app does, at this moment
    _was_seen = False  # by an earlier look
    _early: Message | None = None  # what was received for the app before it asked

    def __init__(self, receive: Receive, has_all: bool, task: asyncio.Task[Any] | None) -> None:
        self._receive = receive
        self._has_all = has_all
        self._task = task

    def was_given_up(self) -> bool:
        """Whether the CancelledError that came is of this making alone; then it goes no further."""
        return self.is_cancelled and self._task is not None and not self._task.uncancel()

    async def receive(self) -> Message:
        """The app's."""
        if self.listening is None:
            self._receives = True
            try:
                message = await self._receive()
            finally:
                self._receives = False
        else:
            message = await self._heard(self.listening)
        if not self._has_all and message["type"] == "http.request" and not message.get("more_body"):
            self._has_all = True
        return message

    async def _heard(self, listening: asyncio.Task[Message]) -> Message:
        """What was received instead of the app, or will be."""
        early, self._early = self._early, None
        if early is not None:
            return early
        if not listening.done():
            await asyncio.wait((listening,))  # which leaves it alone when the app is cancelled here
        message = listening.result()
        if message["type"] == "http.request":
            self.listening = None
        return message

    def look(self) -> None:
        """Cancel it if nobody waits. An app that receives by itself hears of that by itself, and is left alone."""
        listening = self.listening
        if listening is not None and listening.cancelled():  # by an app that cancels whatever it finds
            listening = self.listening = None
        if listening is None:
            if self._was_seen and self._has_all and not self._receives:
                self._listen()
            self._was_seen = True
        elif listening.done() and not self.is_cancelled and listening.exception() is None:
            message = listening.result()
            if message["type"] == "http.disconnect" and self._task is not None:
                self.is_cancelled = True
                self._task.cancel()
            elif self._early is None and not message.get("more_body"):
                self._early = message  # the empty body, which the app has not asked for yet
                self._listen()

    def _listen(self) -> None:
        async def receive() -> Message:
            return await self._receive()

        self.listening = asyncio.get_running_loop().create_task(receive())

    def leave(self) -> None:
        """Nobody needs to know any more."""
        if self.listening is not None and not self.listening.cancel() and not self.listening.cancelled():
            self.listening.exception()  # looked at, so that nobody is warned of it


def look(at_work: set[Work]) -> None:
    """Called on each beat: cancel what nobody waits for, and begin to listen for those whose work takes a while."""
    for work in list(at_work):
        if work.has_begun:
            at_work.discard(work)  # what comes after the first byte is the app's own, and so is work afterwards
            work.leave()
        else:
            work.look()
