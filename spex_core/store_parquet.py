"""A store as one Parquet file, for pandas, Spark and the like, and back.

Columns: `mask`, the packed bits as bytes, feature j being bit j % 8 of byte j // 8; then `value`,
or `value_0`, `value_1`, ... for several outputs, in float64; then `censored`, whether the value is
only a bound; a file without that column has none. The manifest is in the metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import FormatError, MissingExtra, check
from .store import Store
from .store_manifest import Manifest, sync_folder

KEY = b"spex_store"
CENSORED = "censored"
ROWS = 1 << 16  # read at a time


def export_parquet(store: Store, path: str | os.PathLike[str]) -> int:
    """Write each mask of a store and its values to one Parquet file, whole or not at all.

    Returns: how many.
    Raises:  MissingExtra without pyarrow; OSError.
    Memory:  that of some thousand records, whatever the store holds.
    """
    arrow, parquet = _pyarrow()
    path, count = Path(path), 0
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema = _schema(arrow, store.manifest)
    try:
        with open(unfinished, "wb") as file:
            with parquet.ParquetWriter(file, schema, write_page_checksum=True) as writer:
                for masks, values, marks in store.blocks_marked():
                    packed = [None, arrow.py_buffer(masks.numpy())]
                    kind = schema.field("mask").type
                    columns = [arrow.FixedSizeBinaryArray.from_buffers(kind, len(masks), packed)]
                    columns += list(np.ascontiguousarray(values.reshape(len(masks), -1).T))
                    columns.append(marks)
                    writer.write_batch(arrow.record_batch(columns, schema=schema))
                    count += len(masks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.resolve().parent)
    return count


def import_parquet(store: Store, path: str | os.PathLike[str]) -> int:
    """Append what a Parquet file has and the store has not, from any run on the same value
    function.

    Returns: how many.
    Raises:  MissingExtra without pyarrow; OSError; FormatError if export_parquet has not written
             it, or it is damaged; ValueError if its fingerprint, features or outputs are not those
             of the store, or a value is not finite.
    """
    arrow, parquet = _pyarrow()
    added = 0
    with open(path, "rb") as raw:
        try:
            file = parquet.ParquetFile(raw, page_checksum_verification=True)
            there = Manifest(**json.loads((file.schema_arrow.metadata or {})[KEY]))
            check(_has_columns(file.schema_arrow, _schema(arrow, there)), "it has other columns")
        except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"import_parquet: {path} is damaged or not an exported store ({error})"
            ) from error
        wrong = _values_of(there).differences(_values_of(store.manifest))
        check(
            not wrong,
            "import_parquet: {} must hold values of the store's function, got others: {}",
            *(path, "; ".join(wrong)),
        )
        for batch in _batches(arrow, file, path):
            added += _append(store, batch)
    return added


def _batches(arrow: Any, file: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(ROWS)
    except (arrow.ArrowException, OSError) as error:
        raise FormatError(f"import_parquet: {path} is damaged ({error})") from error


def _append(store: Store, batch: Any) -> int:
    manifest = store.manifest
    raw = np.frombuffer(b"".join(batch.column("mask").to_pylist()), "<i8")
    masks = torch.from_numpy(raw.reshape(-1, manifest.words).copy())
    values = np.stack([batch.column(name).to_numpy() for name in _columns(manifest)], axis=1)
    marks = np.zeros(len(masks), np.bool_)
    if CENSORED in batch.schema.names:
        marks = batch.column(CENSORED).to_numpy(zero_copy_only=False)
    rows = store.missing(masks)
    store.append(
        masks[torch.from_numpy(rows)],
        values[rows] if manifest.outputs else values[rows, 0],
        censored=marks[rows],
    )
    return len(rows)


def _schema(arrow: Any, manifest: Manifest) -> Any:
    columns = [(name, arrow.float64()) for name in _columns(manifest)]
    about = {KEY: json.dumps(dataclasses.asdict(manifest)).encode()}
    columns = [("mask", arrow.binary(8 * manifest.words)), *columns, (CENSORED, arrow.bool_())]
    return arrow.schema(columns, metadata=about)


def _has_columns(there: Any, schema: Any) -> bool:
    """Whether they are those of `schema`, the last of which, the marks, may be missing."""
    return bool(there.equals(schema) or there.equals(schema.remove(len(schema) - 1)))


def _columns(manifest: Manifest) -> list[str]:
    if manifest.outputs is None:
        return ["value"]
    return [f"value_{i}" for i in range(manifest.outputs)]


def _values_of(manifest: Manifest) -> Manifest:
    """Without the plan."""
    return Manifest(manifest.fingerprint, manifest.features, manifest.outputs)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "Parquet: pyarrow is not installed; pip install spex-core[parquet]"
        ) from error
    return pyarrow, pyarrow.parquet
