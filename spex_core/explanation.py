"""Stage 8, Explanation: the spectrum of one run, its interactions by name, and the report of how it
was found."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from . import indices
from .errors import FormatError, check
from .gp_process import Process
from .page import page
from .picture import Picture, picture
from .plots import Plots
from .regions import Regions
from .shapiq_values import to_shapiq
from .transform import SparseTransform

if TYPE_CHECKING:
    from shapiq import InteractionValues

FORMAT = 1  # of saved files


@dataclass(frozen=True)
class Report:
    """How an explanation was found, and how far to trust it.

    Attributes:
        algorithm, backend, device, seed, n: of the run.
        decoder, preset: the variant of the algorithm, where it has such.
        degree: the largest order a term could have.
        budget: evaluations asked for; used, or evaluated: made by this run; unique: distinct masks
        behind the result.
        asked: rows of the plan, repeats among them; cached: masks whose values were known before,
        or read from a store; failed: calls of the value function that gave no value, or not one for
        each mask; missing: masks of the plan that have no value yet; censored: masks whose value is
        only a bound.
        left_out: masks that scored the result: SPEX holds them out of the fit, ProxySPEX leaves
        each out of a fit like it and then takes it in; 0 where every mask there is was evaluated.
        r2: R2 of the result on the masks left out (on all masks where there are none).
        r2_linear: the same for a linear fit on the same samples.
        terms: Fourier terms, the constant included; effective_terms: how many free ones a fit with
        priors amounts to.
        energy_by_order: order -> its share of the variance of the result.
        hierarchy: "direct subset" and "staircase" rates (hierarchy.py).
        plan: how the budget was spent.
        seconds: stage -> wall seconds.
        moved: of a run on a device, the bytes of tensors that went "to_device" and "to_host".
        warnings: what the user should know.
        r2_process, missed: of GPSPEX, and of a stack where it has a share: R2, on the same masks,
        of what process.predict predicts, the result before small terms are left out, where r2 is of
        the terms kept; and the share of the variance of GPSPEX's posterior mean, a linear fit or
        other members apart, that is in terms left out, at most (by 1,024 masks, and two standard
        errors more). None for other algorithms.
    """

    algorithm: str
    backend: str
    device: str
    seed: int
    n: int
    degree: int
    budget: int
    used: int
    unique: int
    left_out: int
    r2: float
    r2_linear: float
    terms: int
    effective_terms: float
    energy_by_order: dict[int, float]
    hierarchy: dict[str, float]
    plan: str
    seconds: dict[str, float]
    decoder: str = ""
    preset: str = ""
    moved: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    r2_process: float | None = None
    missed: float | None = None
    asked: int = 0
    cached: int = 0
    failed: int = 0
    missing: int = 0
    censored: int = 0

    @property
    def evaluated(self) -> int:
        return self.used

    def __str__(self) -> str:
        variant = f"{self.decoder} decoding" if self.decoder else f"preset {self.preset}"
        seen = f"{self.left_out:,} masks left out" if self.left_out else "every mask there is"
        energy = ", ".join(f"{order}: {share:.1%}" for order, share in self.energy_by_order.items())
        rates = ", ".join(f"{name} {rate:.2f}" for name, rate in self.hierarchy.items())
        times = ", ".join(f"{stage} {took:.2f}" for stage, took in self.seconds.items())
        lines = [
            f"algorithm   {self.algorithm}, {variant}, degree {self.degree}, seed {self.seed}; "
            f"{self.backend} backend on {self.device}",
            f"budget      {self.budget:,} asked, {self.used:,} used, {self.unique:,} unique masks"
            + self._of_calls(),
            f"plan        {self.plan}",
            f"R2          {self.r2:.4f} on {seen}; linear fit on the same samples "
            f"{self.r2_linear:.4f}" + self._of_process(),
            f"terms       {self.terms:,}, effectively {self.effective_terms:.1f}; variance by "
            f"order {energy or 'none'}",
            f"hierarchy   {rates}",
            f"seconds     {times}",
        ]
        if self.moved:
            to_device, to_host = self.moved["to_device"], self.moved["to_host"]
            lines.append(f"moved       {to_device:,} bytes to the device, {to_host:,} to the host")
        return "\n".join(lines + [f"warning     {text}" for text in self.warnings])

    def _of_calls(self) -> str:
        counts = {"cached": self.cached, "missing": self.missing, "calls failed": self.failed}
        counts["censored"] = self.censored
        return "".join(f", {count:,} {name}" for name, count in counts.items() if count)

    def _of_process(self) -> str:
        if self.r2_process is None or self.missed is None:
            return ""
        return (
            f"; with all terms {self.r2_process:.4f}, those left out hold up to {self.missed:.2%} "
            "of the posterior's variance"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What drives a model's output on one input.

    Attributes:
        transform: the recovered set function, a SparseTransform.
        features: n names, for printing; keys of every result are indices.
        report: how it was found.
        process: of GPSPEX, and of a stack where it has a share: process.predict(masks) are values
        with error bars, before small terms are left out; not saved.
        picture: of a value function of an image, that image, small, and where its features are.
    """

    transform: SparseTransform
    features: tuple[str, ...]
    report: Report
    process: Process | None = None
    picture: Picture | None = None

    def interactions(
        self, index: str = "FBII", order: int | None = None
    ) -> dict[tuple[int, ...], float]:
        """An interaction index of the transform, largest first, the baseline under (); indices.py
        has the table of indices.

        Args:   order: the largest set, by default 2, or 1 where the index has no other or the run
                no higher degree.
        Raises: ValueError for an unknown index, or an order above the degree of the run: no term of
                that order was looked for.
        """
        name, order = self._asked("interactions", index, order)
        return indices.interactions(self.transform, name, order)

    def interaction_arrays(
        self, index: str = "FBII", order: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The same as arrays, for many interactions: (sets int32 (M, order), features ascending and
        then -1; values float64 (M,); the baseline). Arguments and errors as for interactions."""
        name, order = self._asked("interaction_arrays", index, order)
        return indices.interaction_arrays(self.transform, name, order)

    def to_shapiq(self, index: str = "FBII", order: int | None = None) -> InteractionValues:
        """An interaction index as shapiq's InteractionValues, for its plots and what reads them.

        `interop.shapiq.from_shapiq` is the way back.

        Args:   as for interactions, of the indices that shapiq has.
        Raises: what interactions raises, MissingExtra without shapiq 1.4 or newer.
        """
        name, order = self._asked("to_shapiq", index, order)
        return to_shapiq(self.transform, name, order, budget=self.report.unique)

    def _asked(self, where: str, index: str, order: int | None) -> tuple[str, int]:
        """The name of an index, and the order that is meant."""
        name = indices.index_name(index)
        if order is None and self.report.degree == 1:
            order = 1
        order = indices.check_order(name, order, self.transform.n)
        check(
            order <= self.report.degree,
            "{}: order must be at most the degree of the run, {}, got {}",
            *(where, self.report.degree, order),
        )
        return name, order

    def named(self, subset: tuple[int, ...]) -> str:
        """A set of feature indices as text: 'not × good'."""
        return " × ".join(self.features[i] for i in subset) or "(baseline)"

    def __repr__(self) -> str:
        found = {subset: value for subset, value in self.interactions("FBII").items() if subset}
        rounding = 1e-12 * max(map(abs, found.values()), default=0.0)
        lines = [
            f"Explanation of {self.transform.n:,} features from {self.report.unique:,} masks: "
            f"{len(self.transform):,} terms, R2 {self.report.r2:.4f}"
        ]
        for subset, value in list(found.items())[:10]:
            if abs(value) > rounding:
                lines.append(f"  {value:+.4g}  {self.named(subset)}")
        return "\n".join(lines)

    @property
    def plot(self) -> Plots:
        """Pictures: ex.plot.text(), .bars(), .network(), .image(); needs matplotlib."""
        return Plots(self)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "What drives the output",
        index: str = "FBII",
        order: int | None = None,
        image: Any = None,
        regions: Regions | None = None,
    ) -> None:
        """Write one HTML page that needs no network and stays under 1 MB: the features coloured by
        main effect, their interactions as arcs, a table, this report; its reader chooses index and
        order. Whole or not at all.

        Of more than 2,000 features it shows those with the most variance, of more terms than fit
        the largest, and says so.

        Args:   index, order: as `interactions` takes them: what the page shows first.
                image: (H, W), (H, W, 3) or (3, H, W), with regions as ImageRegions takes them: then
                the features are shown as regions of the image. By default those of the value
                function, if it had any.
        Raises: ValueError for what `interactions` refuses, an image without regions or with others
                than the features, a number that is not finite.
        """
        name, order = self._asked("to_html", index, order)
        check((image is None) == (regions is None), "to_html: image and regions must come together")
        shown = (
            self.picture
            if image is None or regions is None
            else picture("to_html", image, regions, self.transform.n, longest=256)
        )
        text = page(
            *(self.transform, self.features, dataclasses.asdict(self.report)),
            title=title,
            index=name,
            order=order,
            picture=shown,
        )
        _write(path, lambda file: file.write(text.encode(errors="replace")))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file (arrays and JSON, no pickle), whole or not at all."""
        report = {k: v for k, v in dataclasses.asdict(self.report).items() if v is not None}
        about = {"features": list(self.features), "report": report}
        entries = {
            "spex_format": np.int64(FORMAT),
            "n": np.int64(self.transform.n),
            "support": self.transform.support.numpy(),
            "coefs": self.transform.coefs.numpy(),
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        }
        if self.transform.stderr is not None:
            entries["stderr"] = self.transform.stderr.numpy()
        if self.picture is not None:
            entries |= {"rgb": self.picture.rgb, "owner": self.picture.owner}
        _write(path, lambda file: np.savez_compressed(file, **entries))


def _write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """A file as `write` leaves it, or none: it is moved to its place when it is whole."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            write(file)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Explanation:
    """Read what Explanation.save wrote.

    Raises: OSError if it cannot be opened; FormatError if it is damaged, not ours, or of a newer
            format.
    """
    with open(path, "rb") as raw:
        try:
            with np.load(raw, allow_pickle=False) as file:
                version = int(file["spex_format"])
                if version <= FORMAT:
                    return _explanation(file)
        except (
            Exception
        ) as error:  # of zipfile, zlib, NumPy, json: what a wrong byte can make of it
            raise FormatError(f"load: {path} is damaged or not a spex result ({error})") from error
    raise FormatError(
        f"load: {path} has format {version}, this version reads up to {FORMAT}: upgrade spex-core"
    )


def _explanation(file: np.lib.npyio.NpzFile) -> Explanation:
    about = json.loads(file["about"].tobytes())
    support, coefs = torch.from_numpy(file["support"]), torch.from_numpy(file["coefs"])
    report = about["report"]
    report["energy_by_order"] = {int(k): v for k, v in report["energy_by_order"].items()}
    stderr = torch.from_numpy(file["stderr"]) if "stderr" in file else None
    transform = SparseTransform(int(file["n"]), support, coefs, stderr)
    check(len(about["features"]) == transform.n, "{} names", len(about["features"]))
    shown = Picture(file["rgb"], file["owner"]) if "rgb" in file else None
    check(shown is None or shown.fits(transform.n), "a picture of other features")
    return Explanation(transform, tuple(about["features"]), Report(**report), picture=shown)


def with_picture(
    found: Explanation | list[Explanation], f: object
) -> Explanation | list[Explanation]:
    """Explanations of f with the picture that f has, if it has one."""
    shown = getattr(f, "picture", None)
    if shown is None:
        return found
    if isinstance(found, list):
        return [dataclasses.replace(ex, picture=shown) for ex in found]
    return dataclasses.replace(found, picture=shown)
