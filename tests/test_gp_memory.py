"""gp_memory.py: samples that a Gaussian process cannot take are refused before anything is made, by
figures that are true."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spex_core import gp_memory

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"


def test_as_many_as_allowed(monkeypatch):
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 2**40)
    gp_memory.check_samples_fit("gpspex: budget", 5000, 40)
    message = r"gpspex: budget must be at most 5,000 .*, got 5,001: prox"
    with pytest.raises(ValueError, match=message):
        gp_memory.check_samples_fit("gpspex: budget", 5001, 40)
    message = r"more: count must be at most 10 for a Gaussian process that has 4,990, .*, got 11: "
    gp_memory.check_samples_fit("more: count", 10, 40, before=4990)
    with pytest.raises(ValueError, match=message):
        gp_memory.check_samples_fit("more: count", 11, 40, before=4990)


def test_memory_that_is_not_there(monkeypatch):
    needed = gp_memory.bytes_of(1000, 64)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: needed)
    gp_memory.check_samples_fit("fit: masks", 1000, 64)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: needed - 1)
    gp_memory.check_samples_fit("fit: masks", 990, 64)
    message = (
        f"fit: masks must be fewer for this machine: 1,000 samples of 64 features need "
        f"{needed >> 20} MB, {needed - 1 >> 20} MB are free"
    )
    with pytest.raises(ValueError, match=message) as caught:
        gp_memory.check_samples_fit("fit: masks", 1000, 64)
    assert "proxyspex()" in str(caught.value)
    for more in ((1000, 5000, 1), (1000, 64, 2)):  # features, and outputs
        with pytest.raises(ValueError, match="must be fewer for this machine"):
            gp_memory.check_samples_fit("fit: masks", *more)
        assert not gp_memory.affordable(more[0], more[1], 1, more[2])
    assert gp_memory.affordable(990, 64, 4, 1)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: None)
    gp_memory.check_samples_fit("fit: masks", 5000, 64)


# ---- What is free --------------------------------------------------------------------------------


def machine(root, cgroup, files):
    """A system with 8 GB free, whose control groups are these files."""
    files = {"proc/meminfo": "MemTotal: 1 kB\nMemAvailable: 8000000 kB\n"} | files
    files["proc/self/cgroup"] = cgroup
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return gp_memory.available_bytes(root)


def group(folder, version, limit, used, idle):
    _, *names, cache = gp_memory.GROUPS[version]
    texts = (limit, str(used), f"anon 5\n{cache} {idle}\n")
    return {f"{folder}/{name}": x for name, x in zip((*names, "memory.stat"), texts, strict=True)}


def test_this_machine_says_how_much_it_has():
    there = gp_memory.available_bytes()
    assert there is None or there > 2**20


def test_no_limit(tmp_path):
    free = group("sys/fs/cgroup/a", 2, "max\n", 70, 0)
    assert machine(tmp_path, "0::/a\n", free) == 8_000_000 * 1024
    assert gp_memory.available_bytes(tmp_path / "nowhere") is None


def test_a_container_of_version_2(tmp_path):
    """The least of its own group and those around it; cached files can be dropped."""
    files = group("sys/fs/cgroup/a/b", 2, "1000000\n", 400_000, 100_000)
    assert machine(tmp_path, "0::/a/b\n", files) == 700_000
    files |= group("sys/fs/cgroup/a", 2, "900000\n", 500_000, 0)
    assert machine(tmp_path, "0::/a/b\n", files) == 400_000
    files |= group("sys/fs/cgroup/a", 2, "400000\n", 500_000, 0)
    assert machine(tmp_path, "0::/a/b\n", files) == 0


def test_a_container_of_version_1_seen_from_inside(tmp_path):
    """The path is the host's, the files are at the top."""
    files = group("sys/fs/cgroup/memory", 1, "2000000", 500_000, 200_000)
    lines = "12:cpu:/docker/x\n4:memory:/docker/x\n0::/docker/x\n"
    assert machine(tmp_path, lines, files) == 1_700_000


# ---- What is needed ------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from spex_core import fit
samples, n, outputs = map(int, sys.argv[1:])

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith(name + ":")) << 10

rng = np.random.default_rng(0)
masks = rng.random((samples, n)) < 0.5
s = 1.0 - 2 * masks[:, :12]
y = s[:, :6].sum(1) + 2 * s[:, 0] * s[:, 1] + s[:, 2] * s[:, 3] * s[:, 4] + 1.5 * s[:, 9] * s[:, 5]
y = y[:, None] * np.arange(1, 1 + outputs) + 0.1 * rng.normal(size=(samples, outputs))
start = resident("VmRSS")
fit(masks, y, algorithm="gpspex", degree=2)
print(resident("VmHWM") - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to read the peak of")
@pytest.mark.parametrize(("samples", "n", "outputs"), [(300, 20, 3), (700, 40, 1), (40, 2500, 1)])
def test_a_fit_takes_what_is_said(samples, n, outputs):
    sizes = [str(x) for x in (samples, n, outputs)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *sizes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stated = gp_memory.bytes_of(samples, n, outputs)
    assert stated / 3 < int(done.stdout) < stated


# ---- How long it takes ---------------------------------------------------------------------------


def recorded():
    """CPU seconds of fits of degree 5 by samples and features, the middle one of each."""
    found = {}
    for path in RESULTS.glob("gp_runs_*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row.get("gp_cpu"):
                found.setdefault((row["samples"], row["n"]), []).append(row["gp_cpu"])
    return {key: sorted(all_)[len(all_) // 2] for key, all_ in found.items()}


def test_seconds_are_those_that_were_measured():
    ratios = [gp_memory.seconds_of(*key, 5) / took for key, took in recorded().items()]
    assert len(ratios) > 50
    assert min(ratios) > 1 / 3
    assert max(ratios) < 3
    assert sum(1 / 2 < ratio < 2 for ratio in ratios) > 0.9 * len(ratios)
    for row in json.loads((RESULTS / "gp_speed.json").read_text())["rows"]:
        said = gp_memory.seconds_of(row["samples"], row["n"], row["degree"])
        assert 1 / 2.5 < said / row["cpu"] < 2.5
        assert row["mb"] < gp_memory.bytes_of(row["samples"], row["n"]) / 1e6


@pytest.mark.parametrize(  # CPU seconds of planted functions with pairs, measured as they are here
    ("samples", "n", "degree", "took"),
    [(100, 4096, 2, 5.59), (300, 1000, 4, 3.0), (100, 717, 4, 1.97), (50, 20000, 2, 18.4)],
)
def test_seconds_of_many_features(samples, n, degree, took):
    assert 1 / 2 < gp_memory.seconds_of(samples, n, degree) / took < 2
