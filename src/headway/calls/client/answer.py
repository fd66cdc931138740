"""An answer, whole, with the names that httpx gives to its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from headway.calls.meaning import retry_after_s
from headway.errors import StatusError


class Head:
    """Status and headers of an answer."""

    __slots__ = ("has_no_retry", "headers", "service", "status_code")

    def __init__(self, service: str, status_code: int, headers: Mapping[str, str], has_no_retry: bool) -> None:
        self.service = service
        self.has_no_retry = has_no_retry  # what failed has been tried as often as may be
        self.status_code = status_code
        self.headers = headers  # found by name in any case

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status_code < 300

    @property
    def is_error(self) -> bool:
        """Whether the status is one of 400 to 599."""
        return 400 <= self.status_code < 600

    @property
    def reason_phrase(self) -> str:
        """The usual words for the status; empty for one without."""
        try:
            return HTTPStatus(self.status_code).phrase
        except ValueError:
            return ""

    @property
    def encoding(self) -> str:
        """Of the text: as the answer's type says, else UTF-8."""
        for part in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = part.partition("=")
            if name.strip().lower() == "charset":
                return value.strip(" \"'") or "utf-8"
        return "utf-8"

    def refuse_errors(self) -> None:
        """StatusError when the status is no success."""
        if self.is_success:
            return
        again = retry_after_s(self.headers.get("retry-after")) if self.status_code == 503 else 0
        error = StatusError(
            self.service, f"answered {self.status_code} {self.reason_phrase}".rstrip(), self, retry_after_s=again
        )
        error.has_no_retry = self.has_no_retry
        error.come_again()
        raise error


class Answer(Head):
    """What the app of another service answered."""

    __slots__ = ("content",)

    def __init__(
        self, service: str, status_code: int, headers: Mapping[str, str], content: bytes, has_no_retry: bool = False
    ) -> None:
        super().__init__(service, status_code, headers, has_no_retry)
        self.content = content

    def __repr__(self) -> str:
        return f"<Answer [{self.status_code} {self.reason_phrase}] of {self.service}>"

    @property
    def text(self) -> str:
        """The content as text; what does not decode is replaced."""
        try:
            return self.content.decode(self.encoding, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")

    def json(self, **kwargs: Any) -> Any:
        """The content read as JSON, by `json.loads` with these arguments; ValueError when it is none."""
        return json.loads(self.content, **kwargs)

    def raise_for_status(self) -> Answer:
        """Itself; StatusError when the status is no success."""
        self.refuse_errors()
        return self
