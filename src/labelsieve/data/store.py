"""An array made row by row over a long time, which a killed process does not lose."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from labelsieve.files import cannot_write

_Line = dict[str, Any]


class RowStore:
    """The rows of N images as they are made: in memory, or in a .npy file with notes beside it.

    The notes are a .jsonl of the same name: a line that says what the array is of, then one for
    each piece, written when its rows are in the file. A line that was cut off by a kill does not
    count. While it grows, the array's file has another name.

    Example:
        >>> store = RowStore(None, {"of": "three images"}, 3)
        >>> store.begin((2,), np.float32)
        >>> store.values[:2] = 1
        >>> store.note(2)
        >>> store.done, store.complete
        (2, False)

    Attributes:
        values: (N, ...) once it is there: taken over, or after `begin`.
        done: images whose rows are made, or that are broken, in the order of making.
        broken: why there is no row of an image; row -> reason.
        begun: whether there is room for the rows: taken over, or made by `begin`.
        resumed: what was noted of each piece that was taken over.
    """

    values: NDArray[Any]

    def __init__(self, path: Path | None, key: Mapping[str, Any], n: int) -> None:
        """Take over what is on disk, where it is of the same key; else forget it.

        Args:
            path: the .npy file; None for memory.
            key: all that the rows depend on, as JSON: equal keys, equal rows.
            n: N.

        Raises:
            RunError: notes of other rows cannot be removed.
        """
        self.path, self.key, self.n = path, dict(key), n
        self.done = 0
        self.broken: dict[int, str] = {}
        self.resumed: list[_Line] = []
        self.begun = False
        self._early: list[_Line] = []  # noted before it was known how large a row is
        if path is not None and not self._take_over():
            # before anything that they speak of is overwritten
            try:
                self._notes.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(self._notes, error) from error

    @property
    def complete(self) -> bool:
        """Whether all rows are made."""
        return self.done == self.n

    def begin(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make room for N rows of a shape and type, unless there is some already.

        Raises:
            RunError: the file cannot be written, or there is no space for it.
        """
        if self.begun:
            return
        self.begun = True
        if self.path is None:
            self.values = np.zeros((self.n, *shape), dtype)
            return
        partial = self._partial
        try:
            self.path.unlink(missing_ok=True)
            self.values = np.lib.format.open_memmap(partial, "w+", dtype, (self.n, *shape))
            if hasattr(os, "posix_fallocate"):
                # a write to a memory map on a full disk would end the process without a word
                with open(partial, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error
        # only now: with notes, an empty file would pass for one with rows
        self._write([self._head(), *self._early], "w")

    def note(self, n: int, broken: Mapping[int, str] | None = None, **said: Any) -> None:
        """Remember that the rows of the next n images are there, or broken.

        Raises:
            RunError: the notes cannot be written.
        """
        self.done += n
        self.broken.update(broken or {})
        line = {"n": n, "broken": dict(broken or {}), **said}
        if not self.begun:
            self._early.append(line)
        elif self.path is not None:
            self.values.flush()  # type: ignore[attr-defined]
            self._write([line], "a")

    def finish(self) -> NDArray[Any]:
        """All rows; on disk under the file's own name, and read-only."""
        if self.path is not None:
            if self._partial.exists():
                self.values.flush()  # type: ignore[attr-defined]
                os.replace(self._partial, self.path)
            self.values = np.load(self.path, mmap_mode="r")
        return self.values

    @property
    def _notes(self) -> Path:
        assert self.path is not None  # noqa: S101 -- asked only where there is one
        return self.path.with_suffix(".jsonl")

    @property
    def _partial(self) -> Path:
        assert self.path is not None  # noqa: S101 -- asked only where there is one
        return self.path.with_name(self.path.name + ".partial")

    def _head(self) -> _Line:
        about = {"shape": list(self.values.shape), "dtype": str(self.values.dtype)}
        return {"key": self.key, **about}

    def _take_over(self) -> bool:
        """Whether rows of the same key were there, and now are ours."""
        lines = self._lines()
        if not lines or lines[0].get("key") != self.key:
            return False
        done = sum(line["n"] for line in lines[1:])
        if done == self.n and self._opened(self.path, lines[0]):
            pass  # all is done
        elif self._opened(self._partial, lines[0]):
            # what follows the last whole line was cut off by a kill
            self._write(lines, "w")
        else:
            return False
        self.begun, self.done, self.resumed = True, done, lines[1:]
        for line in self.resumed:
            self.broken.update({int(row): reason for row, reason in line["broken"].items()})
        return True

    def _opened(self, path: Path | None, head: _Line) -> bool:
        if path is None:
            return False
        try:
            self.values = np.load(path, mmap_mode="r+" if path == self._partial else "r")
        except (OSError, ValueError, EOFError):
            return False
        return head == self._head() and len(self.values) == self.n

    def _lines(self) -> list[_Line]:
        lines = []
        try:
            for text in self._notes.read_text(encoding="utf-8").splitlines():
                lines.append(json.loads(text))
        except (OSError, ValueError):
            pass  # not there yet, or its last line is cut off
        return lines

    def _write(self, lines: list[_Line], mode: str) -> None:
        try:
            with open(self._notes, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise cannot_write(self._notes, error) from error
