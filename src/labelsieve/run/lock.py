"""One process at a time writes to a run's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from labelsieve.errors import RunError
from labelsieve.files import cannot_write


def hold(path: Path) -> IO[str]:
    """Hold a lock that the system gives back even when the process is killed."""
    try:
        held = path.open("w", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(held.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise RunError(
            f"{path.parent}: another labelsieve is writing to it. "
            "Wait for it, or choose another --out."
        ) from error
    return held


def release(path: Path, held: IO[str]) -> None:
    """Give a lock back."""
    held.close()
    (path / ".lock").unlink(missing_ok=True)
