"""What is shipped: the files of the wheel and of the sdist, and what importing the wheel costs.

The sdist is built from this tree and the wheel from the sdist, without a network, in a temporary
folder. Programs run against the unpacked wheel with `-S`, so that no development install is found.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = importlib.machinery.EXTENSION_SUFFIXES[0]  # ".cpython-311-x86_64-linux-gnu.so"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder holding one sdist and the wheel built from it."""
    for module in ("build", "scikit_build_core", "pybind11"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    folder = tmp_path_factory.mktemp("dist")
    options = ["--no-isolation", "--skip-dependency-check", f"-Cbuild-dir={folder / 'build'}"]
    options += ["-Ccmake.define.SPEX_CUDA=OFF"]  # as where there is no CUDA compiler; and quick
    command = [sys.executable, "-m", "build", *options, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="session")
def installed(wheel: zipfile.ZipFile, dist: Path) -> Path:
    """The wheel, unpacked."""
    wheel.extractall(dist / "installed")
    return dist / "installed"


def run(installed: Path, program: str) -> str:
    """What `program` prints where the unpacked wheel and its dependencies can be imported."""
    places = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        cwd=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_files(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = python_files("spex_core") | {"spex_core/py.typed", f"spex_core/_cpu{EXTENSION}"}
    expected |= {f"spex_core/{name}" for name in python_files("triton_kernels")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "spex_core/templates").iterdir()}
    packages = {"", "interop/", "triton_kernels/", "values/"}
    some = {f"{package}__init__.py" for package in packages} | {"templates/page.html"}
    assert {f"spex_core/{name}" for name in some} <= expected
    about = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    names = {re.sub(r"^spex_core-[^/]+\.dist-info/", "", name) for name in wheel.namelist()}
    assert names == expected | set(about)


def test_sdist_holds_sources_tests_and_benches(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").iterdir()}
    tests = {str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("*.[chp]*") if p.is_file()}
    wanted = sources | {name for name in tests if "__pycache__" not in name}
    wanted |= python_files("spex_core") | python_files("triton_kernels") | python_files("bench")
    wanted |= {"Makefile", "README.md", "LICENSE", "constraints.txt", "pyproject.toml"}
    assert {"csrc/CMakeLists.txt", "csrc/bind_cpu.cpp", "tests/cpp/main.cpp"} <= wanted
    assert wanted <= names
    assert not {name for name in names if name.endswith((".so", ".pyc"))}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "spex-core"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    required = metadata.get_all("Requires-Dist")
    always = {re.split("[^a-z]", line)[0] for line in required if "extra ==" not in line}
    assert always == {"numpy", "torch", "triton"}
    assert "sys_platform" in next(line for line in required if line.startswith("triton"))
    (scripts,) = (wheel.read(n).decode() for n in wheel.namelist() if n.endswith("points.txt"))
    assert "spex = spex_core.cli:main" in scripts.splitlines()


def test_development_versions_are_within_the_metadata(wheel: zipfile.ZipFile) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    for line in Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist"):
        requirement = requirements.Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line


def test_import_needs_numpy_and_torch_only_and_is_quick(installed: Path) -> None:
    program = """
import sys, time, numpy, torch
before, start = set(sys.modules), time.process_time()
import spex_core
print(time.process_time() - start)
import spex_core.interop.games, spex_core.interop.spectralexplain, spex_core.values
new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(new - {"numpy", "torch"}))
print(spex_core.__file__, torch.cuda.is_initialized(), "spex_core._cpu" in sys.modules)
"""
    seconds, new, state = run(installed, program).splitlines()
    assert new == "spex_core"
    assert state == f"{installed / 'spex_core' / '__init__.py'} False False"
    assert float(seconds) < 0.5  # a fifth of a second where nothing else runs


def test_the_compiled_kernels_of_the_wheel_run(installed: Path) -> None:
    program = """
import torch, spex_core.triton_kernels
from spex_core import ops
print(ops.fwht(torch.tensor([1.0, 2.0]), backend="cpu").tolist(), spex_core.triton_kernels.__file__)
"""
    kernels = installed / "spex_core" / "triton_kernels" / "__init__.py"
    assert run(installed, program) == f"[3.0, -1.0] {kernels}\n"


def test_the_wheel_writes_pages(installed: Path) -> None:
    program = """
import spex_core
spex_core.proxyspex(lambda x: x[:, 0] * 1.0, n=4, budget=16).to_html("page.html")
print(open("page.html").read().count("<script"))
"""
    assert run(installed, program) == "2\n"


def test_the_development_install_finds_triton_kernels() -> None:
    """The folder at the top of the repository is spex_core.triton_kernels there too."""
    spec = importlib.util.find_spec("spex_core.triton_kernels")
    if spec is None:
        pytest.skip("spex_core is imported from its folder, not installed")
    assert Path(spec.origin) == ROOT / "triton_kernels" / "__init__.py"
