"""A server that is paid by the request: many at a time, each tried again where that makes sense,
none beyond what may be spent.

The key is read from the environment when requests are sent, and is kept nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from ..errors import MissingExtra, check, check_int
from .calls import Call, Caller, ServerError
from .protocols import PROTOCOLS, Protocol

DEFAULT_KEY = "OPENAI_API_KEY"


class CostCapReached(ServerError):
    """The next request would cost more than is left to spend."""


class Server:
    """One model of one server that speaks OpenAI's completions protocol, as vLLM, SGLang and
    llama.cpp do, or one of their own.

    Args:
        url: its base URL, as "http://localhost:8000/v1".
        model: what the server calls it.
        api: "completions" for any server: labels are looked for among the `top` likeliest tokens.
            "vllm" and "sglang" have the exact log-probability of any label, "vllm-scoring" and
            "sglang-score" are their scoring routes. Answers of several tokens: not by these two,
            and by "completions" and "vllm" only of a server that echoes log-probabilities.
        key: the environment variable that holds the key; by default OPENAI_API_KEY, if it is set.
        top: for "completions". OpenAI gives 5, others more.
        prompts: in one request. concurrency: requests at a time.
        timeout: seconds that one attempt may take. attempts: of one request. pause: seconds before
            the second attempt, doubled for each further one, up to a minute, and half of it left to
            chance. A `Retry-After` of the server is heeded.
        most_tokens, most_requests: what may be spent by this object, attempts that fail included
            where the server may charge for them. A request that could exceed it is not sent.
    Raises:  TypeError, ValueError. It sends nothing.
    Attributes: spent_tokens, spent_requests: so far.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api: str = "completions",
        key: str | None = None,
        top: int = 5,
        prompts: int = 8,
        concurrency: int = 16,
        timeout: float = 60.0,
        attempts: int = 6,
        pause: float = 0.5,
        most_tokens: int | None = None,
        most_requests: int | None = None,
    ):
        self.url, self.root = _addresses(url)
        check(bool(model.strip()), "Server: model must not be blank, got {!r}", model)
        check(api in PROTOCOLS, "Server: api must be one of {}, got {!r}", list(PROTOCOLS), api)
        check(
            timeout > 0 and pause >= 0,
            "Server: timeout and pause must be positive, got {} and {}",
            *(timeout, pause),
        )
        self.model, self.api, self.key = model, api, key
        self.top = check_int("Server: top", top, 1)
        self.prompts = check_int("Server: prompts", prompts, 1)
        self.concurrency = check_int("Server: concurrency", concurrency, 1)
        self.attempts = check_int("Server: attempts", attempts, 1)
        self.timeout, self.pause = float(timeout), float(pause)
        for name, most in (("most_tokens", most_tokens), ("most_requests", most_requests)):
            if most is not None:
                check_int(f"Server: {name}", most, 0)
        self.most_tokens, self.most_requests = most_tokens, most_requests
        self.spent_tokens = self.spent_requests = 0
        self._known = False

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.api]

    def address(self, path: str) -> str:
        return self.root + path if path.startswith("/") else f"{self.url}/{path}"

    def replies(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """(i, what the i-th call's reply was read as), as they come. Calls are sent in order,
        `concurrency` at a time, and made when they are needed.

        Raises: ServerError for the first call that fails for good, or CostCapReached, once those
                under way have come in; so does Ctrl-C, and another one does not wait for them.
        """
        waiting, doing = enumerate(calls), dict[Future, int]()
        failure: BaseException | None = None
        with self._caller() as caller, _pool(self.concurrency, caller) as pool:
            while True:
                while failure is None and len(doing) < self.concurrency:
                    number, call = next(waiting, (-1, None))
                    if call is None:
                        break
                    doing[pool.submit(caller.call, call)] = number
                if not doing:
                    break
                try:
                    done, _ = wait(doing, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt as error:
                    if failure is not None:
                        raise
                    failure, done = error, set()
                    caller.stop()
                for future in done:
                    number = doing.pop(future)
                    if (failed := future.exception()) is None:
                        yield number, future.result()
                    else:
                        failure = failure or failed
                        caller.stop()
        if failure is not None:
            raise failure

    @contextlib.contextmanager
    def _caller(self) -> Iterator[Caller]:
        name = DEFAULT_KEY if self.key is None else self.key
        key = os.environ.get(name, "").strip()
        if self.key is not None and not key:
            raise ServerError(f"Server: the key is missing: {name} is not set in the environment")
        if not (key.isascii() and key.isprintable()):
            raise ServerError(f"Server: the key in {name} must be printable ASCII, and is not")
        httpx = _httpx()
        limits = httpx.Limits(max_connections=self.concurrency)
        with httpx.Client(timeout=self.timeout, limits=limits) as client:
            caller = Caller(client, _Purse(self), name, key, self.attempts, self.pause)
            if not self._known:
                caller.check_model(self.address("models"), self.model)
                self._known = True
            yield caller

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": False}

    def __repr__(self) -> str:
        return f"Server({self.url!r}, {self.model!r}, api={self.api!r})"


@contextlib.contextmanager
def _pool(threads: int, caller: Caller) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        caller.stop()
        pool.shutdown(cancel_futures=True)


class _Purse:
    """What is left to spend: taken before an attempt, given back where it cost nothing."""

    def __init__(self, server: Server):
        self.server, self.lock = server, threading.Lock()

    def take(self, tokens: int) -> None:
        server = self.server
        with self.lock:
            for name, spent, cost, most in (
                ("most_requests", server.spent_requests, 1, server.most_requests),
                ("most_tokens", server.spent_tokens, tokens, server.most_tokens),
            ):
                if most is not None and spent + cost > most:
                    raise CostCapReached(
                        f"Server: {name} = {most:,} would be exceeded: {spent:,} spent, the next "
                        f"request may cost {cost:,}. All that was paid for is kept: to go on from "
                        f"there, run or resume it again, with as much again or a larger {name}"
                    )
            server.spent_requests += 1
            server.spent_tokens += tokens

    def give_back(self, tokens: int) -> None:
        with self.lock:
            self.server.spent_tokens -= tokens


def _addresses(url: str) -> tuple[str, str]:
    """(base URL, root): the same without /v1, where servers have routes of their own."""
    parts = urlsplit(url)
    check(
        parts.username is None and parts.password is None,
        "Server: url must hold no user and no password: name an environment variable by key=",
    )
    check(
        parts.scheme in ("http", "https") and bool(parts.hostname),
        "Server: url must be like http://localhost:8000/v1, got {!r}",
        url,
    )
    check(
        not parts.query and not parts.fragment,
        "Server: url must end with its path, such as /v1, and have no query",
    )
    base = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
    return base, base.removesuffix("/v1")


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra(
            "Server: httpx is not installed; pip install spex-core[remote]"
        ) from error
    return httpx
