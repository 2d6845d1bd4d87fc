"""Records on disk: a shard is a file of them, appended to by one process, read through a map.

A record is W + q + 1 little-endian words of 64 bits: the mask, q values as float64, and a check of
all before it. A shard has nothing else, so damage costs the records that it hits and no others. It
is `<name>.part` while its process appends to it, and `<name>.<records>.shard` once it is complete.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .records import Layout
from .store_manifest import sync_folder

BLOCK = 1 << 13  # records read at a time
SMALL = 1 << 18  # bytes of a shard that is read, not mapped: a map takes a file handle
PAGES = 1 << 10  # records looked up between two times that mapped pages are given back

SHARD = re.compile(r"[0-9a-f]{16}-\d+-[0-9a-f]{8}\.(part|\d+\.shard)")

sync = getattr(os, "fdatasync", os.fsync)  # which also makes the new length durable


class Writer:
    """A new shard in the folder. After an error it is done with: the next append needs another."""

    def __init__(self, folder: Path, layout: Layout):
        self.process, self.rows, self.layout = os.getpid(), 0, layout
        self.synced = 0  # records that are on disk
        self.named = False  # whether the name is
        self.stem = f"{time.time_ns():016x}-{self.process}-{secrets.token_hex(4)}"
        self.path = folder / f"{self.stem}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self.file = os.open(self.path, flags, 0o666)

    def append(self, records: np.ndarray) -> int:
        """Records are with the kernel when this returns the row of the first, so that they outlive
        this process; else that is uncertain."""
        first, left = self.rows, records.data.cast("B")
        try:
            while left:
                left = left[os.write(self.file, left) :]
        except BaseException:
            self.abandon()
            raise
        self.rows += len(records)
        return first

    def sync(self) -> None:
        """All records are on disk when this returns; else those since the last time may not be."""
        if self.synced == self.rows:
            return
        try:
            sync(self.file)
            if not self.named:
                sync_folder(self.path.parent)
        except BaseException:
            self.abandon()
            raise
        self.synced, self.named = self.rows, True

    def abandon(self) -> None:
        """Cut off a record in part, and leave no name for nothing. The disk may refuse even that.

        Whole records stay, whoever counts them: another process may have mapped them.
        """
        with contextlib.suppress(OSError):
            size = os.fstat(self.file).st_size
            os.ftruncate(self.file, size - size % (8 * self.layout.width))
        os.close(self.file)
        if not self.rows:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def seal(self) -> None:
        """The shard gets its last name, which says how many records it has. If a machine loses
        power before that is on disk, the first one still is, and the shard is read by that."""
        self.sync()
        os.close(self.file)
        whole = self.path.with_name(f"{self.stem}.{self.rows}.shard")
        os.rename(self.path, whole)
        self.path = whole


class Shard:
    """A shard as it is read.

    Attributes:
        scanned: records looked at. damaged: those of them that do not count. unfinished: records
        after them that are there in part, or not at all. complete: no more will come.
    """

    def __init__(self, path: Path, layout: Layout):
        self.path, self.layout = path, layout
        self.records = np.empty((0, layout.width), np.uint64)
        self.scanned = self.damaged = self.unfinished = 0
        self.complete, self.torn = False, False
        self.pages: mmap.mmap | None = None

    def map(self) -> None:
        """See what the file holds by now."""
        row = 8 * self.layout.width
        with self._open() as file:
            size = os.fstat(file.fileno()).st_size
            self.torn = size % row > 0
            whole = size - size % row
            if whole > SMALL:
                self.pages = mmap.mmap(file.fileno(), whole, access=mmap.ACCESS_READ)
            words = np.frombuffer(self.pages or file.read(whole), np.dtype("<u8"))
            self.records = words.reshape(-1, self.layout.width)

    def _open(self) -> BinaryIO:
        while True:
            try:
                return open(self.path, "rb")
            except FileNotFoundError:  # its writer has given it its last name, or it is gone
                name = self.path.name.split(".")[0]
                paths = list(self.path.parent.glob(f"{name}.*"))
                if not paths:
                    raise
                self.path = paths[0]

    def scan(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, keys) of the whole records that are new since the last scan. Damaged ones at the
        end of a shard in the making may be whole the next time, so they are looked at again."""
        self.map()
        first = last = self.scanned  # last: the end of the last whole record
        count = 0
        for start in range(first, len(self.records), BLOCK):
            keys, whole, _ = self.layout.check(self.records[start : start + BLOCK])
            rows = np.flatnonzero(whole)
            self.drop_pages()
            if len(rows):
                count += len(rows)
                last = start + int(rows[-1]) + 1
                yield start + rows, keys[rows]
        self.scanned = last
        self.damaged += last - first - count
        name = self.path.name.split(".")
        self.complete = name[-1] == "shard"
        promised = int(name[1]) if self.complete else 0
        self.unfinished = max(len(self.records) + self.torn, promised) - last

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Records at int64 (T,), in that order: (T, width), a copy."""
        if len(rows) and rows.max() >= len(self.records):
            self.map()
        out = np.empty((len(rows), self.layout.width), np.uint64)
        order = np.argsort(rows)
        for start in range(0, len(rows), PAGES):
            at = order[start : start + PAGES]
            out[at] = self.records[rows[at]]
            self.drop_pages()
        return out

    def drop_pages(self) -> None:
        """What has been read does not stay resident; the kernel's cache keeps it."""
        if self.pages is not None and hasattr(self.pages, "madvise"):
            self.pages.madvise(mmap.MADV_DONTNEED)


def shards_in(folder: Path) -> dict[str, Path]:
    """Name -> path of each shard, the oldest first."""
    names = sorted(name for name in os.listdir(folder) if SHARD.fullmatch(name))
    return {name.split(".")[0]: folder / name for name in names}
