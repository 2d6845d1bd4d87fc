"""Tensors of one call on different devices: every op says which, before it computes anything."""

from __future__ import annotations

import pytest
from test_traced import CALLS, FURTHER, public
from torch import Tensor

GIVEN = CALLS | {name: lambda make=make: make()[0] for name, make in FURTHER.items()}
OPTIONS = {name: make()[1] for name, make in FURTHER.items()}
PLANS = ("peel", "peel_many")  # of whose tensors the tables of the plan may lie anywhere


def tensors(name: str) -> list[int | str]:
    """Places of the tensors among the arguments, and names of those among the options."""
    found = [i for i, x in enumerate(GIVEN[name]()) if isinstance(x, Tensor)]
    return [*found, *(key for key, x in OPTIONS.get(name, {}).items() if isinstance(x, Tensor))]


MIXED = [
    (name, where)
    for name in GIVEN
    for where in tensors(name)
    if len(tensors(name)) > 1 and name not in PLANS
]


@pytest.mark.parametrize(("name", "where"), MIXED)
def test_one_tensor_elsewhere(name: str, where: int | str) -> None:
    given = [x.detach() if isinstance(x, Tensor) else x for x in GIVEN[name]()]
    options = dict(OPTIONS.get(name, {}))
    held = options if isinstance(where, str) else given
    held[where] = held[where].to("meta")
    with pytest.raises(ValueError, match=rf"{name}: \w+ must be on the device of .*meta"):
        public(name)(*given, **options)
