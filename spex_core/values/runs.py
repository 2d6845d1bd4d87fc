"""Who does which job: each worker a contiguous run of them, and those who are done help."""

from __future__ import annotations

import itertools
from collections import deque


class Runs:
    """Jobs 0, 1, ... `count` - 1 for workers who take them one at a time.

    A worker takes the jobs of its own run in order, so that neighbours, which have most in common,
    meet in one place. One whose run is empty takes the later half of the longest that is left.
    """

    def __init__(self, count: int, workers: int):
        edges = [count * i // workers for i in range(workers + 1)]
        self._runs = [deque(range(*pair)) for pair in itertools.pairwise(edges)]
        self._returned: deque[int] = deque()

    def take(self, worker: int) -> int | None:
        """The next job of a worker; None if no job is left."""
        if self._returned:
            return self._returned.popleft()
        own = self._runs[worker]
        if not own:
            longest = max(self._runs, key=len)
            for _ in range((len(longest) + 1) // 2):
                own.appendleft(longest.pop())
        return own.popleft() if own else None

    def give_back(self, job: int) -> None:
        """A job that was taken and not done: the next worker takes it."""
        self._returned.append(job)
