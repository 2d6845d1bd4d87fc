"""SPEX, ProxySPEX and GPSPEX: the interactions that drive a model, found by ablation and sparse
Walsh-Fourier transforms."""

from .asktell import plan, resume
from .budget import plan_spex
from .errors import (
    BackendUnavailable,
    EvaluationError,
    EvaluationInterrupted,
    FormatError,
    MissingExtra,
    SpexError,
)
from .explain import explain
from .explanation import Explanation, Report, load
from .faithfulness import (
    Removal,
    energy_split,
    hierarchy_rates,
    r2,
    r2_by_sparsity,
    recall_at_k,
    top_removal,
)
from .fit import fit
from .gpspex import gpspex
from .indices import interaction_arrays, interactions
from .patience import Patience
from .plan import SamplingPlan
from .proxyspex import proxyspex
from .run import Run
from .spex import spex
from .subsets import BestSubset
from .transform import SparseTransform
from .trees import Trees, tree_fourier
from .value_function import ValueFunction

__all__ = [
    "BackendUnavailable",
    "BestSubset",
    "EvaluationError",
    "EvaluationInterrupted",
    "Explanation",
    "FormatError",
    "MissingExtra",
    "Patience",
    "Removal",
    "Report",
    "Run",
    "SamplingPlan",
    "SparseTransform",
    "SpexError",
    "Trees",
    "ValueFunction",
    "energy_split",
    "explain",
    "fit",
    "gpspex",
    "hierarchy_rates",
    "interaction_arrays",
    "interactions",
    "load",
    "plan",
    "plan_spex",
    "proxyspex",
    "r2",
    "r2_by_sparsity",
    "recall_at_k",
    "resume",
    "spex",
    "top_removal",
    "tree_fourier",
]
