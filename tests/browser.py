"""Chromium without a window, for the tests and the bench of the HTML page.

    python tests/browser.py    # fetch it and axe-core from the npm registry, into build/browser

Without npm or a network nothing is fetched, and what needs the browser skips. $SPEX_CHROMIUM names
another one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).resolve().parent.parent / "build" / "browser"
CHROMIUM, AXE = "@sparticuz/chromium@153.0.0", "axe-core@4.14.1"

UNPACK = """
const { createReadStream, createWriteStream } = require("fs");
const { pipeline } = require("stream/promises");
const [from, to] = process.argv.slice(1);
pipeline(createReadStream(from), require("zlib").createBrotliDecompress(), createWriteStream(to));
"""


def install() -> None:
    """Fetch the browser, the few libraries that it may miss, and axe-core."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        there = Path(temporary)
        for package in (CHROMIUM, AXE):
            command = ["npm", "pack", "--silent", "--pack-destination", temporary, package]
            subprocess.run(command, check=True, capture_output=True)
        for archive in there.glob("*.tgz"):
            with tarfile.open(archive) as file:
                file.extractall(there, filter="data")
        _unpack(there / "package/bin/al2023.tar.br", there / "libraries.tar")
        with tarfile.open(there / "libraries.tar") as file:
            file.extractall(FOLDER, filter="data")  # lib/
        os.replace(there / "package/axe.min.js", FOLDER / "axe.min.js")
        _unpack(there / "package/bin/chromium.br", there / "chromium")
        (there / "chromium").chmod(0o755)
        os.replace(there / "chromium", FOLDER / "chromium")


def _unpack(packed: Path, to: Path) -> None:
    subprocess.run(["node", "-e", UNPACK, packed, to], check=True)


def chromium() -> str | None:
    """Where a browser is: the one named, the one fetched, one of the system; or None."""
    fetched = FOLDER / "chromium"
    return (
        os.environ.get("SPEX_CHROMIUM")
        or (str(fetched) if fetched.exists() else None)
        or shutil.which("chromium-headless-shell")
        or shutil.which("chromium")
    )


def why_not() -> str | None:
    """Why there is no browser here, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if chromium() else "no Chromium: run python tests/browser.py, which needs npm"


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    libraries = os.pathsep.join([str(FOLDER / "lib"), os.environ.get("LD_LIBRARY_PATH", "")])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox"],  # which does not start as root
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )
        yield browser
        browser.close()


if __name__ == "__main__":
    try:
        install()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no browser fetched, tests of the page skip: {error}")
