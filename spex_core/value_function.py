"""What a value function declares, and how it is evaluated: distinct masks, in a useful order, in
packs of a budget of tokens.

A plain callable on bool masks is the simplest value function and needs nothing of this module. One
that subclasses `ValueFunction` takes packed masks, says what a mask costs, and is never asked for
the same mask twice in a batch or for more tokens at a time than fit.
"""

from __future__ import annotations

import abc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .errors import check
from .planner import Order, arrange, cut, distinct


class ValueFunction(abc.ABC):
    """A set function of one input of one model, with its facts. Subclasses define:

    features:    names, one a feature.
    fingerprint: model, revision, dtype, input, masking and scorer in one string: equal strings mean
                 equal values, so that a store of values can be shared.
    cost:        packed masks int64 (T, W) -> int64 (T,): tokens (or what stands for them) of each.
    run:         the values of one pack: packed masks (rows, W), distinct and in the declared order,
                 -> float (rows,) or (rows, q).
    and may set, as attributes of the class or of the object:
    order:       "length" (default), "prefix" or "any": the order in which packs are cut.
    tokens:      the budget of one pack; halved, for good, where memory runs out.
    threads:     packs at a time, each on one torch thread: on a CPU, short packs gain from it.
    added:       for order = "prefix": packed masks (T, W) in lexicographic order -> int64 (T,),
                 what each costs after the one before it.
    """

    order: Order = "length"
    tokens: int = 1 << 14
    threads: int = 1
    unit: ClassVar[str] = "tokens"  # of cost

    features: Sequence[str]

    @property
    def n(self) -> int:
        """Features."""
        return len(self.features)

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str: ...

    @abc.abstractmethod
    def cost(self, masks: Tensor) -> np.ndarray: ...

    @abc.abstractmethod
    def run(self, masks: Tensor) -> Tensor | np.ndarray: ...

    def added(self, masks: Tensor) -> np.ndarray | None:
        return None

    def evaluate(self, masks: Tensor) -> np.ndarray:
        """The values of packed masks, each distinct one computed once.

        Args:    masks: packed int64 (T, W), any order, repeats allowed.
        Returns: float32 (T,), or (T, q) for q outputs.
        Raises:  what `run` raises; an out-of-memory error only where one mask alone does not fit;
                 ValueError where `run` returns another number of values than masks.
        Cost:    one pass over the tokens of the distinct masks.
        """
        masks = bits.pack_batch(type(self).__name__, masks, self.n)
        first, slot = distinct(masks)
        if not len(first):
            return np.empty(0, np.float32)
        rows = masks[torch.from_numpy(first)]
        rank = arrange(self.cost(rows), self.order)
        values = self._in_packs(rows[torch.from_numpy(rank)])
        place = np.empty(len(rank), np.int64)
        place[rank] = np.arange(len(rank))
        return values[place[slot]]

    def __call__(self, masks: np.ndarray | Tensor) -> np.ndarray:
        """bool (T, n) -> float32 (T,) or (T, q): the plain form of evaluate."""
        if isinstance(masks, Tensor) and masks.dtype == torch.int64:
            raise TypeError(f"{type(self).__name__}: masks must be bool, got packed int64")
        return self.evaluate(bits.pack_batch(type(self).__name__, masks, self.n))

    def _in_packs(self, rows: Tensor) -> np.ndarray:
        """Values of distinct masks in the order in which they stand."""
        answers: dict[int, np.ndarray] = {}  # first row of a pack -> its values

        def attempt(pack: slice) -> slice | None:
            try:
                answers[pack.start] = self._checked(rows[pack])
            except (MemoryError, RuntimeError) as error:
                if pack.stop - pack.start == 1 or not _out_of_memory(error):
                    raise
                return pack
            return None

        waiting = deque([slice(0, len(rows))])
        while waiting:
            jobs = [pack for part in waiting for pack in self._cut(rows, part)]
            failed = [pack for pack in run_threaded(attempt, jobs, self.threads) if pack]
            if failed:  # the rest is done: go on with these, in packs of half the size
                self.tokens = max(1, self.tokens // 2)
                _release_memory()
            waiting = deque(failed)
        return np.concatenate([answers[start] for start in sorted(answers)])

    def _cut(self, rows: Tensor, part: slice) -> Iterable[slice]:
        some = rows[part]
        for pack in cut(self.cost(some), self.tokens, self.added(some)):
            yield slice(part.start + pack.start, part.start + pack.stop)

    def _checked(self, rows: Tensor) -> np.ndarray:
        values = self.run(rows)
        if isinstance(values, Tensor):
            values = values.detach().float().cpu().numpy()
        values = np.asarray(values, np.float32)
        check(
            values.ndim in (1, 2) and len(values) == len(rows),
            "{}: run must return one value or one row of values per mask, shape ({},), got {}",
            *(type(self).__name__, len(rows), values.shape),
        )
        return values


def _out_of_memory(error: BaseException) -> bool:
    """Whether torch says that a device or the host has no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "DefaultCPUAllocator" in str(error)
    )


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_thread_count = threading.Lock()  # torch's thread count belongs to the process: one user at a time


def run_threaded(work: Callable[[Any], Any], jobs: Iterable[Any], threads: int) -> list[Any]:
    """[work(job) for job in jobs], `threads` of them at a time with one torch thread each.

    For sequences this short it is faster than to split each forward pass (1.1 to 1.2 times on two
    cores), and no value depends on the number of threads. torch's own count is put back.
    """
    if threads == 1:
        return [work(job) for job in jobs]
    with _thread_count:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(work, jobs))
        finally:
            torch.set_num_threads(before)
