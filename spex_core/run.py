"""A run of an algorithm, driven from outside: masks out, values in, a fit at any time. The blocking
calls are the same run with a value function at the other end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .budget import further_masks
from .errors import check, check_int
from .evaluate import AsyncFunction, SetFunction, Shown, ask, ask_async, batches, failure
from .explanation import Explanation, with_picture
from .given import not_finite, numbers_of
from .keep import Keep
from .ledger import Ledger
from .patience import Patience
from .plan import SamplingPlan
from .recipe import Answered, Clock, Found, Recipe
from .store import Store
from .store_manifest import Manifest

Where = Store | str | os.PathLike
Known = tuple[np.ndarray, np.ndarray] | Where


class Run:
    """Masks to be evaluated, and what is known of their values. Made by plan(), or by resume().

    The fit is that of the blocking call with the same options: the same bits, in whichever order,
    portions and processes the values came. As a context it closes its store.

    Args:   part_of: the recipe of which this run is a step, so that their stores are the same.
    Attributes:
        recipe: the algorithm with its options. features: n names.
    """

    def __init__(
        self,
        recipe: Recipe,
        features: tuple[str, ...],
        *,
        store: Where | None = None,
        fingerprint: str | None = None,
        known: Known | None = None,
        part_of: Recipe | None = None,
    ):
        self.recipe, self.features = recipe, features
        self._part_of = part_of or recipe
        self.fingerprint = fingerprint
        self._clock = Clock()
        with self._clock("plan"):
            plan = recipe.plan(len(features))
        keep = None
        if store is not None:
            check(
                fingerprint is not None or isinstance(store, Store),
                "store: f must have a `fingerprint`, a string that names all that its values "
                "depend on, as a ValueFunction has; set it as an attribute of f, or give `store` "
                "as a Store whose manifest has one",
            )
            keep = Keep(store, self.manifest, many=recipe.many)
        with self._clock("plan"):
            self._ledger = Ledger(plan, many=recipe.many, keep=keep)
        if known is not None:
            self._take(known)
        self._last: Any = None  # a Part, the batch handed out last
        self._chosen = np.zeros(0, np.int64)  # rows of the plan, chosen by a fit

    @property
    def manifest(self) -> Manifest:
        """What a store of this run says of it."""
        recipe = self._part_of
        return Manifest(
            *(self.fingerprint or "", self.features),
            algorithm=recipe.name,
            seed=recipe.seed,
            budget=recipe.budget,
            options=recipe.options,
        )

    @property
    def plan(self) -> SamplingPlan:
        """The masks that are asked for."""
        return self._ledger.plan

    @property
    def missing(self) -> int:
        """Distinct masks without a value."""
        return self._ledger.missing

    @property
    def counts(self) -> dict[str, Any]:
        """asked: rows of the plan. unique: distinct masks among them. cached: those whose value was
        known, or read from the store. evaluated: those that this run was told. failed: calls of f
        that gave no value, or not one for each mask. missing: masks without a value. censored:
        masks whose value is only a bound."""
        ledger = self._ledger
        return {
            "asked": ledger.plan.total,
            "unique": len(ledger.there),
            "cached": ledger.cached,
            "evaluated": ledger.evaluated,
            "failed": ledger.failed,
            "missing": ledger.missing,
            "censored": int(ledger.marked.sum()),
        }

    def samples(self) -> tuple[Tensor, Tensor]:
        """Masks packed int64 (rows, W) that have a value, and the values, (rows,) or (rows, q)."""
        values, there = self._ledger.answers()
        return Answered(self.plan, values, there, self.features).samples()

    # ---- Ask and tell ----------------------------------------------------------------------------

    def batches(self, size: int = 1024, *, packed: bool = False) -> Iterator[np.ndarray | Tensor]:
        """The masks that have no value yet, each once: bool (size, n), the last may be fewer.

        Masks told meanwhile are left out. What was handed out and never told is handed out again
        by the next call.

        Args: packed: hand out packed int64 (size, W) tensors.
        """
        size = check_int("batches: size", size, 1)
        for part, dense in batches(self._ledger, self._ledger.owed(), size):
            self._last = part
            yield part.masks.clone() if packed else dense

    def tell(
        self,
        values: np.ndarray | Tensor | Sequence[float],
        masks: np.ndarray | Tensor | None = None,
        *,
        censored: np.ndarray | None = None,
    ) -> None:
        """Values of masks that were asked for, on disk where there is a store when this returns
        (with the kernel, and on the disk before any fit).

        A mask that is told again keeps its first value. Values that are not finite are refused, and
        the others of the same call are kept.

        Args:   values: (k,), or (k, q) for an algorithm that takes several outputs.
                masks: bool (k, n) or packed (k, W), any of those asked for in any order; None for
                the batch handed out last.
                censored: bool (k,), which values are only bounds; they are fitted like any, and
                the report counts them. None: none.
        Raises: ValueError for values of masks that the run does not ask for, another number of
                values, or values that are not finite; TypeError; OSError if they cannot be stored:
                they are known here all the same, and stored with the next.
        """
        check(
            masks is not None or self._last is not None,
            "tell: masks must be given, as no batch is handed out",
        )
        if masks is None and censored is None and self._ledger.settle(self._last, values):
            return
        packed = None if masks is None else bits.pack_batch("tell", masks, self.plan.n).cpu()
        part = self._last if packed is None else self._ledger.part(packed)
        if censored is not None:
            marks = np.array(censored)
            check(
                marks.dtype == np.bool_ and marks.shape == (len(part.words),),
                "tell: censored must be bool ({},), got {} {}",
                *(len(part.words), marks.dtype, marks.shape),
            )
            part = part._replace(marks=marks)
        try:
            numbers, finite = numbers_of(values, len(part.words), self.recipe.many)
        except (ValueError, TypeError) as error:
            raise type(error)(f"tell: values: {error}") from None
        if finite.all():
            self._ledger.tell(part, numbers, distinct=packed is None)
            return
        self._ledger.tell(part.where(finite), numbers[finite], distinct=packed is None)
        raise ValueError(f"tell: values: {not_finite(numbers, finite)}; the others are kept")

    def fit(self) -> Found:
        """The explanation of what has been told so far. Its report says what is missing.

        Raises: ValueError if that is too little for any fit; OSError if values cannot be stored.
        """
        values, there = self._ledger.answers()
        check(bool(there.any()), "fit: values must be told first, got none")
        clock = Clock(self._clock.seconds)
        chosen = int(there[self._chosen].sum())
        found = self.recipe.fit(Answered(self.plan, values, there, self.features, chosen), clock)
        return (
            [self._reported(ex) for ex in found]
            if isinstance(found, list)
            else (self._reported(found))
        )

    def fit_or_keep(self) -> Found:
        """As fit, of a run whose caller would lose it with the error.

        Raises: EvaluationError where it cannot be fitted, memory that has gone meanwhile for
                one, holding what was paid for.
        """
        try:
            return self.fit()
        except (Exception, KeyboardInterrupt) as cause:
            done, total = self._ledger.evaluated, self._ledger.evaluated + self.missing
            raise failure(self._ledger, cause, done, total, "fit") from cause

    def more(self, count: int, found: Found | None = None) -> int:
        """Ask for up to `count` further masks, which the next batches bring; how many there are.

        GPSPEX, and auto where GPSPEX has a share in its result, choose those that would tell
        `found` most about the coefficients of single features (gp_acquire.propose; for one output,
        and once every feature has varied). The other algorithms ask for uniform ones, and so does
        any without `found`. Once chosen masks have values, R2 on masks left out is for masks of
        their kind, and the report says so. With 50 chosen masks beside 50 uniform ones instead of
        100 uniform ones, R2 on uniform masks rises by 0.020 in the mean of 83 games with GPSPEX, by
        0.019 with auto, and on 80 % of them with either (bench/bench_acquire.py).

        Args:    found: the last fit.
        Raises:  TypeError, ValueError for a bad count.
        Example: run.more(25, run.fit())
        """
        plan, count = self.plan, check_int("more: count", count, 1)
        masks = self.recipe.propose(plan, count, found)
        if found is not None and not torch.equal(masks, further_masks(plan, count)):
            rows = np.arange(len(masks)) + plan.total - plan.holdout  # where `extend` puts them
            self._chosen = np.append(self._chosen, rows)
        self._ledger.extend(masks)
        return len(masks)

    # ---- With a value function -------------------------------------------------------------------

    def evaluate(
        self,
        f: SetFunction,
        *,
        batch_size: int = 1024,
        progress: Shown = None,
        patience: Patience | None = None,
    ) -> None:
        """Ask f for all that is missing. As spex() says of the arguments.

        Raises: EvaluationError if f fails, or values cannot be stored. All that was paid for is
                known here, and is in the store if that can be written to.
        """
        batch_size = check_int("evaluate: batch_size", batch_size, 1)
        with self._clock("evaluate"):
            ask(
                f,
                self._ledger,
                batch_size=batch_size,
                progress=progress,
                patience=patience or Patience(),
                score=self._score,
            )

    async def answers(
        self,
        f: AsyncFunction,
        *,
        batch_size: int = 1024,
        concurrency: int = 8,
        patience: Patience | None = None,
    ) -> AsyncIterator[tuple[np.ndarray, np.ndarray]]:
        """Ask the coroutine function f, bool (batch, n) -> (batch,) numbers, for all that is
        missing, so many calls at a time: (masks, values) of each call as it is done and told.

        Raises: EvaluationError as evaluate(), once the other calls under way have ended; what they
                said is kept too.
        Example: async for masks, values in run.answers(score, batch_size=64, concurrency=8): ...
        """
        parts = ask_async(
            f,
            self._ledger,
            batch_size=check_int("answers: batch_size", batch_size, 1),
            concurrency=check_int("answers: concurrency", concurrency, 1),
            patience=patience or Patience(),
        )
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield part

    # ---- On disk ---------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the plan and all values to a directory, new or of the same run, which resume()
        reads: a store."""
        outputs = self._ledger.outputs
        manifest = dataclasses.replace(self.manifest, outputs=outputs)
        with Store.open(folder, manifest) as store:
            for masks, values, marks in self._ledger.told():
                rows = store.missing(masks)
                mine = masks[torch.from_numpy(rows)]
                store.append(mine, values[rows], censored=marks[rows])

    def close(self) -> None:
        """All values are on disk when this returns, and the store is closed."""
        if self._ledger.keep is not None:
            self._ledger.keep.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with contextlib.suppress(*(() if kind is None else (OSError,))):  # the first error counts
            self.close()

    def _take(self, known: Known) -> None:
        if isinstance(known, tuple):
            self._ledger.take(*known)
            return
        store = known if isinstance(known, Store) else Store.open(known)
        there = store.manifest
        asked = Manifest(self.fingerprint or there.fingerprint, self.features, there.outputs)
        wrong = Manifest(there.fingerprint, there.features, there.outputs).differences(asked)
        check(
            not wrong, "known: it must be of the same function, got another: {}", "; ".join(wrong)
        )
        self._ledger.take_stored(store)

    def _score(self) -> float | None:
        """R2 of a fit of what is there, the mean of several outputs; None where that is too
        little."""
        try:
            found = self.fit()
        except ValueError:
            return None
        return (
            float(np.mean([ex.report.r2 for ex in found]))
            if isinstance(found, list)
            else (found.report.r2)
        )

    def _reported(self, ex: Explanation) -> Explanation:
        """With what was asked, paid and missing."""
        counts, contrary = self.counts, self._ledger.contrary
        warnings = []
        if missing := counts["missing"]:
            warnings.append(
                f"{missing:,} of {counts['unique']:,} masks have no value yet: this is the fit of "
                "the others"
            )
        if censored := counts["censored"]:
            warnings.append(
                f"{censored:,} values are only bounds, of a server that did not say more"
            )
        if contrary:
            warnings.append(
                f"{contrary:,} values were told again and differed: the first ones count"
            )
        del counts["evaluated"], counts["unique"]
        report = dataclasses.replace(
            ex.report,
            used=self._ledger.evaluated,
            warnings=warnings + ex.report.warnings,
            **counts,
        )
        return dataclasses.replace(ex, report=report)


def explain(
    recipe: Recipe,
    f: SetFunction,
    features: tuple[str, ...],
    *,
    batch_size: int,
    progress: Shown,
    known: Known | None,
    store: Where | None,
    patience: Patience | None,
) -> Found:
    """Run a recipe on f to its end."""
    fingerprint = getattr(f, "fingerprint", None)
    with Run(recipe, features, store=store, fingerprint=fingerprint, known=known) as run:
        run.evaluate(f, batch_size=batch_size, progress=progress, patience=patience)
        return with_picture(run.fit_or_keep(), f)
