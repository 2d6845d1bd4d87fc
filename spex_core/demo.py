"""Three demonstrations on real data, each under two minutes: which words of a passage answer a
question, which attention heads a sentence encoder needs to tell sentences apart, and which groups
of training rows make a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from .compare import Recorder, compare, rival_plan
from .errors import MissingExtra
from .explanation import Explanation
from .progress import Progress
from .proxyspex import proxyspex
from .value_function import ValueFunction

if TYPE_CHECKING:
    from .values.training import FitAndScore

QUESTION = "Which needle was used to sample the breast mass?"

# Two sentences on each of eight subjects, from the descriptions of scikit-learn's data sets.
SENTENCES = [
    (
        "The famous Iris database was first used by Sir R.A. Fisher.",
        "Each class refers to a type of iris plant.",
    ),
    (
        "These wines were grown in the same region in Italy by three different cultivators.",
        "Measurements were taken for constituents found in the three types of wine.",
    ),
    (
        "Features are computed from a fine needle aspirate of a breast mass.",
        "They describe characteristics of the cell nuclei.",
    ),
    (
        "The target variable is the median house value for California districts.",
        "Vacation resorts have few households and many empty houses.",
    ),
    (
        "The data set contains images of hand-written digits.",
        "NIST extracted normalized bitmaps of handwritten digits from a preprinted form.",
    ),
    (
        "Six blood serum measurements were obtained for diabetes patients.",
        "The response is disease progression one year after baseline.",
    ),
    (
        "The samples correspond to patches of forest in the US.",
        "The task is predicting the dominant species of tree.",
    ),
    (
        "The data were collected from twenty middle-aged men in a fitness club.",
        "There are three exercise and three physiological variables.",
    ),
]


@dataclass(frozen=True)
class Demo:
    """What was explained, in words; the explanation; and what to know of the value function."""

    title: str
    lines: tuple[str, ...]
    explanation: Explanation
    comparison: str = ""
    index: str = "FBII"

    def summary(self, top: int = 6) -> str:
        """The title, the facts, the largest effects and interactions, the report, and what another
        algorithm makes of it, as text."""
        ex = self.explanation
        found = ex.interactions(self.index, order=2).items()  # the largest first
        lines = [self.title, "", *self.lines]
        for order, name in ((1, "alone"), (2, "in pairs")):
            rows = [(key, value) for key, value in found if len(key) == order][:top]
            lines += ["", f"{self.index}, the largest {name}:"]
            lines += [f"  {v:+.4f}  {' × '.join(ex.features[j] for j in key)}" for key, v in rows]
        return "\n".join([*lines, "", str(ex.report), "", self.comparison]).rstrip()


def words(
    budget: int = 2000,
    rival: int = 5000,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Demo:
    """The words of a passage that make it an answer to a question, as MiniLM sees it, by ProxySPEX;
    and by SPEX with `rival` masks.

    Raises: MissingExtra without transformers, the model's package or scikit-learn.
    Cost:   a forward pass over the words kept, for each mask.
    """
    from .values.text import TextSimilarity

    f = Recorder(text := TextSimilarity(example_passage(), QUESTION))
    nothing, everything = text(np.array([[False] * f.n, [True] * f.n]))
    ex = _explained(f, budget, seed, progress)
    both = compare(f, ex, rival_plan(f, ex, rival, 5), progress=progress)
    lines = (
        f"question: {QUESTION}",
        f"passage:  {f.n} words, {text.layout.tokens} tokens, from scikit-learn's description of a "
        "data set",
        f"value:    similarity, {everything:.4f} with all of it, {nothing:.4f} with none "
        "(two masks beside the budget)",
    )
    return Demo("Words of a passage: what answers the question", lines, ex, str(both))


def example_passage() -> str:
    """What scikit-learn says of its breast cancer data, in prose: no lists, tables or citations.

    Raises: MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise MissingExtra(
            "demo: the example passage needs scikit-learn; pip install spex-core[text]"
        ) from error
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", load_breast_cancer().DESCR)]
    prose = [p for p in paragraphs if re.match("[A-Z]", p) and p[-1] == "." and p.count(" ") >= 20]
    return re.sub(r":? \[[^\]]*\]", "", " ".join(prose))


