"""A run's folder: made, locked, written atomically, timed and resumed.

A run is killed at any time without harm: every file is written under a temporary name and renamed,
so a file that is there is whole, and `--resume` goes on after the last whole one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from labelsieve import __version__
from labelsieve.errors import ConfigError, DataError, MissingExtraError, RunError
from labelsieve.files import cannot_write, write_json

T = TypeVar("T")

# What a run writes: --overwrite removes these and nothing else.
OUTPUTS = (
    "run.json", "log.jsonl", "findings.parquet", "findings.csv", "audit.parquet", "decided.jsonl",
    "predictions.parquet", "predictions.csv", "clusters.parquet",
    "clusters.csv", "prototypes.csv", "retrieved.parquet", "retrieved.csv", "embeddings.npy",
    "embeddings.json", "tags.parquet", "tags.csv", "labels.parquet", "labels.csv", "given.parquet",
    "given.images.parquet", "by_tag.csv", "to_verify.csv", "page.json", "counted.parquet",
    "cleaned", "cleaned.parquet", "cleaned.csv", "cleaned.json", "cleaned.txt", "cleaned.tsv",
    "test-embeddings.npy", "test-embeddings.json", "features.npy", "features.json", "report.html",
    "model.safetensors", "model.json", "joint.safetensors", "dictionary.safetensors", "pretext",
    "tensorboard", "checkpoint",
)  # fmt: skip
COSTLY = "pretext/model.json"  # a trained network, which --network takes: a late error leaves it
REPLACED = ".replaced"  # where the run that --overwrite replaces waits until the new one is done
USERS_MISTAKES = (DataError, ConfigError, MissingExtraError)
DEMO_OUTPUTS = ("images", "truth.csv")  # of a demo run only: elsewhere they may be the user's
LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "accelerate", "pillow", "simplejpeg",
             "pyarrow", "timm")  # fmt: skip


class Run:
    """An open, locked run folder. Make it with `Run.open` and use it as a context manager."""

    def __init__(
        self, path: Path, lock: IO[str], about: dict[str, Any], fresh: bool = False
    ) -> None:
        self.path = path
        self.about = about
        self._lock = lock
        self._fresh = fresh

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Run:
        """Make or resume the folder of a run, and lock it.

        Args:
            path: the folder; made where it is missing.
            command: what runs, such as "audit".
            settings: everything that decides the result, ready for JSON. A run is only resumed
                with the settings it was begun with.
            resume: go on with the run that is there; start afresh where there is none.
            overwrite: remove the outputs of the run that is there, and nothing else.

        Raises:
            RunError: the folder is not empty, in use, not writable, or holds another run.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            present = sorted(entry.name for entry in path.iterdir() if not _half_begun(entry))
        except OSError as error:
            raise cannot_write(path, error) from error
        lock = _lock(path / ".lock")
        try:
            return cls._begin(path, lock, present, command, settings, resume, overwrite)
        except BaseException:
            _unlock(path, lock)
            raise

    @classmethod
    def _begin(
        cls,
        path: Path,
        lock: IO[str],
        present: list[str],
        command: str,
        settings: Mapping[str, Any],
        resume: bool,
        overwrite: bool,
    ) -> Run:
        before = _read_about(path) if "run.json" in present else None
        if resume and before is not None:
            _same_settings(path, before, command, settings)
            run = cls(path, lock, before)
            if run.done:
                run._tidy()  # killed after it was done
            else:
                run.note(n_resumed=run.about.get("n_resumed", 0) + 1)
            return run
        if overwrite and before is not None:
            _set_aside(path, before["job"])
        elif present:
            raise RunError(_not_empty(path, present, is_run=before is not None))
        run = cls(path, lock, _about(command, settings), fresh=True)
        run.checkpoint.mkdir(exist_ok=True)
        run._write()
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        mistaken = self._fresh and kind is not None and issubclass(kind, USERS_MISTAKES)
        if mistaken and not (self.path / COSTLY).exists():
            # The user will change the words: what this run was begun with is of no use.
            _remove_outputs(self.path, self.about["job"])
            _put_back(self.path)
        self.close()
        if self._fresh and kind is not None and not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def done(self) -> bool:
        """Whether the run that was resumed had already finished."""
        return bool(self.about["status"] == "done")

    def close(self) -> None:
        """Give the lock back."""
        _unlock(self.path, self._lock)

    @property
    def checkpoint(self) -> Path:
        """The folder of intermediate results."""
        return self.path / "checkpoint"

    def note(self, **facts: Any) -> None:
        """Add facts to run.json at once."""
        self.about.update(facts)
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage in run.json and log.jsonl; CPU seconds count all threads.

        In run.json a stage that a resumed run comes to again has its times added up. What it took
        until it was killed is not known: run.json says how often the run was resumed.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        seconds = {
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        }
        before = self.about["timings"].get(name, {})
        self.about["timings"][name] = {
            unit: round(spent + before.get(unit, 0), 3) for unit, spent in seconds.items()
        }
        self.about["peak_memory_mb"] = peak_memory_mb()
        self._write()
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"stage": name, **seconds}) + "\n")

    def cached(
        self,
        path: Path,
        make: Callable[[], T],
        save: Callable[[T, Path], None],
        load: Callable[[Path], T],
    ) -> T:
        """Load what an interrupted run left at `path`, else make it and save it.

        `save` writes whole files or none, as those of the records do.
        """
        if path.exists():
            return load(path)
        value = make()
        save(value, path)
        return value

    def finish(self, **facts: Any) -> None:
        """Mark the run as done; what was only needed to resume it is removed."""
        self.note(status="done", **facts)
        self._tidy()

    def _tidy(self) -> None:
        for folder in (self.checkpoint, self.path / REPLACED):
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self) -> None:
        write_json(self.path / "run.json", self.about)


