"""A value function in a process of its own, which can be ended when it hangs and may die."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import check
from .workers import Start, Workers


class Isolated:
    """f in another process. A call that takes too long ends that process, and one that takes the
    process with it fails like any other; the next call starts a new one. With a Patience, the call
    is made again.

    Masks and values go through a pipe, and f once: a tenth of a millisecond a call, and seconds to
    start.

    Args:   f: any callable, bool (batch, n) -> (batch,) numbers, picklable: a function of a module,
            or an object that loads its model when it is first called.
            timeout: seconds that a call may take, the start of the process not counted; None for
            any. start: as of multiprocessing; "spawn" is safe always.
    Raises: of a call, TimeoutError; JobFailed for what f raised, or the death of its process;
            TypeError if f cannot be pickled.
    Attributes:
        fingerprint, features, picture: those of f, where it has such.
    Example: spex.proxyspex(Isolated(f, timeout=30), n=64, budget=500, patience=Patience(retries=3))
    """

    def __init__(
        self,
        f: Callable[[np.ndarray], Any],
        *,
        timeout: float | None = None,
        start: Start = "spawn",
    ):
        if not callable(f):
            raise TypeError(f"Isolated: f must be callable, got {type(f).__name__}")
        check(timeout is None or timeout > 0, "Isolated: timeout must be > 0, got {}", timeout)
        self.f, self.timeout = f, timeout
        self._workers = Workers(_Function(f), 1, start)

    @property
    def fingerprint(self) -> str | None:
        return getattr(self.f, "fingerprint", None)

    @property
    def features(self) -> Sequence[str] | None:
        return getattr(self.f, "features", None)

    @property
    def picture(self) -> Any:
        return getattr(self.f, "picture", None)

    def __call__(self, masks: np.ndarray) -> Any:
        if not self._workers.running:
            list(self._workers.each([None]))  # imports and loads, for as long as that takes
        ((_, answer),) = self._workers.each([masks], timeout=self.timeout)
        return answer

    def close(self) -> None:
        """End the process."""
        self._workers.close()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Function:
    """f, as it goes to the process; asked of nothing, it says nothing."""

    def __init__(self, f: Callable[[np.ndarray], Any]):
        self.f = f

    def __call__(self, masks: np.ndarray | None) -> Any:
        return None if masks is None else self.f(masks)
