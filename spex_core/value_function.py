"""What a value function declares, and how it is evaluated: distinct masks, in a useful order, in
packs of a budget of tokens.

A plain callable on bool masks is the simplest value function and needs nothing of this module. One
that subclasses `ValueFunction` takes packed masks, says what a mask costs, and is never asked for
the same mask twice in a batch or for more tokens at a time than fit.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .checks import readable
from .errors import check
from .memory import freed_memory_kept
from .planner import Order, arrange, cut, distinct, lexicographic
from .transfers import up

# (rows, values) of some masks, a pack at a time; closed where the caller stops half way.
Answers = Generator[tuple[np.ndarray, np.ndarray], None, None]
AnswersThere = Generator[tuple[np.ndarray, Tensor], None, None]  # the values on a device


class ValueFunction(abc.ABC):
    """A set function of one input of one model, with its facts.

    Subclasses define features, fingerprint, cost and run, and may set the others, as attributes of
    the class or of the object.

    Attributes:
        features: names, one a feature.
        fingerprint: model, revision, dtype, input, masking and scorer in one string: equal strings
            mean equal values, so that a store of values can be shared.
        cost: packed masks int64 (T, W) -> int64 (T,): tokens (or what stands for them) of each, on
            the host, wherever the masks are.
        run: the values of one pack: packed masks (rows, W), distinct and in the declared order,
            -> float (rows,) or (rows, q). Or, where packs make no sense, stream itself.
        order: "length" (default), "prefix" or "any": the order in which packs are cut.
        tokens: the budget of one pack; halved, for good, where memory runs out.
        device: where `run` takes masks and leaves values without a detour over the host: there
            spex(f, device=) asks f by `stream_on`. None, the default: on the host alone.
        threads: packs at a time, each on one torch thread: on a CPU, short packs gain from it, and
            no value depends on the number. None: one pack at a time, on torch's threads.
        picture: of an image, the Picture that explanations show; else None.
        added: for order = "prefix": packed masks (T, W) in lexicographic order -> int64 (T,), what
            each costs after the one before it.
    """

    order: Order = "length"
    tokens: int = 1 << 14
    device: torch.device | None = None
    threads: int | None = None
    unit: str = "tokens"  # of cost
    picture: Any = None

    features: Sequence[str]

    @property
    def n(self) -> int:
        """Features."""
        return len(self.features)

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str: ...

    @property
    def censored(self) -> Tensor:
        """Packed masks int64 (c, W) of the values so far that are only bounds, those of a pack at
        the end of them when `stream` yields it. By default there are none."""
        return torch.empty(0, bits.words(self.n), dtype=torch.int64)

    @abc.abstractmethod
    def cost(self, masks: Tensor) -> np.ndarray: ...

    def run(self, masks: Tensor) -> Tensor | np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} must define run or stream")

    def added(self, masks: Tensor) -> np.ndarray | None:
        return None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """What has to hold while packs run (hooks, a mode of the model): entered once for each
        evaluation, before there are threads. By default nothing."""
        yield

    def evaluate(self, masks: Tensor) -> np.ndarray:
        """The values of packed masks, each distinct one computed once.

        Args:    masks: packed int64 (T, W), any order, repeats allowed.
        Returns: float32 (T,), or (T, q) for q outputs.
        Raises:  what `stream` raises.
        Cost:    one pass over the tokens of the distinct masks.
        """
        first, slot = distinct(bits.pack_batch(type(self).__name__, masks, self.n))
        values = np.empty(len(first), np.float32)
        with contextlib.closing(self.stream(masks[torch.from_numpy(first)])) as packs:
            for rows, part in packs:
                if values.shape[1:] != part.shape[1:]:  # the first of several outputs
                    values = np.empty((len(first), *part.shape[1:]), np.float32)
                values[rows] = part
        return values[slot]

    def __call__(self, masks: np.ndarray | Tensor) -> np.ndarray:
        """bool (T, n) -> float32 (T,) or (T, q): the plain form of evaluate."""
        dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
        if dense.dtype != np.bool_:
            raise TypeError(f"{type(self).__name__}: masks must be bool, got {dense.dtype}")
        check(
            dense.ndim == 2 and dense.shape[1] == self.n,
            "{}: masks must have shape (batch, {}), got {}",
            *(type(self).__name__, self.n, dense.shape),
        )
        return self.evaluate(bits.pack(dense))

    def stream(self, masks: Tensor) -> Answers:
        """The values of distinct packed masks (U, W), a pack at a time, as they are done.

        Yields: (rows, values): int64 (p,) and float32 (p,) or (p, q); in the declared order.
        Raises: what `run` raises; an out-of-memory error only where one mask alone does not fit;
                ValueError where `run` returns anything but finite numbers, as many for each mask.
        Memory: that of one pack (of `threads` packs), whatever U is, and some bytes a mask.
        """
        if len(masks):
            with freed_memory_kept(), self.running():
                for rows, values in self._packs(masks, self.threads):
                    yield rows, values.numpy()

    def stream_on(self, masks: Tensor) -> AnswersThere:
        """`stream` of masks that are on `device`: the values stay there, and so do the masks.

        What says which masks go together visits the host: their order, costs and what they add, and
        what `run` needs of it. `Transfers` counts that.

        Yields: (rows, values): int64 (p,) on the host, and float32 (p,) or (p, q) on the device.
        Raises: as stream; ValueError where `run` returns what is not on the device.
        """
        if len(masks):
            with self.running():
                yield from self._packs(masks, None)

    def _packs(self, masks: Tensor, threads: int | None) -> AnswersThere:
        rank, cost = lexicographic(masks), self.cost(masks)
        rank = rank[arrange(cost[rank], self.order)]
        rows = masks[up(torch.from_numpy(rank), masks.device)]
        cost, added = cost[rank], self.added(rows)
        start, outputs = 0, None

        def attempt(pack: slice) -> tuple[slice, Tensor | None]:
            try:
                return pack, self._checked(rows[pack])
            except (MemoryError, RuntimeError) as error:
                if pack.stop - pack.start == 1 or not _out_of_memory(error):
                    raise
                return pack, None

        while start < len(rows):
            left = slice(start, None)
            cuts = cut(cost[left], self.tokens, None if added is None else added[left])
            jobs = [slice(start + pack.start, start + pack.stop) for pack in cuts]
            with contextlib.closing(run_threaded(attempt, jobs, threads)) as results:
                for pack, values in results:
                    if values is None:  # go on from here in packs of half the size
                        self.tokens = max(1, min(self.tokens, int(cost[pack].sum())) // 2)
                        _release_memory()
                        break
                    outputs = values.shape[1:] if outputs is None else outputs
                    self._check_outputs(values.shape[1:], outputs)
                    start = pack.stop
                    yield rank[pack], values

    def _checked(self, rows: Tensor) -> Tensor:
        """The values of a pack, where its masks are."""
        found, name = self.run(rows), type(self).__name__
        values = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found, "f4"))
        values = values.detach().float()
        if readable(rows):
            values = values.cpu()
        check(
            values.ndim in (1, 2) and len(values) == len(rows) and values.numel() > 0,
            "{}: it must return one value or one row of values per mask, shape ({},), got {}",
            *(name, len(rows), tuple(values.shape)),
        )
        check(
            values.device == rows.device,
            "{}: values must be on the device of the masks, {}, got {}",
            *(name, rows.device, values.device),
        )
        if not bool(values.isfinite().all()):
            values = values.cpu()
            bad = ~values.isfinite().reshape(len(rows), -1).all(1)
            first = int(bad.int().argmax())
            raise ValueError(
                f"{name}: values must be finite, got {values[first].numpy()} for mask {first} of a "
                f"pack ({int(bad.sum())} of {len(rows)} are not finite)"
            )
        return values

    def _check_outputs(self, got: tuple[int, ...], before: tuple[int, ...]) -> None:
        check(
            got == before,
            "{}: it must return as many outputs for each pack, got shape {} after {}",
            *(type(self).__name__, ("masks", *got), ("masks", *before)),
        )


def _out_of_memory(error: BaseException) -> bool:
    """Whether torch says that a device or the host has no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "DefaultCPUAllocator" in str(error)
    )


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_thread_count = threading.RLock()  # torch's thread count belongs to the process: one user at a time


def run_threaded(
    work: Callable[[Any], Any], jobs: Sequence[Any], threads: int | None
) -> Generator[Any, None, None]:
    """work(job) for each job in order, `threads` of them at a time with one torch thread each; for
    None one at a time on torch's threads.

    For sequences this short it is faster than to split each forward pass (1.1 to 1.2 times on two
    cores), and no value depends on the number of threads. torch's own count is put back at the end,
    or when the iterator is closed.
    """
    if threads is None:
        yield from map(work, jobs)
        return
    with _thread_count:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(threads)
        try:
            yield from pool.map(work, jobs)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
