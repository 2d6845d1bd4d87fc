"""Fitted tree ensembles of LightGBM, XGBoost and scikit-learn -> node arrays, as forest.py lays
them out.

Read from what each library dumps; none is imported. A split is resolved by the library's own rule
for a feature that is exactly 0 or 1, and a node that sends both the same way is skipped.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import check

KINDS = (
    "LightGBM (a Booster, an LGBM* estimator, dump_model()), XGBoost (a Booster, an XGB* estimator)"
    " or scikit-learn (DecisionTree, RandomForest, ExtraTrees, GradientBoosting or "
    "HistGradientBoosting regressor)"
)


@dataclass
class Dump:
    """An ensemble as a library holds it. Arrays are over the nodes of all trees.

    n: features. roots: (trees,). feature: int, what an inner node asks. left, right: int, its
    children, -1 at a leaf. zero_left, one_left: bool, whether 0 and 1 go left. value: float64, of a
    leaf. bias: what every sum starts from.
    """

    n: int
    roots: np.ndarray
    feature: np.ndarray
    left: np.ndarray
    right: np.ndarray
    zero_left: np.ndarray
    one_left: np.ndarray
    value: np.ndarray
    bias: float = 0.0

    def arrays(self) -> tuple[np.ndarray, ...]:
        """roots, feature, absent, present, value."""
        inner = self.left >= 0
        absent = np.where(self.zero_left, self.left, self.right)
        present = np.where(self.one_left, self.left, self.right)
        skip = inner & (absent == present)
        goal = np.where(skip, absent, np.arange(len(inner)))
        while skip[goal].any():
            goal = goal[goal]
        inner &= ~skip
        links = (np.where(inner, goal[side], -1) for side in (absent, present))
        return (
            goal[self.roots].astype(np.int32),
            np.where(inner, self.feature, -1).astype(np.int32),
            *(link.astype(np.int32) for link in links),
            np.where(self.left < 0, self.value, 0.0),
        )


def read(model: Any) -> Dump:
    """The trees of a fitted model of one of KINDS, for its raw score: before any link function.

    Raises: TypeError for another kind of model; ValueError if it is not fitted, has more than one
            output, or what it does with a 0 or 1 cannot be read from its trees.
    """
    if isinstance(model, dict) and "tree_info" in model:
        return lightgbm(model)
    origins = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "lightgbm" in origins:
        return lightgbm(getattr(model, "booster_", model).dump_model())
    if "xgboost" in origins:
        return xgboost(model)
    if "sklearn" in origins:
        return sklearn(model)
    raise TypeError(f"Trees.of: model must be of {KINDS}, got {type(model).__name__}")


def lightgbm(dump: dict[str, Any]) -> Dump:
    """From dump_model(): at most the threshold goes left, and 0 by default where it is missing."""
    per_round = dump["num_tree_per_iteration"]
    check(per_round == 1, "Trees.of: model must have one output, got {}", per_round)
    roots: list[int] = []
    feature: list[int] = []
    right: list[int] = []
    number: list[float] = []  # a threshold, or the value of a leaf
    zero_missing: dict[int, bool] = {}  # node: whether its default is left
    for tree in dump["tree_info"]:
        roots.append(len(feature))
        waiting = [(tree["tree_structure"], -1)]
        while waiting:
            node, parent = waiting.pop()
            here = len(feature)
            if parent >= 0:
                right[parent] = here
            right.append(-1)
            if "left_child" not in node:
                check("leaf_coeff" not in node, "Trees.of: model must have no linear leaves")
                feature.append(-1)
                number.append(node["leaf_value"])
                continue
            if node["decision_type"] != "<=":
                raise ValueError("Trees.of: model must have no categorical splits")
            if node["missing_type"] == "Zero":
                zero_missing[here] = node["default_left"]
            feature.append(node["split_feature"])
            number.append(node["threshold"])
            waiting.append((node["right_child"], here))
            waiting.append((node["left_child"], -1))  # the next to be read
    far, numbers = np.array(right, np.int64), np.array(number, np.float64)
    zero_left = numbers >= 0
    zero_left[list(zero_missing)] = list(zero_missing.values())
    return Dump(
        n=dump["max_feature_idx"] + 1,
        roots=np.array(roots, np.int64),
        feature=np.array(feature, np.int64),
        left=np.where(far < 0, -1, np.arange(len(far)) + 1),
        right=far,
        zero_left=zero_left,
        one_left=numbers >= 1,
        value=numbers / len(roots) if dump["average_output"] else numbers,
    )


LINKS = {  # XGBoost's objectives: base_score, in units of the output -> the raw score
    "reg:squarederror": float,
    "reg:absoluteerror": float,
    "reg:pseudohubererror": float,
    "binary:logistic": lambda p: math.log(p / (1 - p)),
    "reg:logistic": lambda p: math.log(p / (1 - p)),
}


def xgboost(model: Any) -> Dump:
    """From the JSON of a Booster: less than the threshold goes left, all in float32, and what an
    XGB* estimator calls missing goes by default. To a Booster neither 0 nor 1 is missing."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(booster.save_raw(raw_format="json"))["learner"]
    parameters, boosted = learner["learner_model_param"], learner["gradient_booster"]
    objective = learner["objective"]["name"]
    check(objective in LINKS, "Trees.of: objective must be in {}, got {}", set(LINKS), objective)
    outputs = max(int(parameters["num_target"]), int(parameters["num_class"]))
    check(outputs <= 1, "Trees.of: model must have one output, got {}", outputs)
    kind, weights = boosted["name"], boosted.get("weight_drop")
    check(kind in ("gbtree", "dart"), "Trees.of: model must be made of trees, got {}", kind)
    boosted = boosted.get("gbtree", boosted)  # DART's is one level down
    trees = boosted["model"]["trees"]
    if model is not booster and (best := booster.attr("best_iteration")) is not None:
        trees = trees[: boosted["model"]["iteration_indptr"][int(best) + 1]]  # as its predict

    def joined(key: str, dtype: type) -> np.ndarray:
        parts: list[np.ndarray] = [np.array(tree[key], dtype) for tree in trees]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    check(not joined("split_type", int).any(), "Trees.of: model must have no categorical splits")
    sizes = np.array([len(tree["left_children"]) for tree in trees], np.int64)
    left, right = (joined(f"{side}_children", np.int64) for side in ("left", "right"))
    number = joined("split_conditions", np.float32)  # a threshold, or the value of a leaf
    value = number.astype(np.float64)
    if weights is not None:
        value *= np.repeat(np.array(weights[: len(trees)]), sizes)
    zero_left, one_left = number > 0, number > 1
    missing = getattr(model, "missing", None)
    if missing in (0, 1):
        default = joined("default_left", bool)
        zero_left, one_left = (default, one_left) if missing == 0 else (zero_left, default)
    base_score = json.loads(parameters["base_score"])
    (base,) = base_score if isinstance(base_score, list) else [base_score]
    starts = np.cumsum(sizes) - sizes
    shift = np.repeat(starts, sizes)
    return Dump(
        n=int(parameters["num_feature"]),
        roots=starts,
        feature=joined("split_indices", np.int64),
        left=np.where(left < 0, -1, left + shift),
        right=np.where(left < 0, -1, right + shift),
        zero_left=zero_left,
        one_left=one_left,
        value=value,
        bias=LINKS[objective](base),
    )


