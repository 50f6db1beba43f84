"""What can go wrong, as a tree.

::

    LabelsieveError         anything we can explain; the command line prints its text, exits with 1
    ├── DataError           the user's images, tables or features are not what was expected
    ├── ConfigError         a setting has no such name, type or range
    ├── NumericError        a computation left the numbers it can be trusted with
    ├── RunError            a run's folder cannot be made, locked, resumed or written
    └── MissingExtraError   an optional library is not installed; says which line installs it

``DataError`` and ``ConfigError`` are also ``ValueError``. A message says, in this order and as far
as known: where, what was found, what was expected, what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LabelsieveError(Exception):
    """Anything that went wrong and that we can explain."""


class DataError(LabelsieveError, ValueError):
    """The user's data are not what was expected."""


class ConfigError(LabelsieveError, ValueError):
    """A setting's name, type or range is off."""


class NumericError(LabelsieveError):
    """A computation gave numbers that cannot be trusted."""


class RunError(LabelsieveError):
    """A run's folder cannot be made, locked, resumed or written."""


class MissingExtraError(LabelsieveError):
    """An optional library is needed and not installed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known names, or all of them where none is near.

    Example:
        >>> did_you_mean("min_sample", ["min_samples", "xi"])
        "Did you mean 'min_samples'?"
        >>> did_you_mean("zzz", ["xi", "min_samples"])
        'There are: min_samples, xi.'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"There are: {', '.join(names)}." if names else "There are none."


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional library, or say which line installs it.

    Args:
        module: what to import, such as "faiss".
        extra: the extra of this package that brings it.
        purpose: what it is needed for, as the end of "is needed for".

    Raises:
        MissingExtraError: the library is not installed, or fails while it is imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            raise MissingExtraError(
                f"{module} is not installed; it is needed for {purpose}. "
                f"Install it with: pip install 'labelsieve[{extra}]'"
            ) from error
        raise MissingExtraError(
            f"{module} is needed for {purpose}; it is installed but cannot be imported: {error}."
        ) from error