class Beside(Run):
    """A run's folder, as the processes beside the main one see it: they read what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The main process takes the time."""
        yield


def read_run(path: Path) -> dict[str, Any]:
    """The run.json of a finished run.

    Raises:
        RunError: there is no run, or it has not finished.
    """
    if not (path / "run.json").exists():
        raise RunError(f"{path}: not a run's folder: it has no run.json.")
    about = _read_about(path)
    if about["status"] != "done":
        raise RunError(
            f"{path}: this run has not finished. Start `labelsieve {about['job']}` again with the "
            "same words and --resume."
        )
    return about


def copy_run(source: Path, folder: Path) -> None:
    """Copy what a finished run wrote into a new folder.

    Raises:
        RunError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"{folder}: not empty. Choose another folder for the model.")
        for name in (*OUTPUTS[1:], OUTPUTS[0]):  # run.json last: what has it is whole
            written = source / name
            if written.is_dir():
                shutil.copytree(written, folder / name)
            elif written.exists():
                shutil.copyfile(written, folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error


def peak_memory_mb() -> float | None:
    """The most memory this process ever held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def _about(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
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
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        known = "labelsieve" in about and "settings" in about
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'run.json'}: cannot be read: {error}.") from error
    if not known:
        raise RunError(f"{path / 'run.json'}: written by another program; choose another --out.")
    return about


def _half_begun(entry: Path) -> bool:
    """Whether a run that was killed at once left this: a lock, a part of a file, no results."""
    if entry.name == "checkpoint":
        return not any(entry.iterdir())
    return entry.name in {".lock", REPLACED} or entry.name.startswith(".partial-")


def _same_settings(
    path: Path, before: Mapping[str, Any], command: str, settings: Mapping[str, Any]
) -> None:
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


def _set_aside(path: Path, job: str) -> None:
    """Move the outputs of a finished run out of the way; remove those of an unfinished one."""
    if _read_about(path)["status"] != "done":
        _remove_outputs(path, job)
        return
    shutil.rmtree(path / REPLACED, ignore_errors=True)
    (path / REPLACED).mkdir()
    for name in OUTPUTS + (DEMO_OUTPUTS if job == "demo" else ()):
        if (path / name).exists():
            (path / name).rename(path / REPLACED / name)


def _put_back(path: Path) -> None:
    """Undo `_set_aside`, if there is something."""
    if (path / REPLACED).is_dir():
        for entry in (path / REPLACED).iterdir():
            entry.rename(path / entry.name)
        (path / REPLACED).rmdir()


def _remove_outputs(path: Path, job: str) -> None:
    for name in OUTPUTS + (DEMO_OUTPUTS if job == "demo" else ()):
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _not_empty(path: Path, present: list[str], *, is_run: bool) -> str:
    if is_run:
        return (
            f"{path}: holds a run already. Add --resume to go on with it, --overwrite to replace "
            "it, or choose another --out."
        )
    shown = ", ".join(name for name in present[:3])
    return (
        f"{path}: not empty (it holds {shown}). Choose another --out: a run wants its own folder."
    )


def _lock(path: Path) -> IO[str]:
    """Hold a lock that the system gives back even when the process is killed."""
    try:
        lock = path.open("w", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise RunError(
            f"{path.parent}: another labelsieve is writing to it. "
            "Wait for it, or choose another --out."
        ) from error
    return lock


def _unlock(path: Path, lock: IO[str]) -> None:
    lock.close()
    (path / ".lock").unlink(missing_ok=True)