def sklearn(model: Any) -> Dump:
    """From the arrays of the fitted trees: at most the threshold goes left."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    check(
        hasattr(model, "n_features_in_"), "Trees.of: model must be fitted, {} is not", type(model)
    )
    if "HistGradientBoostingRegressor" in kinds:
        return histogram(model)
    if "DecisionTreeRegressor" in kinds:
        trees, weight, bias = [model.tree_], 1.0, 0.0
    elif "ForestRegressor" in kinds:
        trees = [each.tree_ for each in model.estimators_]
        weight, bias = 1 / len(trees), 0.0
    elif "GradientBoostingRegressor" in kinds:
        trees = [each.tree_ for each in model.estimators_[:, 0]]
        weight, bias = model.learning_rate, start(model.init_)
    else:
        raise TypeError(f"Trees.of: model must be of {KINDS}, got {type(model).__name__}")
    outputs = {tree.n_outputs for tree in trees}
    check(outputs <= {1}, "Trees.of: model must have one output, got {}", *outputs)
    sizes = np.array([tree.node_count for tree in trees])
    starts = np.cumsum(sizes) - sizes
    shift = np.repeat(starts, sizes)
    left, right, feature, threshold, value = (
        np.concatenate([getattr(tree, name).reshape(-1) for tree in trees])
        for name in ("children_left", "children_right", "feature", "threshold", "value")
    )
    return Dump(
        n=model.n_features_in_,
        roots=starts,
        feature=feature,
        left=np.where(left < 0, -1, left + shift),
        right=np.where(left < 0, -1, right + shift),
        zero_left=threshold >= 0,
        one_left=threshold >= 1,
        value=weight * value,
        bias=bias,
    )


def start(init: Any) -> float:
    """What scikit-learn's gradient boosting starts from, if it is the same for all samples."""
    if init == "zero":
        return 0.0
    check(
        type(init).__name__ == "DummyRegressor",
        "Trees.of: model must start from a constant, got init={}",
        init,
    )
    return init.constant_.item()


def histogram(model: Any) -> Dump:
    """scikit-learn's histogram gradient boosting."""
    check(
        model.is_categorical_ is None or not model.is_categorical_.any(),
        "Trees.of: model must have no categorical features",
    )
    check(model.n_trees_per_iteration_ == 1, "Trees.of: model must have one output")
    trees = [each.nodes for (each,) in model._predictors]
    sizes = np.array([len(tree) for tree in trees], np.int64)
    starts = np.cumsum(sizes) - sizes
    nodes = np.concatenate(trees)
    leaf, shift = nodes["is_leaf"] == 1, np.repeat(starts, sizes)
    return Dump(
        n=model.n_features_in_,
        roots=starts,
        feature=nodes["feature_idx"],
        left=np.where(leaf, -1, nodes["left"] + shift),
        right=np.where(leaf, -1, nodes["right"] + shift),
        zero_left=nodes["num_threshold"] >= 0,
        one_left=nodes["num_threshold"] >= 1,
        value=nodes["value"],
        bias=float(model._baseline_prediction.item()),
    )
