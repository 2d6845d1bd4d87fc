"""What a store holds values of, in manifest.json: the value function, and the plan of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import masks as bits
from .errors import FormatError, check, check_int
from .value_function import ValueFunction

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What the values of a store are values of, and the run that asked for them.

    Attributes:
        fingerprint: the value function's: equal strings mean equal values.
        features: n names.
        outputs: None for one number a mask, q for rows of q numbers.
        algorithm, seed, budget, options: the plan, options being whatever else it depends on that
        JSON can hold. Left out, the store is for any run on the value function.
    Raises: TypeError, ValueError.
    """

    fingerprint: str
    features: Sequence[str]
    outputs: int | None = None
    algorithm: str | None = None
    seed: int | None = None
    budget: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.fingerprint, str):
            raise TypeError(f"Manifest: fingerprint must be a string, got {self.fingerprint!r}")
        features = tuple(self.features)
        if isinstance(self.features, str) or not all(isinstance(name, str) for name in features):
            raise TypeError("Manifest: features must be strings")
        check(len(features) > 0, "Manifest: features must be one at least, got none")
        for name in ("outputs", "seed", "budget"):
            if (value := getattr(self, name)) is not None:
                check_int(f"Manifest: {name}", value, 0 if name == "seed" else 1)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "options", json.loads(json.dumps(dict(self.options))))

    @classmethod
    def of(cls, f: ValueFunction, **plan: Any) -> Manifest:
        """That of a value function; `plan` has the other fields."""
        return cls(f.fingerprint, tuple(f.features), **plan)

    @property
    def n(self) -> int:
        """Features."""
        return len(self.features)

    @property
    def words(self) -> int:
        """W."""
        return bits.words(self.n)

    @functools.cached_property
    def identity(self) -> int:
        """64 bits of what the values depend on. Every record is checked with them, so that those
        of another value function are never taken for ours."""
        text = json.dumps([self.fingerprint, self.features, self.outputs])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def differences(self, asked: Manifest) -> list[str]:
        """One line for each field in which `asked` differs, with both values."""
        there, wanted = _flat(self, asked)
        return [
            f"{key}: {_short(there[key], wanted[key])}"
            for key in there
            if there[key] != wanted[key]
        ]


def _flat(*manifests: Manifest) -> list[dict[str, Any]]:
    """Fields to compare; of equally many features, those alone that differ."""
    fields = []
    for manifest in manifests:
        flat = dataclasses.asdict(manifest)
        del flat["features"], flat["options"]
        fields.append({"n": manifest.n, **flat})
    if len({manifest.n for manifest in manifests}) == 1:
        for j, names in enumerate(zip(*(manifest.features for manifest in manifests), strict=True)):
            if len(set(names)) > 1:
                for flat, name in zip(fields, names, strict=True):
                    flat[f"feature {j}"] = name
                break
    for key in sorted(set().union(*(manifest.options for manifest in manifests))):
        for flat, manifest in zip(fields, manifests, strict=True):
            flat[f"options[{key!r}]"] = manifest.options.get(key)
    return fields


def _short(there: Any, asked: Any, room: int = 160) -> str:
    """Both values; of long ones what stands about the first difference."""
    texts: tuple[str, ...] = repr(there), repr(asked)
    if max(map(len, texts)) > room:
        same = (a == b for a, b in zip(*texts, strict=False))
        first = next((at for at, equal in enumerate(same) if not equal), min(map(len, texts)))
        start = max(first - room // 4, 0)
        texts = tuple(
            "..." * (start > 0) + text[start : start + room] + "..." * (start + room < len(text))
            for text in texts
        )
    return f"{texts[0]} there, {texts[1]} asked"


def create(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json whole, or leave one that another process has written meanwhile. Its name
    is on disk when the first records are, which are in the same folder."""
    about = {
        "n": manifest.n,
        **dataclasses.asdict(manifest),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
    }
    text = json.dumps(about, indent=1)
    whole = {"format": FORMAT, "crc32": zlib.crc32(text.encode()), "store": about}
    unfinished = folder / f".{NAME}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, folder / NAME)  # as a rename that never replaces
    finally:
        unfinished.unlink(missing_ok=True)


def read(folder: Path) -> Manifest:
    """Raises: FormatError if it is damaged, not ours, or of a newer format."""
    path = folder / NAME
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        version, about = int(whole["format"]), whole["store"]
        if version <= FORMAT:
            check(
                zlib.crc32(json.dumps(about, indent=1).encode()) == whole["crc32"],
                "its checksum is wrong",
            )
            names = [field.name for field in dataclasses.fields(Manifest)]
            return Manifest(**{name: about[name] for name in names})
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"Store.open: {path} is damaged or not of a store ({type(error).__name__}: {error})"
        ) from error
    raise FormatError(
        f"Store.open: {path} has format {version}, this version reads up to {FORMAT}: "
        "upgrade spex-core"
    )


def sync_folder(folder: Path) -> None:
    """Names made or changed in the folder are on disk when this returns."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
