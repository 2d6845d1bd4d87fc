"""The fixtures of conftest.py do what the other tests rely on."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_empty_floats_are_nan(dtype: torch.dtype) -> None:
    like = torch.zeros(2, 3, dtype=dtype)
    made = [torch.empty(2, 3, dtype=dtype), torch.empty_like(like), like.new_empty(3)]
    assert all(x.isnan().all() for x in made)
    assert not like.isnan().any()


def test_empty_integers_are_garbage() -> None:
    assert (torch.empty(5, dtype=torch.uint8) == 0xAA).all()
    assert (torch.empty(2, 3, dtype=torch.int64) == -0x5555555555555556).all()


def test_empty_of_no_elements_and_on_meta_are_left_alone() -> None:
    assert torch.empty(0, 4).shape == (0, 4)
    with torch.device("meta"):
        assert torch.empty(3).device.type == "meta"


def test_threads_are_set_here(set_threads) -> None:
    set_threads(1)
    assert torch.get_num_threads() == 1
