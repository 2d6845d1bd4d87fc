"""SPEX, ProxySPEX and GPSPEX: the interactions that drive a model, found by ablation and sparse
Walsh-Fourier transforms."""

from .errors import (
    BackendUnavailable,
    EvaluationError,
    EvaluationInterrupted,
    FormatError,
    MissingExtra,
    SpexError,
)
from .explanation import Explanation, Report, load
from .fit import fit
from .gpspex import gpspex
from .hierarchy import hierarchy_rates
from .indices import interactions
from .plan import SamplingPlan, plan_spex
from .proxyspex import proxyspex
from .spex import spex
from .transform import SparseTransform
from .trees import Trees, tree_fourier
from .value_function import ValueFunction

__all__ = [
    "BackendUnavailable",
    "EvaluationError",
    "EvaluationInterrupted",
    "Explanation",
    "FormatError",
    "MissingExtra",
    "Report",
    "SamplingPlan",
    "SparseTransform",
    "SpexError",
    "Trees",
    "ValueFunction",
    "fit",
    "gpspex",
    "hierarchy_rates",
    "interactions",
    "load",
    "plan_spex",
    "proxyspex",
    "spex",
    "tree_fourier",
]
