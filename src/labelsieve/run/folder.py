"""A run's folder: made, locked, written atomically, timed and resumed.

A run is killed at any time without harm: every file is written under a temporary name and renamed,
so a file that is there is whole, and `--resume` goes on after the last whole one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from labelsieve.errors import ConfigError, DataError, MissingExtraError, RunError
from labelsieve.files import cannot_write, write_json
from labelsieve.run.about import about_now, check_same_settings, peak_memory_mb, read_about
from labelsieve.run.lock import hold, release
from labelsieve.run.outputs import (
    COSTLY,
    REPLACED,
    is_half_begun,
    not_empty,
    put_back,
    remove_outputs,
    set_aside,
)

USERS_MISTAKES = (DataError, ConfigError, MissingExtraError)
T = TypeVar("T")


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
            present = sorted(entry.name for entry in path.iterdir() if not is_half_begun(entry))
        except OSError as error:
            raise cannot_write(path, error) from error
        lock = hold(path / ".lock")
        try:
            return cls._begin(path, lock, present, command, settings, resume, overwrite)
        except BaseException:
            release(path, lock)
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
        before = read_about(path) if "run.json" in present else None
        if resume and before is not None:
            check_same_settings(path, before, command, settings)
            run = cls(path, lock, before)
            if run.done:
                run._tidy()  # killed after it was done
            else:
                run.note(n_resumed=run.about.get("n_resumed", 0) + 1)
            return run
        if overwrite and before is not None:
            set_aside(path, before["job"])
        elif present:
            raise RunError(not_empty(path, present, is_run=before is not None))
        run = cls(path, lock, about_now(command, settings), fresh=True)
        run.checkpoint.mkdir(exist_ok=True)
        run._write()
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        mistaken = self._fresh and kind is not None and issubclass(kind, USERS_MISTAKES)
        if mistaken and not (self.path / COSTLY).exists():
            # The user will change the words: what this run was begun with is of no use.
            remove_outputs(self.path, self.about["job"])
            put_back(self.path)
        self.close()
        if self._fresh and kind is not None and not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def done(self) -> bool:
        """Whether the run that was resumed had already finished."""
        return bool(self.about["status"] == "done")

    def close(self) -> None:
        """Give the lock back."""
        release(self.path, self._lock)

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
