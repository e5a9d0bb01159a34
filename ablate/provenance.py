"""With what a trial was computed. No user's name, no host, no path: a report may go to a double-blind review."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from ablate.version import __version__

LIBRARIES = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow", "numpy")


@functools.cache
def code_version() -> dict[str, str]:
    """Return the project's version, the commit of its checkout and whether that has uncommitted changes.

    Outside a git checkout of the project the commit is "unknown".
    """
    root = Path(__file__).resolve().parent.parent
    version = {"ablate": __version__, "git_sha": "unknown", "git_dirty": "unknown"}
    if not (root / ".git").exists():
        return version
    sha = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if sha is not None and changes is not None:
        version.update(git_sha=sha, git_dirty="yes" if changes else "no")
    return version


def commit_text(provenance: Mapping[str, str]) -> str:
    """Return a commit in 12 digits, marked where the checkout had uncommitted changes."""
    sha = provenance.get("git_sha", "unknown")[:12]
    return f"{sha} with changes" if provenance.get("git_dirty") == "yes" else sha


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


@functools.cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the numbers depend on."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
