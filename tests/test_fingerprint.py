"""Digests: equal for equal things, different for anything a value could depend on."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from spex_core.values.fingerprint import digest

DIFFERENT = [
    lambda: (),
    lambda: (None,),
    lambda: (1,),
    lambda: (1.0,),
    lambda: (True,),
    lambda: ("1",),
    lambda: (b"1",),
    lambda: ("a", "b"),
    lambda: ("ab",),
    lambda: (["a", "b"],),
    lambda: ([["a"], "b"],),
    lambda: (["a", ["b"]],),
    lambda: ({"a": "b"},),
    lambda: (torch.float32,),
    lambda: (np.zeros(4),),
    lambda: (np.zeros((2, 2)),),
    lambda: (np.zeros(4, np.float32),),
    lambda: (np.zeros(8, np.float32),),
    lambda: (torch.zeros(4),),
    lambda: (torch.zeros(4, dtype=torch.bfloat16),),
    lambda: (torch.zeros(4, dtype=torch.bool),),
    lambda: (np.array(["a", None]),),
    lambda: (nn.Linear(2, 2).requires_grad_(False).eval(),),
    lambda: (linear(0.0),),
    lambda: (linear(1e-7),),
    lambda: (linear(0.0).double(),),
    lambda: (nn.Sequential(linear(0.0), nn.ReLU()),),
    lambda: (nn.Sequential(linear(0.0), nn.Tanh()),),
    lambda: (np.sum,),
    lambda: (one,),
    lambda: (adds(1),),
    lambda: (adds(2),),
    lambda: (lambda x: x + 1,),
    lambda: (lambda x: x + 2,),
    lambda: (lambda x, y=1: x + y,),
    lambda: (lambda x, y=2: x + y,),
    lambda: (Scale(1.0).__call__,),
    lambda: (Scale(2.0).__call__,),
    lambda: (Scale(2.0),),
    lambda: (Known("a"),),
    lambda: (Known("b"),),
]


def linear(shift):
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2) + shift)
        layer.bias.zero_()
    return layer


def one(x):
    return 1


def adds(amount):
    def add(x):
        return add(x) if x is None else x + amount  # refers to itself

    return add


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


class Known:
    """An object that cannot be pickled and says itself what it is."""

    def __init__(self, name):
        self.fingerprint, self.open = name, lambda: None


def test_all_different_and_each_equal_to_itself():
    digests = [digest(*make()) for make in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    again = [digest(*make()) for make in DIFFERENT]
    random = 22  # the layer whose weights are drawn
    assert [a for i, a in enumerate(again) if i != random] == [
        a for i, a in enumerate(digests) if i != random
    ]
    assert again[random] != digests[random]


def test_strided_tensors_and_layouts_are_their_values():
    x = torch.arange(12.0).reshape(3, 4)
    assert digest(x.T) == digest(x.T.contiguous()) != digest(x)
    assert digest(x.numpy().T) == digest(np.ascontiguousarray(x.numpy().T))


def test_equal_in_another_process():
    code = (
        "import numpy as np; from spex_core.values.fingerprint import digest; "
        "print(digest('a', {'b': np.arange(3)}, lambda x: [x, 'c', 1.5], np.sum))"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1
    assert len(runs.pop().strip()) == 32


def test_what_cannot_be_told_is_refused():
    class Local:
        pass

    with pytest.raises(TypeError, match="Local must be picklable or have a `fingerprint`"):
        digest(Local())
