"""Processes that each do one job at a time, so that it is known which job a process died of."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing import connection
from typing import Any, Literal

import torch

from ..errors import SpexError

Start = Literal["spawn", "forkserver", "fork"]
GRACE = 5  # seconds in which a process may end by itself


class JobFailed(SpexError, RuntimeError):
    """A job raised, or its process died. job: its place among those given."""

    def __init__(self, message: str, job: int):
        super().__init__(message)
        self.job = job


class Workers:
    """`count` processes that run one function; started by the first call of `each`.

    The function goes to each process once, with whatever data it holds. Each process uses one
    thread for linear algebra.

    Args:   start: how processes start. "spawn" is safe always: a fresh interpreter, which imports
            what the function needs (seconds, once). "fork" starts at once but copies a process in
            which torch and BLAS may have threads, and a copy of a lock held by one of those hangs.
    """

    def __init__(self, function: Callable[[Any], Any], count: int, start: Start = "spawn"):
        self.function, self.count, self.start = function, count, start
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []

    def each(
        self, jobs: Sequence[Any], timeout: float | None = None
    ) -> Generator[tuple[int, Any], None, None]:
        """(i, function(jobs[i])) as they are done; the jobs are handed out in order to whichever
        process is free.

        Args:   timeout: seconds in which one of those under way must be done.
        Raises: TimeoutError; TypeError for a function that cannot be sent; JobFailed for the first
                job that is seen to fail. All processes are then ended, as they are where the caller
                stops half way, and the next call starts new ones.
        """
        if jobs and not self._processes:
            self._open()
        waiting = deque(enumerate(jobs))
        doing: dict[connection.Connection, int] = {}
        try:
            for pipe in self._pipes:
                self._next(pipe, waiting, doing)
            while doing:
                ready: Any = connection.wait(list(doing), timeout)
                if not ready:
                    raise TimeoutError(f"no answer after {timeout:g} s")
                for pipe in ready:
                    job = doing.pop(pipe)
                    answer = self._answer(pipe, job)
                    self._next(pipe, waiting, doing)
                    yield job, answer
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        """Whether there are processes."""
        return bool(self._processes)

    def close(self) -> None:
        """End the processes, whatever they do."""
        _end(self._processes, self._pipes)

    def _open(self) -> None:
        try:
            function = pickle.dumps(self.function)
        except Exception as error:
            raise TypeError(
                "workers: the function must be picklable, as one of a module is and a lambda is "
                f"not; got {error}"
            ) from error
        context: Any = multiprocessing.get_context(self.start)
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(function, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        weakref.finalize(self, _end, self._processes, self._pipes)

    def _next(self, pipe: connection.Connection, waiting: deque, doing: dict) -> None:
        if waiting:
            number, job = waiting.popleft()
            doing[pipe] = number
            with contextlib.suppress(OSError):  # its process is dead, as _answer will see
                pipe.send(job)

    def _answer(self, pipe: connection.Connection, job: int) -> Any:
        try:
            answer, error, trace = pipe.recv()
        except (EOFError, OSError):
            process = self._processes[self._pipes.index(pipe)]
            process.join(5)
            raise JobFailed(f"its process ended with exit code {process.exitcode}", job) from None
        if error is not None:
            raise JobFailed(error, job) from RuntimeError(trace)
        return answer


def _end(processes: list[Any], pipes: list[connection.Connection]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():  # it does not listen
            process.kill()
            process.join()
        process.close()
    for pipe in pipes:
        pipe.close()
    processes.clear()
    pipes.clear()


def _work(function: bytes, pipe: connection.Connection) -> None:
    """The life of a process: jobs in, answers out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    call = None
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            if call is None:
                call = pickle.loads(function)
                _one_thread()
            answer: tuple[Any, Any, Any] = call(job), None, None
        except Exception as error:
            answer = None, f"{type(error).__name__}: {error}", traceback.format_exc()
        _send(pipe, answer)


def _send(pipe: connection.Connection, answer: tuple[Any, str | None, str | None]) -> None:
    try:
        pipe.send(answer)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        pipe.send((None, f"its answer cannot be sent: {error}", ""))


def _one_thread() -> None:
    """One thread for torch and for the libraries that are loaded by now."""
    torch.set_num_threads(1)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    threadpool_limits(1)
