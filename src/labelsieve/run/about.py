"""run.json: what a run was begun with, on what, and whether it may be resumed with these words."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelsieve import __version__
from labelsieve.errors import RunError

LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "accelerate", "pillow", "simplejpeg",
             "pyarrow", "timm")  # fmt: skip


def read_run(path: Path) -> dict[str, Any]:
    """The run.json of a finished run.

    Raises:
        RunError: there is no run, or it has not finished.
    """
    if not (path / "run.json").exists():
        raise RunError(f"{path}: not a run's folder: it has no run.json.")
    about = read_about(path)
    if about["status"] != "done":
        raise RunError(
            f"{path}: this run has not finished. Start `labelsieve {about['job']}` again with the "
            "same words and --resume."
        )
    return about


def about_now(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The run.json of a run that begins."""
    return {
        "labelsieve": __version__,
        "commit": _commit(),
        "job": command,
        "argv": sys.argv[1:],
        "status": "running",
        "settings": settings,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name))},
        "timings": {},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of a development checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def read_about(path: Path) -> dict[str, Any]:
    """The run.json of a run, finished or not.

    Raises:
        RunError: it cannot be read, or is no file of ours.
    """
    try:
        about: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        known = "labelsieve" in about and "settings" in about
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'run.json'}: cannot be read: {error}.") from error
    if not known:
        raise RunError(f"{path / 'run.json'}: written by another program; choose another --out.")
    return about


def check_same_settings(
    path: Path, before: Mapping[str, Any], command: str, settings: Mapping[str, Any]
) -> None:
    """Refuse to resume a run with other words, other images, or by another version.

    Raises:
        RunError: as it says.
    """
    then, now = flat(before["settings"]), flat(json.loads(json.dumps(settings)))
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if before["job"] != command or before["labelsieve"] != __version__:
        what = f"labelsieve {before['labelsieve']} {before['job']}"
        raise RunError(
            f"{path}: begun by `{what}` and cannot be resumed by {__version__} {command}. "
            "Choose another --out, or start again with --overwrite."
        )
    sources = {
        "images": "images", "labels": "labels", "files": "features or weights",
        "test": "test images", "evidence": "audit or its decisions",
    }  # fmt: skip
    if changed and {name.partition(".")[0] for name in changed} <= sources.keys():
        what = " and ".join(sorted({sources[name.partition(".")[0]] for name in changed}))
        raise RunError(
            f"{path}: the {what} have changed since this run was begun, so it cannot be resumed. "
            "Choose another --out, or start again with --overwrite."
        )
    if changed:
        first = changed[0]
        raise RunError(
            f"{path}: begun with other settings, so it cannot be resumed: {', '.join(changed)} "
            f"changed ({first} was {_short(then.get(first))} and is {_short(now.get(first))}). "
            "Give the settings it was begun with, choose another --out, or use --overwrite."
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, the way `--set` takes them.

    Example:
        >>> flat({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def peak_memory_mb() -> float | None:
    """The most memory this process ever held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
