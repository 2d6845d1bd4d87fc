"""Trees as arrays over their nodes, and what they must satisfy.

roots int32 (trees,) are nodes; at node i, feature[i] int32 is the feature asked, -1 at a leaf;
absent[i] and present[i] int32 are the nodes to go to where its bit is 0 and 1, -1 at a leaf;
value[i] float64 is the value of a leaf. Nodes stand in any order, and those that no root reaches do
not count. A tree may ask a feature twice on a path: then the side is known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import check


def check_forest(
    where: str,
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
) -> None:
    """Raise TypeError or ValueError, in the name of `where`, unless the arrays are trees on n
    features."""
    names = {"roots": roots, "feature": feature, "absent": absent, "present": present}
    for name, x in names.items():
        if not (isinstance(x, Tensor) and x.dtype == torch.int32):
            raise TypeError(f"{where}: {name} must be an int32 tensor, got {_kind(x)}")
    if not (isinstance(value, Tensor) and value.dtype == torch.float64):
        raise TypeError(f"{where}: value must be a float64 tensor, got {_kind(value)}")
    nodes = len(feature) if feature.ndim else 0
    for name, x in (names | {"value": value}).items():
        check(
            x.ndim == 1 and (name == "roots" or len(x) == nodes),
            "{}: {} must have shape ({},), got {}",
            *(where, name, "trees" if name == "roots" else nodes, tuple(x.shape)),
        )
        check(
            x.device == feature.device,
            "{}: {} must be on the device of feature, {}, got {}",
            *(where, name, feature.device, x.device),
        )
    _check_range(where, "roots", roots, 0, nodes - 1)
    _check_range(where, "feature", feature, -1, n - 1)
    inner = feature >= 0
    children = torch.cat([absent[inner], present[inner]])
    _check_range(where, "absent and present", children, 0, nodes - 1)
    # So nothing that a root reaches can be on a cycle: its nodes are each the child of another.
    parents = torch.bincount(children.long(), minlength=nodes)
    for node in (parents > 1).nonzero()[:1, 0].tolist():
        raise ValueError(f"{where}: a node must be the child of one node, got {node} twice")
    for root in roots[parents[roots.long()] > 0][:1].tolist():
        raise ValueError(f"{where}: a root must be no node's child, got {root}")
    most = value[~inner].abs().max().item() if not inner.all() else 0.0
    check(
        most * max(1, len(roots)) < float("inf"),
        "{}: value must be finite at the leaves, as their sum over the trees, got {}",
        *(where, most),
    )


def _check_range(where: str, name: str, x: Tensor, least: int, most: int) -> None:
    low, high = torch.aminmax(x) if len(x) else (least, most)
    if low < least or high > most:
        wrong = int(low if low < least else high)
        raise ValueError(f"{where}: {name} must be in [{least}, {most}], got {wrong}")


def _kind(x: object) -> str:
    return f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
