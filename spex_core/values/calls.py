"""One request to a server, until it is answered: which failures may pass, and how long to wait.

No text that leaves this module holds the key, whatever a server or a library writes.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SpexError
from .protocols import BadReply

PATIENCE = 600.0  # seconds that a server may ask to wait
LONGEST_PAUSE = 60.0
WANTED_LATER = (408, 425, 429)  # and all from 500 on


class ServerError(SpexError, RuntimeError):
    """A server that refuses, keeps failing, or is none.

    permanent: whether asking again later would not help.
    """

    permanent = True


class ServerFailing(ServerError):
    """A server that has failed in all attempts at a request, or asks to wait for long."""

    permanent = False


class _MayPass(Exception):
    """A failure that another attempt may not meet. wait: seconds that the server asks for. free:
    whether the attempt certainly cost nothing."""

    def __init__(self, reason: str, *, wait: float = 0.0, free: bool = False):
        super().__init__(reason)
        self.wait, self.free = wait, free


@dataclass(frozen=True)
class Call:
    """A request. tokens: what it may cost. read: what to make of the reply."""

    url: str
    body: dict[str, Any]
    tokens: int
    read: Callable[[Any], Any]


class Caller:
    """Makes calls, from any number of threads.

    Args: client: of httpx. purse: has take(tokens) and give_back(tokens). variable: what the
          environment calls the key.
    """

    def __init__(
        self, client: Any, purse: Any, variable: str, key: str, attempts: int, pause: float
    ):
        self.client, self.purse = client, purse
        self.variable, self.key, self.attempts, self.pause = variable, key, attempts, pause
        self._stopped, self._resume_at = threading.Event(), 0.0
        self._chance = random.Random()

    def stop(self) -> None:
        """No further attempt, and no more waiting for one."""
        self._stopped.set()

    def call(self, call: Call) -> Any:
        """What the call's `read` makes of the reply.

        Raises: ServerError; what the purse raises.
        """
        reply = self._persist(lambda: self._paid(call), call.url)
        try:
            return call.read(reply)
        except (BadReply, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
        raise ServerError(
            self._clean(
                f"the reply of {call.url} is not of this api, {reason}; got {json.dumps(reply)}"
            )
        )

    def check_model(self, url: str, model: str) -> None:
        """Raises: ServerError unless the server lists the model, or has no list."""
        listed = self._persist(lambda: self._send("GET", url, None, missing={}), url)
        if listed == {}:
            return
        try:
            names = [entry["id"] for entry in listed["data"]]
        except (LookupError, TypeError):
            raise ServerError(
                self._clean(f"{url} is not of a server of language models: {json.dumps(listed)}")
            ) from None
        if model not in names:
            raise ServerError(
                self._clean(f"the server has no model {model!r}; it has {', '.join(names)}")
            )

    def _paid(self, call: Call) -> Any:
        self.purse.take(call.tokens)
        try:
            return self._send("POST", call.url, call.body)
        except _MayPass as failure:
            if failure.free:
                self.purse.give_back(call.tokens)
            raise
        except ServerError:
            self.purse.give_back(call.tokens)
            raise

    def _persist(self, attempt: Callable[[], Any], url: str) -> Any:
        for number in range(self.attempts):
            self._sleep(self._resume_at - time.monotonic())
            try:
                return attempt()
            except _MayPass as failure:
                reason, wait = str(failure), failure.wait
            if self._stopped.is_set() or number + 1 == self.attempts:
                break
            if wait:  # it is not for this request alone
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
            pause = min(LONGEST_PAUSE, self.pause * 2**number)
            self._sleep(wait + pause * self._chance.uniform(0.5, 1))
        raise ServerFailing(f"{url} failed {number + 1} times, the last time with {reason}")

    def _sleep(self, seconds: float) -> None:
        if seconds > 0 or self._stopped.is_set():
            self._stopped.wait(max(seconds, 0.0))
        if self._stopped.is_set():
            raise ServerFailing("stopped before another attempt")

    def _send(self, method: str, url: str, body: Any, **more: Any) -> Any:
        import httpx

        try:
            status, headers, content = self._exchange(method, url, body)
        except httpx.ConnectError as error:
            failure = _MayPass(self._clean(f"no connection: {error}"), free=True)
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as error:
            failure = _MayPass(self._clean(f"{type(error).__name__}: {error}"))
        else:
            return self._reply(status, headers, content, url, **more)
        raise failure

    def _exchange(self, method: str, url: str, body: Any) -> tuple[int, Any, bytes]:
        """The whole of it within the time limit, which httpx has for each of its parts only."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        end = time.monotonic() + self.client.timeout.read
        content = b""
        with self.client.stream(method, url, json=body, headers=headers) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > end:
                    raise TimeoutError(f"it took over {self.client.timeout.read:g} s")
            return response.status_code, response.headers, content

    def _reply(
        self, status: int, headers: Any, content: bytes, url: str, missing: Any = None
    ) -> Any:
        said = self._clean(content.decode("utf-8", "replace"))
        if status in WANTED_LATER or status >= 500:
            wait = _retry_after(headers.get("Retry-After", ""))
            if wait > PATIENCE:
                raise ServerFailing(f"{url} asks to wait {wait:,.0f} s: {said}")
            raise _MayPass(f"status {status}: {said}", wait=wait, free=True)
        if status in (401, 403):
            state = "was refused" if self.key else "is missing: it is not set"
            raise ServerError(f"the key in {self.variable} {state} ({url}, {status}): {said}")
        if status in (404, 405) and missing is not None:
            return missing
        if status != 200:
            raise ServerError(f"{url} refuses, with status {status}: {said}")
        with contextlib.suppress(ValueError):
            return json.loads(content)
        if "json" in headers.get("Content-Type", "json"):
            raise _MayPass(f"a reply that breaks off: {said}")
        raise ServerError(f"{url} is not of a server of language models: {said}")

    def _clean(self, text: str) -> str:
        """One line, not too long, without the key."""
        line = " ".join(text.split())
        if self.key:
            line = line.replace(self.key, "[key]")
        return line if len(line) <= 300 else line[:300] + " ..."


def _retry_after(text: str) -> float:
    """Seconds, given as such or as a date; 0 for anything else."""
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return seconds if 0 <= seconds < 1e9 else 0.0
    with contextlib.suppress(ValueError, TypeError):
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, (date - datetime.datetime.now(datetime.timezone.utc)).total_seconds())
    return 0.0
