"""Where the values of a run are kept before anybody fits them: a store, opened for its plan."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from . import store_manifest
from .errors import check
from .store import Store, check_free
from .store_manifest import Manifest

SHARE = 0.002  # of the time, at most, for syncs between two fits
TOOK = 0.005  # seconds that the first is taken to need


class Keep:
    """Values go to the kernel as they come, so that a process that is killed has lost none of them,
    and to the disk by `flush`, which every fit calls first, and now and then before.

    Args:   where: a Store, or the directory of one, new or of the same plan. manifest: of the run;
            its outputs are not compared. many: whether there may be several: a new store is then
            begun with the first values, which say how many.
    Raises: as Store.open; ValueError if a Store is of another function, or of another plan than
            this run's.
    """

    def __init__(self, where: Store | str | os.PathLike[str], manifest: Manifest, *, many: bool):
        self.manifest, self.closes = manifest, not isinstance(where, Store)
        self.store: Store | None = None
        if isinstance(where, Store):
            self.folder, self.store = where.folder, where
            _check_same(where.manifest, manifest, many)
        else:
            self.folder = Path(where)
            self._open(many)
        self._unsafe: list[
            tuple[np.ndarray, np.ndarray, np.ndarray | None]
        ] = []  # appended since the last sync
        self._failed = False  # so that what is unsafe has to be appended again
        self._last, self._took = time.perf_counter(), TOOK  # the last sync: when, seconds

    def _open(self, many: bool) -> None:
        if (self.folder / store_manifest.NAME).exists():
            outputs = store_manifest.read(self.folder).outputs if many else None
            manifest = dataclasses.replace(self.manifest, outputs=outputs)
            self.store = Store.open(self.folder, manifest)
        elif not many:
            self.store = Store.open(self.folder, self.manifest)
        else:  # what can fail fails now, not when there is something to lose
            check_free(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, "store: cannot write to it", str(self.folder))

    def news(self) -> bool:
        """Whether other processes have put something into the store since the last time."""
        if self.store is not None:
            return self.store.refresh() > 0
        begun = (self.folder / store_manifest.NAME).exists()
        if begun:  # by another process
            self._open(many=True)
        return begun

    def lookup(self, masks: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As Store.lookup_marked."""
        if self.store is None:
            none = np.zeros(len(masks), np.bool_)
            return none, np.zeros(len(masks)), none
        return self.store.lookup_marked(masks)

    def append(
        self, words: np.ndarray, values: np.ndarray, marks: np.ndarray | None = None
    ) -> None:
        """Packed masks, contiguous int64 (T, W), finite float64 (T,) or (T, q), and bool (T,):
        which of these are only bounds.

        Raises: OSError; the values are then kept in memory, and the next call tries again."""
        self._unsafe.append((words, values, marks))
        if self._failed:  # so that all of it goes out again
            self.flush()
            return
        self._failed = True
        self._begun(values).append_words(words, values, marks)
        self._failed = False
        if (time.perf_counter() - self._last) * SHARE >= self._took:
            self.flush()

    def flush(self) -> None:
        """All values are on disk when this returns. Raises: as append."""
        if not self._unsafe:
            return
        if self._failed:
            for words, values, marks in self._unsafe:
                self._begun(values).append_words(words, values, marks)
        self._failed = True
        start = time.perf_counter()
        self._begun(self._unsafe[0][1]).sync()
        self._last = time.perf_counter()
        self._took = self._last - start
        self._unsafe.clear()
        self._failed = False

    def _begun(self, values: np.ndarray) -> Store:
        """The store, which is made with the first values, if they are to say how many."""
        if self.store is None:
            outputs = values.shape[1] if values.ndim == 2 else None
            manifest = dataclasses.replace(self.manifest, outputs=outputs)
            self.store = Store.open(self.folder, manifest)
        return self.store

    def close(self) -> None:
        """Flush, and close a store that was opened here."""
        self.flush()
        if self.closes and self.store is not None:
            self.store.close()


def _check_same(there: Manifest, asked: Manifest, many: bool) -> None:
    """A store without a plan serves every plan of its function."""
    if there.algorithm is None:
        asked = Manifest(asked.fingerprint or there.fingerprint, asked.features)
    if many:
        asked = dataclasses.replace(asked, outputs=there.outputs)
    wrong = there.differences(asked)
    check(not wrong, "store: it must be of the same run, got another: {}", "; ".join(wrong))
