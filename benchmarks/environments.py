"""An environment for each of the other loaders, over this one: they want versions that cannot be had side by side.

`python -m benchmarks.environments` installs them under `.cache/peers`. What an environment has itself goes before what
this one has, so all of them run the same torch, Pillow and tokenizer unless their loader wants another version.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

from benchmarks.contender import ROOT

HOME = ROOT / ".cache" / "peers"
PACKAGES = {"energon": "megatron-energon", "litdata": "litdata", "mosaic": "mosaicml-streaming", "spdl": "spdl"}


def python_of(peer: str) -> Path:
    """The interpreter that a peer runs in; it is there once the peer is installed."""
    return HOME / peer / "bin" / "python"


def missing(peer: str) -> str:
    """Why a peer cannot be measured; empty when it can."""
    if not (HOME / peer / "complete").exists():
        return "not installed: python -m benchmarks.environments"
    return ""


def installed_version(peer: str) -> str | None:
    """Of the package, in its environment."""
    for info in HOME.glob(f"{peer}/lib/*/site-packages/{PACKAGES[peer].replace('-', '_')}-*.dist-info"):
        return info.name.removesuffix(".dist-info").rpartition("-")[2]
    return None


def install(peer: str) -> None:
    """Make the environment.

    Raises:
        subprocess.CalledProcessError: pip could not install the package.
    """
    home = HOME / peer
    venv.create(home, with_pip=True, clear=True)
    (site,) = home.glob("lib/*/site-packages")
    (site / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    constraints = home / "constraints.txt"
    constraints.write_text(f"torch=={version('torch').partition('+')[0]}\n", encoding="utf-8")
    command = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "-c", str(constraints), PACKAGES[peer]], check=True)
    (home / "complete").touch()


def main() -> int:
    """Install those that are not there. One that cannot be had here is named, and measured nowhere."""
    for peer in PACKAGES:
        if missing(peer):
            try:
                install(peer)
            except (subprocess.CalledProcessError, OSError) as exc:
                print(f"{peer}: {exc}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
