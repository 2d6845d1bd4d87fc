"""gp_memory.py: samples that a Gaussian process cannot take are refused before anything is made."""

import pytest

from spex_core import gp_memory


def test_as_many_as_allowed(monkeypatch):
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 2**40)
    gp_memory.check_samples_fit("gpspex: budget", 5000)
    with pytest.raises(
        ValueError, match=r"gpspex: budget must be at most 5,000 .*, got 5,001: prox"
    ):
        gp_memory.check_samples_fit("gpspex: budget", 5001)


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 70 * 2**20)
    gp_memory.check_samples_fit("fit: masks", 900)
    message = "fit: masks must be fewer for this machine: 1,000 need 76 MB for matrices, 70 MB are "
    with pytest.raises(ValueError, match=message) as caught:
        gp_memory.check_samples_fit("fit: masks", 1000)
    assert "proxyspex()" in str(caught.value)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: None)
    gp_memory.check_samples_fit("fit: masks", 5000)


def test_this_machine_says_how_much_it_has():
    there = gp_memory.available_bytes()
    assert there is None or there > 2**20