def heads(budget: int = 600, *, seed: int = 0, progress: Progress | None = None) -> Demo:
    """The 72 attention heads of MiniLM on 16 pairs of sentences, half of them related.

    Raises: MissingExtra without transformers or the model's package.
    Cost:   a forward pass over 16 sentences, 220 tokens, for each mask.
    """
    from .values.heads import sentence_heads

    pairs, related = sentence_pairs()
    f = sentence_heads(pairs, related, threads=torch.get_num_threads())
    nothing, everything = f(np.array([[False] * f.n, [True] * f.n]))
    ex = _explained(f, budget, seed, progress)
    lines = (
        f"value:   mean cosine of {sum(related)} related pairs minus that of "
        f"{len(related) - sum(related)} unrelated ones",
        f"         {everything:.4f} with all {f.n} heads, {nothing:.4f} with none "
        "(two masks beside the budget)",
        f"pairs:   from scikit-learn's descriptions of data sets, as “{pairs[0][0]}” and "
        f"“{pairs[0][1]}”",
    )
    return Demo("The attention heads of MiniLM: telling related sentences from others", lines, ex)


def _explained(f: ValueFunction, budget: int, seed: int, progress: Progress | None) -> Explanation:
    """What ProxySPEX makes of a value function of one output."""
    return cast(Explanation, proxyspex(f, budget=budget, seed=seed, progress=progress))


def sentence_pairs() -> tuple[list[tuple[str, str]], list[bool]]:
    """Each first sentence with the second on its subject, and with the second on the next one."""
    related = list(SENTENCES)
    following = SENTENCES[1:] + SENTENCES[:1]
    unrelated = [(a, b) for (a, _), (_, b) in zip(SENTENCES, following, strict=True)]
    return related + unrelated, [True] * len(related) + [False] * len(unrelated)


def training(
    budget: int = 1000,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Demo:
    """Groups of training rows: scikit-learn's handwritten digits, three groups of each digit.

    Raises: MissingExtra without scikit-learn.
    Cost:   a training for each mask, in `workers` processes.
    """
    from .values.training import TrainingGroups

    score, groups, names = digits_by_group()
    with TrainingGroups(score, groups, features=names, workers=workers) as f:
        nothing, everything = f(np.array([[False] * f.n, [True] * f.n]))
        ex = _explained(f, budget, seed, progress)
    lines = (
        f"value:   mean probability of the right digit for {len(score.y_test)} images held out",
        f"         {everything:.4f} trained on all {len(groups)} images, {nothing:.4f} on none "
        "(two masks beside the budget)",
        f"groups:  {f.n}, of about {len(groups) // f.n} images of one digit each",
    )
    return Demo("Training data: what groups of handwritten digits teach a classifier", lines, ex)


def digits_by_group(parts: int = 3) -> tuple[FitAndScore, np.ndarray, Sequence[str]]:
    """Train-and-score of a classifier of digits, the group of each training image (its digit, and a
    part of those at random), and the names of the groups."""
    from .values.training import FitAndScore, even_groups, right_class_probability

    try:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra(
            "demo: scikit-learn is not installed; pip install spex-core[learn]"
        ) from error
    X, y = load_digits(return_X_y=True)
    X = X / 16
    groups = np.empty(len(y[::2]), np.int64)
    for digit in range(10):
        images = np.flatnonzero(y[::2] == digit)
        groups[images] = digit * parts + even_groups(len(images), parts, seed=digit)
    model = LogisticRegression(C=1.0, max_iter=200)
    score = FitAndScore(model, X[::2], y[::2], X[1::2], y[1::2], right_class_probability)
    names = [f"digit {d} part {p + 1}" for d in range(10) for p in range(parts)]
    return score, groups, names
