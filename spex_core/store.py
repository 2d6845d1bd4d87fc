"""What a run has paid for, on disk: masks and their values, in one directory.

manifest.json says what the values are values of; shards hold the records (store_shards.py). A
record is on disk before `append` returns, or, for whoever asks for less, `sync`. Several processes
may append at once, each to shards of its own. Of several records of one mask the first counts, the
oldest shard first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import store_manifest
from .errors import FormatError, check
from .planner import distinct
from .records import Layout, keys_of
from .store_index import Index
from .store_manifest import Manifest
from .store_shards import BLOCK, Shard, Writer, shards_in

SHARD_BYTES = 1 << 28  # from which on a process begins another shard
ROW_BITS = 40  # a place is a shard's number above these bits, and a row of it in them


class Store:
    """Masks and their values in a directory. Made by Store.open; as a context it closes itself.

    Attributes:
        folder, manifest: as opened.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._shape = () if manifest.outputs is None else (manifest.outputs,)
        self._layout = Layout(manifest.words, manifest.outputs or 1, manifest.identity)
        self._index = Index(self._same)
        self._shards: list[Shard] = []
        self._numbers: dict[str, int] = {}  # a shard's name -> its place there
        self._pending: list[tuple[np.ndarray, int, np.ndarray | int]] = []  # keys, shard, rows
        self._writer: Any = None  # a Writer, once there is something to write
        self._lock = threading.RLock()
        self.refresh()

    @classmethod
    def open(cls, path: str | os.PathLike[str], manifest: Manifest | None = None) -> Store:
        """The store in a directory, which is made if it is not there.

        Args:   manifest: what the values are of, and the plan of the run; None for whatever the
                store there says.
        Raises: FileNotFoundError if nothing is there and there is no manifest; FormatError for a
                directory that is not a store, a damaged manifest, or a newer format; ValueError if
                the manifest there differs, with each field that does; OSError.
        Cost:   one pass over the records.
        Memory: 16 bytes a mask, and twice that while it sorts them.
        """
        folder = Path(path)
        if not (folder / store_manifest.NAME).exists():
            _make(folder, manifest)
        there = store_manifest.read(folder)
        wrong = [] if manifest is None else there.differences(manifest)
        check(
            not wrong,
            "Store.open: manifest must be that of the store in {}, got another: {}",
            *(folder, "; ".join(wrong)),
        )
        return cls(folder, there)

    def append(
        self,
        masks: Tensor | np.ndarray,
        values: np.ndarray | Tensor,
        *,
        censored: np.ndarray | None = None,
        sync: bool = True,
    ) -> None:
        """Write values down; they are on disk when this returns.

        Args:   masks: packed int64 (T, W), or bool (T, n). values: (T,), or (T, q) for a store of q
                outputs; finite. censored: bool (T,), which of them are only bounds; None: none.
                sync: False leaves that to the next `sync`. They outlive the process all the same,
                if not a machine that loses power.
        Raises: TypeError, ValueError; OSError if they cannot be written, as on a full or read-only
                disk: then this batch is to be appended again, and all that was there stays.
        """
        words = self._words("append", masks)
        numbers, marks = self._numbers_of(values, len(words)), _marks_of(censored, len(words))
        self.append_words(words, numbers, marks, sync=sync)

    def append_words(
        self,
        words: np.ndarray,
        values: np.ndarray,
        marks: np.ndarray | None = None,
        *,
        sync: bool = False,
    ) -> None:
        """As append, of contiguous int64 (T, W) and finite float64 (T,) or (T, q), which are not
        checked, and marks bool (T,) of those that are only bounds."""
        self._check_shape(values, len(words))
        if not len(words):
            return
        marks = np.zeros(len(words), np.bool_) if marks is None else np.ascontiguousarray(marks)
        numbers = values.reshape(len(words), -1)
        records, keys = self._layout.records(words.view(np.uint64), numbers, marks)
        with self._lock:
            try:
                number, row = self._write(records, sync)
            except OSError as error:
                raise self._cannot(error) from error
            except BaseException:
                self._writer = None
                raise
            self._pending.append((keys, number, row))

    def sync(self) -> None:
        """All that this process has appended is on disk when this returns.

        Raises: OSError if it may not be: then all since the last time is to be appended again.
        """
        with self._lock:
            if not self._is_ours():
                return
            try:
                self._writer.sync()
            except OSError as error:
                raise self._cannot(error) from error
            except BaseException:
                self._writer = None
                raise

    def lookup(self, masks: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values of the masks that there are.

        Args:    masks: packed int64 (T, W), or bool (T, n); any order, repeats allowed.
        Returns: bool (T,): which there are; float64 (T,), or (T, q): their values, else NaN.
        """
        return self.lookup_marked(masks)[:2]

    def lookup_marked(
        self, masks: Tensor | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, and bool (T,): which of the values are only bounds."""
        words = self._words("lookup", masks)
        found, marks = np.zeros((2, len(words)), np.bool_)
        values = np.full((len(words), self._layout.values), np.nan)
        with self._lock:
            self._take_in()
            for start in range(0, len(words) if self._index.runs else 0, BLOCK):
                part = slice(start, start + BLOCK)
                self._look_up(words[part], found[part], values[part], marks[part])
        return found, values.reshape(-1, *self._shape), marks

    def missing(self, masks: Tensor | np.ndarray) -> np.ndarray:
        """int64 (M,): a row of each distinct mask that there is no value of, ascending."""
        found, _ = self.lookup(masks)
        rows = np.flatnonzero(~found)
        packed = bits.pack_batch("Store.missing", masks, self.manifest.n)[torch.from_numpy(rows)]
        return np.sort(rows[distinct(packed)[0]])

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """All masks bool (U, n), each once, and values (U,) or (U, q): what `known=` takes.

        Stores of the same records give the same arrays, whoever wrote them in whichever order. The
        masks are dense: for large stores see Stored and `blocks`.
        """
        parts = [(bits.unpack(masks, self.manifest.n), values) for masks, values in self.blocks()]
        parts.append((np.zeros((0, self.manifest.n), np.bool_), np.zeros((0, *self._shape))))
        masks, values = zip(*parts, strict=True)
        return np.concatenate(masks), np.concatenate(values)

    def blocks(self) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The same, some thousands at a time, masks packed int64 (rows, W)."""
        for masks, values, _ in self.blocks_marked():
            yield masks, values

    def blocks_marked(self) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
        """The same, and bool (rows,): which of the values are only bounds."""
        with self._lock:
            self._take_in()
            places = self._index.places()
        for start in range(0, len(places), BLOCK):
            with self._lock:
                records = self._read(places[start : start + BLOCK])
            _, whole, marked = self._layout.check(records)
            records, marks = records[whole], marked[whole]
            masks = np.ascontiguousarray(records[:, : self._layout.words]).view(np.int64)
            values = self._layout.values_of(records)
            yield torch.from_numpy(masks), values.reshape(-1, *self._shape), marks

    def __len__(self) -> int:
        """Distinct masks."""
        with self._lock:
            self._take_in()
            return len(self._index.places())

    @property
    def damaged(self) -> int:
        """Records found damaged, torn or gone when the shards were read. They do not count: their
        masks are missing unless there is another record of them."""
        return sum(shard.damaged + shard.unfinished for shard in self._shards)

    @property
    def shards(self) -> int:
        """Files of records."""
        return len(self._shards)

    def refresh(self) -> int:
        """See what other processes have written since the last time: how many records."""
        count = 0
        with self._lock:
            ours = self._writer.stem if self._is_ours() else None
            for name, path in shards_in(self.folder).items():
                number = self._number(name, path) if name != ours else None
                if number is None or self._shards[number].complete:
                    continue
                for rows, keys in self._shards[number].scan():
                    self._pending.append((keys, number, rows))
                    count += len(rows)
        return count

    def close(self) -> None:
        """Give the shard of this process its last name. A later append begins another."""
        with self._lock:
            self.sync()
            self._seal()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_ours(self) -> bool:
        """Whether there is a writer, and not of a process that this one was forked from."""
        return self._writer is not None and self._writer.process == os.getpid()

    def _number(self, name: str, path: Path) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._shards)
            self._shards.append(Shard(path, self._layout))
        return self._numbers[name]

    def _seal(self) -> None:
        writer, self._writer = self._writer if self._is_ours() else None, None
        if writer is not None:
            writer.seal()
            self._shards[self._numbers[writer.stem]].path = writer.path

    def _write(self, records: np.ndarray, sync: bool) -> tuple[int, int]:
        """The shard's number and the first row of the records there."""
        if self._writer is not None and 8 * self._layout.width * self._writer.rows >= SHARD_BYTES:
            self._seal()
        if not self._is_ours():
            self._writer = Writer(self.folder, self._layout)
        writer = self._writer
        row = writer.append(records)
        if sync:
            writer.sync()
        number = self._number(writer.stem, writer.path)
        self._shards[number].scanned = writer.rows
        return number, row

    def _cannot(self, error: OSError) -> OSError:
        """What to raise instead, now that the shard is done with."""
        self._writer = None
        return OSError(
            error.errno,
            f"Store: cannot write to the store ({error.strerror}); the values of this batch, and "
            "others since the last sync, are not safe, all earlier ones are: append them again, or "
            "open the store again, when the disk can be written to",
            str(self.folder),
        )

    def _take_in(self) -> None:
        """What has been appended or scanned goes into the index when it is first asked for."""
        if self._pending:
            keys, places = zip(
                *((keys, _places(number, rows, keys)) for keys, number, rows in self._pending),
                strict=True,
            )
            self._pending = []
            self._index.add(np.concatenate(keys), np.concatenate(places))

    def _look_up(
        self, words: np.ndarray, found: np.ndarray, values: np.ndarray, marks: np.ndarray
    ) -> None:
        for asked, places in self._index.find(keys_of(words)):
            new = ~found[asked]
            asked, records = asked[new], self._read(places[new])
            same = (records[:, : self._layout.words] == words[asked]).all(1)
            _, whole, marked = self._layout.check(records)
            same &= whole
            found[asked[same]] = True
            values[asked[same]] = self._layout.values_of(records[same])
            marks[asked[same]] = marked[same]

    def _same(self, places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Whether two places have the same mask, and neither is damaged since it was scanned."""
        parts = [np.empty(0, np.bool_)]
        for start in range(0, len(places), BLOCK):
            block = slice(start, start + BLOCK)
            one, other = self._read(places[block]), self._read(others[block])
            same = (one[:, : self._layout.words] == other[:, : self._layout.words]).all(1)
            parts.append(same & self._layout.check(one).whole & self._layout.check(other).whole)
        return np.concatenate(parts)

    def _read(self, places: np.ndarray) -> np.ndarray:
        """The records there: uint64 (T, width)."""
        shard, row = places >> ROW_BITS, places & ((1 << ROW_BITS) - 1)
        records = np.empty((len(places), self._layout.width), np.uint64)
        for number in np.unique(shard):
            at = np.flatnonzero(shard == number)
            records[at] = self._shards[number].read(row[at])
        return records

    def _words(self, where: str, masks: Tensor | np.ndarray) -> np.ndarray:
        packed = bits.pack_batch(f"Store.{where}", masks, self.manifest.n).cpu().numpy()
        words = np.ascontiguousarray(packed).view(np.uint64)
        if spare := -self.manifest.n % 64:
            check(
                not (words[:, -1] >> np.uint64(64 - spare)).any(),
                "Store.{}: masks must have no bit beyond feature {}, got one",
                *(where, self.manifest.n - 1),
            )
        return words

    def _numbers_of(self, values: Tensor | np.ndarray, count: int) -> np.ndarray:
        """float64 (count,) or (count, q)."""
        if isinstance(values, Tensor):
            values = values.detach().double().cpu().numpy()
        values = np.asarray(values)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"Store.append: values must be real numbers, got {values.dtype}")
        self._check_shape(values, count)
        numbers = np.ascontiguousarray(values, np.float64)
        if not np.isfinite(numbers).all():
            bad = np.flatnonzero(~np.isfinite(numbers).reshape(count, -1).all(1))
            raise ValueError(
                f"Store.append: values must be finite, got {values[bad[0]]} for mask {bad[0]} "
                f"({len(bad)} of {count} are not finite)"
            )
        return numbers

    def _check_shape(self, values: np.ndarray, count: int) -> None:
        if values.shape != (count, *self._shape):
            raise ValueError(
                f"Store.append: values must have shape {(count, *self._shape)}, got "
                f"{values.shape} (the manifest says outputs = {self.manifest.outputs})"
            )


def _marks_of(censored: np.ndarray | None, count: int) -> np.ndarray | None:
    if censored is None:
        return None
    marks = np.asarray(censored)
    check(
        marks.dtype == np.bool_ and marks.shape == (count,),
        "Store.append: censored must be bool ({},), got {} {}",
        *(count, marks.dtype, marks.shape),
    )
    return marks


def _places(number: int, rows: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Of rows of a shard, or of as many as there are keys from one row on."""
    if isinstance(rows, int):
        rows = np.arange(rows, rows + len(keys))
    return (number << ROW_BITS) + rows


def check_free(folder: Path) -> None:
    """Raise FormatError unless the folder is a store, empty, or not there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FormatError(f"Store.open: {folder} is not a directory")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not name.startswith(f".{store_manifest.NAME}")]
    if store_manifest.NAME not in names and foreign:
        raise FormatError(
            f"Store.open: {folder} is not a store: it has no {store_manifest.NAME} but "
            f"{', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}"
        )


def _make(folder: Path, manifest: Manifest | None) -> None:
    """A new store, unless another process has made one meanwhile."""
    check_free(folder)
    if manifest is None:
        raise FileNotFoundError(f"Store.open: no store in {folder}; a manifest would make one")
    folder.mkdir(parents=True, exist_ok=True)
    store_manifest.create(folder, manifest)
    store_manifest.sync_folder(folder.resolve().parent)
