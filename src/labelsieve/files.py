"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelsieve.errors import RunError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on failure it is removed.

    Raises:
        RunError: the file cannot be written (full disk, no permission), saying what to do.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write readable JSON, atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def cannot_write(path: Path, error: OSError) -> RunError:
    """What to say when a file or folder cannot be written."""
    return RunError(
        f"{path}: cannot be written: {error.strerror or error}. Free some space or choose another "
        "--out; what is finished stays, and --resume goes on from it."
    )
