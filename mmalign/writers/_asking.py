"""Requests to a server: repeated with growing pauses where that may help, refused in one line where not."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mmalign.types import UserError

_LIMIT = 16 << 20  # bytes of an answer
_PAUSE = 60.0  # seconds, the longest pause of our own
_ASKED_PAUSE = 600.0  # the longest that a server may ask for
_AGAIN = frozenset({408, 409, 429})
_CONTENT = ("content_filter", "content_policy", "content filter", "content policy", "moderation", "safety")
"""By what servers say that a request was refused for its content and not for its form."""


@dataclass(frozen=True)
class Refused:
    """A request that the server refused for its content."""

    reason: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address would be sent the key, and would be asked without the question."""

    def redirect_request(self, *given: Any) -> None:
        return None


@dataclass(frozen=True)
class Asking:
    """A server's address, the key it wants, and how long it is waited for."""

    url: str
    key: str | None = field(repr=False)
    timeout_s: float
    retries: int
    backoff_s: float

    def knock(self) -> None:
        """See whether anybody listens at the address. Raises UserError."""
        parts = urlsplit(self.url)
        host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
            return  # somebody else reaches it
        try:
            socket.create_connection((host, port), min(self.timeout_s, 10.0)).close()
        except OSError as error:
            raise UserError(f"endpoint: url: nobody answers at {self.url} ({_words(error)})") from error

    def post(self, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """The JSON that the server answers with, or that it refused. Raises UserError if there is neither,
        and instead of waiting once `stopped` is set, because another request failed."""
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            reason, pause = "", None
            try:
                return self._once(data)
            except urllib.error.HTTPError as error:
                status, said = error.code, self._said(error)
                if status not in _AGAIN and status < 500:
                    return self._refused(status, said)
                reason, pause = f"status {status}{said}", _asked_pause(error)
            except (OSError, http.client.HTTPException) as error:  # silence, a cut connection, nobody there
                reason = _words(error)
            if attempt < self.retries:
                self._wait(attempt, pause, stopped)
        tried = f"{self.retries + 1} times" if self.retries else "once"
        raise UserError(f"endpoint: {self.url}: asked {tried} and got no answer, at last: {reason}")

    def _once(self, data: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", data, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self.timeout_s) as back:
            text = back.read(_LIMIT + 1)
        if len(text) > _LIMIT:
            raise UserError(f"endpoint: {self.url}: the answer is longer than {_LIMIT} bytes")
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(
                f"endpoint: {self.url}: the answer is no JSON; is the address right, with /v1 where needed?"
            ) from error

    def _refused(self, status: int, said: str) -> Refused:
        """Raises UserError unless the content was the reason."""
        if status in (400, 403, 422, 451) and any(word in said.lower() for word in _CONTENT):
            return Refused(f"status {status}{said}")
        hints = {
            401: "; key_env must name the variable that holds a valid key",
            403: "; key_env must name the variable that holds a valid key",
            404: "; see url and model",
        }
        raise UserError(f"endpoint: {self.url}: status {status}{said}{hints.get(status, '')}")

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What the server says of a fault, in one line and without the key."""
        try:
            text = error.read(_LIMIT).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        try:
            text = _reason(json.loads(text))
        except ValueError:
            text = ""  # a page for people
        if self.key:
            text = text.replace(self.key, "***")
        line = " ".join(text.split())
        return f" ({line[:200]})" if line else ""

    def _wait(self, attempt: int, asked: float | None, stopped: threading.Event) -> None:
        own = min(self.backoff_s * 2**attempt, _PAUSE) * random.uniform(0.75, 1.25)  # not all at once
        if stopped.wait(own if asked is None else min(asked, _ASKED_PAUSE)):
            raise UserError(f"endpoint: {self.url}: another request failed")


def _reason(tree: Any) -> str:
    """Code and message of a fault, in any of the forms that servers give them."""
    inner = tree.get("error", tree) if isinstance(tree, dict) else tree
    if not isinstance(inner, dict):
        return str(inner)
    found = [inner.get(name) for name in ("code", "type", "message", "detail")]
    return ": ".join(str(one) for one in found if isinstance(one, str) and one)


def _asked_pause(error: urllib.error.HTTPError) -> float | None:
    try:
        found = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return None  # none, or a date
    return max(0.0, found) if found == found else None


def _words(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "it was silent for too long"
    return " ".join(str(reason).split()) or type(reason).__name__
