"""Actors of Ray that each do one job at a time; one that dies is replaced, and its job done again.

The counterpart of workers.py on many machines.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from ..errors import MissingExtra, SpexError
from .runs import Runs
from .workers import JobFailed

DEATHS = 3  # of actors at one job, or while they start: from then on it is an error
NOTHING: Any = object()  # the job of an actor that is starting


class RayWorkers:
    """`count` actors, each with what `make` returns there; started by the first call of `each`.

    Args: make: () -> a function of a job. It goes to each actor once, with whatever data it holds.
          timeout: seconds that the first actor may take to be ready.
          options: for Ray, of each actor: num_cpus, num_gpus (0.5 puts two on one GPU), resources.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Any], Any]],
        count: int,
        *,
        timeout: float = 600.0,
        **options: Any,
    ):
        self.make, self.count, self.timeout, self.options = make, count, timeout, options
        self._ray: Any = None
        self._owner = False
        self._actors: list[Any] = []

    def each(self, jobs: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """(i, function(jobs[i])) as they are done.

        Raises: JobFailed for the first job that raises, or that DEATHS actors died at, once the
                jobs under way are done; SpexError where no actor can be started.
        """
        self._open()
        runs, deaths, left, failure = Runs(len(jobs), self.count), Counter[Any](), len(jobs), None
        doing = {actor.ready.remote(): (i, NOTHING) for i, actor in enumerate(self._actors)}
        free: set[int] = set()
        lost = self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError
        while left:
            reference = self._first(doing)
            place, job = doing.pop(reference)
            free.add(place)
            value, problem = None, None
            try:
                value, problem = self._ray.get(reference)
                done = job is not NOTHING and problem is None
            except lost as error:
                free.remove(place)
                doing[self._start(place)] = (place, NOTHING)
                deaths[job] += 1
                done = False
                if deaths[job] == DEATHS:
                    problem = f"{DEATHS} actors died of it: {error}"
                elif job is not NOTHING:
                    runs.give_back(job)
            if problem is not None:
                failure = failure or _failure(job, problem)
            for idle in sorted(free) if failure is None else ():
                if (following := runs.take(idle)) is not None:
                    free.remove(idle)
                    doing[self._actors[idle].do.remote(jobs[following])] = (idle, following)
            if done:  # the actors are busy again while the caller takes it
                left -= 1
                yield job, value
            if failure is not None and all(job is NOTHING for _, job in doing.values()):
                raise failure

    def close(self) -> None:
        """End the actors, whatever they do, and Ray if it was started for them."""
        if self._actors and self._ray.is_initialized():
            for actor in self._actors:
                self._ray.kill(actor)
        self._actors = []
        if self._owner:
            self._ray.shutdown()
        self._owner = False

    def _first(self, doing: dict[Any, tuple[int, Any]]) -> Any:
        """The next reference that is done. Jobs may take their time; starting may not."""
        starting = all(job is NOTHING for _, job in doing.values())
        done, _ = self._ray.wait(list(doing), timeout=self.timeout if starting else None)
        if not done:
            raise SpexError(
                f"RayWorkers: no actor was ready within {self.timeout:g} s: does the cluster have "
                f"what each of {self.count} asks for, {self.options}?"
            )
        return done[0]

    def _open(self) -> None:
        if self._actors:
            return
        self._ray = _ray()
        if not self._ray.is_initialized():
            self._owner = True
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        self._made = self._ray.put(self.make)  # a TypeError where it cannot be sent
        self._actors = [None] * self.count
        for place in range(self.count):
            self._start(place)

    def _start(self, place: int) -> Any:
        """A new actor in that place; the reference that is done when it is ready."""
        remote = self._ray.remote(_Actor)
        self._actors[place] = remote.options(**self.options).remote(self._made, self.options)
        return self._actors[place].ready.remote()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("RayWorkers cannot be pickled")


class _Actor:
    """Lives in a process of its own."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], options: dict[str, Any]):
        torch.set_num_threads(max(1, int(options.get("num_cpus", 1))))
        self.make = make
        self.function: Any = None

    def ready(self) -> tuple[None, str | None]:
        """Once the function is made; or what went wrong."""
        try:
            self.function = self.make() if self.function is None else self.function
        except Exception as error:
            return None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        return None, None

    def do(self, job: Any) -> tuple[Any, str | None]:
        """The answer, or what went wrong."""
        try:
            return self.function(job), None
        except Exception as error:
            return None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def _failure(job: Any, problem: str) -> SpexError:
    if job is NOTHING:
        return SpexError(f"RayWorkers: actors cannot be started, {problem}")
    return JobFailed(problem, job)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            "RayWorkers: ray is not installed; pip install spex-core[ray]"
        ) from error
    return ray
