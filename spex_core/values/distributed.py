"""One value function in several processes, on one machine or on the many of a Ray cluster.

The masks are put in the order, and cut into the packs, in which one process would evaluate them.
A job is some consecutive packs, so each pack is what it would be there, and so is each value.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import check, check_int
from ..planner import arrange, cut, lexicographic
from ..value_function import Answers, ValueFunction
from .ray_workers import RayWorkers
from .workers import JobFailed, Start, Workers

Executor = Literal["ray", "processes"]
JOBS = 16  # for each worker: more would share prefixes less, fewer would leave some idle at the end


class Distributed(ValueFunction):
    """f, evaluated by `workers` copies of it.

    Args:
        f: a value function, which is copied to each worker; or, where it should not exist here, a
            function without arguments that makes it there, such as one that loads a model: then
            progress is in masks.
        executor: "ray": actors of Ray (extra `ray`), on the cluster that this process is connected
            to, else on this machine. An actor that dies is replaced and its job done again.
            "processes": processes of this machine, with one thread each.
        workers: copies.
        gpus, cpus: for "ray", what each takes of a machine; gpus=0.5 puts two copies on one GPU.
        start: for "processes", how they start.
    Raises:   TypeError for an f that cannot be sent; ValueError, with the masks, where it fails or
              kills DEATHS workers; MissingExtra.
    Accuracy: that of one process: packs and values are the same, unless memory runs out.
    Cost:     for each worker that of making f, and some milliseconds for each of JOBS jobs.
              close(), or a `with` block, ends the workers.
    Example:  with Distributed(functools.partial(make_f, "my/model"), workers=8, gpus=1) as f:
                  spex(f, budget=100_000)
    """

    def __init__(
        self,
        f: ValueFunction | Callable[[], ValueFunction],
        *,
        executor: Executor = "ray",
        workers: int = 2,
        gpus: float = 0.0,
        cpus: float = 1.0,
        start: Start = "spawn",
    ):
        if not (isinstance(f, ValueFunction) or callable(f)):
            raise TypeError(f"Distributed: f must be a ValueFunction or make one, got {f!r}")
        check(
            executor in ("ray", "processes"),
            "Distributed: executor must be 'ray' or 'processes', got {!r}",
            executor,
        )
        check(
            gpus >= 0 and cpus >= 0,
            "Distributed: gpus and cpus must be >= 0, got {}, {}",
            gpus,
            cpus,
        )
        self.count = check_int("Distributed: workers", workers, 1)
        self._here = f if isinstance(f, ValueFunction) else None
        work = functools.partial(_Work, f)
        self._workers: RayWorkers | Workers = (
            RayWorkers(work, self.count, num_cpus=cpus, num_gpus=gpus)
            if executor == "ray"
            else Workers(_Made(work), self.count, start)
        )
        self._censored: list[Tensor] = []

    @functools.cached_property
    def facts(self) -> _Facts:
        return _facts(self._here) if self._here else self._ask("facts")

    @property
    def features(self) -> tuple[str, ...]:
        return self.facts.features

    @property
    def picture(self) -> Any:
        return self.facts.picture

    @property
    def fingerprint(self) -> str:
        return self.facts.fingerprint

    @property
    def order(self) -> str:
        return self.facts.order

    @property
    def unit(self) -> str:
        return self._here.unit if self._here else "masks"

    @property
    def censored(self) -> Tensor:
        return torch.cat([super().censored, *self._censored])

    def cost(self, masks: Tensor) -> np.ndarray:
        """That of f where it is here; else 1 for each mask, in the unit "masks"."""
        return self._here.cost(masks) if self._here else np.ones(len(masks), np.int64)

    def stream(self, masks: Tensor) -> Answers:
        """A job at a time, as they are done."""
        if not len(masks):
            return
        rank, stops = planned(self._here, masks) if self._here else self._ask("planned", masks)
        rank, jobs = np.array(rank), jobs_of(stops, self.count)
        rows = masks[torch.from_numpy(rank)]
        try:
            given = [("values", rows[job].numpy()) for job in jobs]
            with contextlib.closing(self._workers.each(given)) as answers:
                for number, (values, bounds) in answers:
                    if len(bounds):
                        self._censored.append(torch.from_numpy(np.array(bounds)))
                    yield rank[jobs[number]], values
        except JobFailed as error:
            job = jobs[error.job]
            raise ValueError(
                f"Distributed: f failed on masks {job.start} to {job.stop - 1} of {len(rows)} in "
                f"its order: {error}"
            ) from error

    def close(self) -> None:
        """End the workers; the next evaluation would start them again."""
        self._workers.close()

    def __enter__(self) -> Distributed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, name: str, masks: Tensor | None = None) -> Any:
        ((_, answer),) = self._workers.each([(name, None if masks is None else masks.numpy())])
        return answer


@dataclass(frozen=True)
class _Facts:
    """What has to be known here of a value function that is not."""

    features: tuple[str, ...]
    fingerprint: str
    order: str
    picture: Any


def _facts(f: ValueFunction) -> _Facts:
    return _Facts(tuple(f.features), f.fingerprint, f.order, f.picture)


def planned(f: ValueFunction, masks: Tensor) -> tuple[np.ndarray, list[int]]:
    """The order in which f evaluates distinct masks, and where in it each pack ends."""
    rank = lexicographic(masks)
    rank = rank[arrange(f.cost(masks[torch.from_numpy(rank)]), f.order)]
    rows = masks[torch.from_numpy(rank)]
    return rank, [pack.stop for pack in cut(f.cost(rows), f.tokens, f.added(rows))]


def jobs_of(stops: list[int], workers: int) -> list[slice]:
    """Consecutive packs, as nearly equal in number as they can be."""
    count = min(len(stops), JOBS * workers)
    edges = [0, *(stops[(i + 1) * len(stops) // count - 1] for i in range(count))]
    return [slice(*pair) for pair in itertools.pairwise(edges)]


class _Work:
    """f in a worker: questions in, answers out."""

    def __init__(self, f: ValueFunction | Callable[[], ValueFunction]):
        self.f = f if isinstance(f, ValueFunction) else f()

    def __call__(self, job: tuple[str, np.ndarray | None]) -> Any:
        name, rows = job
        if name == "facts":
            return _facts(self.f)
        masks = torch.from_numpy(np.array(rows))  # Ray's arrays cannot be written to
        if name == "planned":
            return planned(self.f, masks)
        before = len(self.f.censored)
        values = self.f.evaluate(masks)
        return values, self.f.censored[before:].numpy()


class _Made:
    """`make` as the function of Workers, which is called there for the first time."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]):
        self.make = make
        self.made: Any = None

    def __call__(self, job: Any) -> Any:
        self.made = self.make() if self.made is None else self.made
        return self.made(job)
