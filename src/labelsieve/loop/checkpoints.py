"""What a training needs to go on after it was killed, in one file that is whole or not there."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from labelsieve.errors import RunError
from labelsieve.files import atomic, cannot_write
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.run import flat

NAME = "state.pt"
_SHARE = 20  # epochs that take seconds are not saved each: saving takes at most 1/20 of the time


class Stateful(Protocol):
    """A network, an optimizer, a bank: what gives its state and takes it back."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


Kept = Stateful | Tensor | torch.Generator | np.random.Generator


class Checkpoint:
    """Things whose states are saved together and restored together."""

    def __init__(
        self,
        folder: Path | None,
        kept: Mapping[str, Kept],
        settings: Mapping[str, Any],
        runtime: Runtime,
    ) -> None:
        """Name what is kept; nothing is read or written yet.

        Args:
            folder: of the file `state.pt`, made where it is missing; None keeps nothing.
            kept: networks without what `Runtime.prepare` wrapped around them, optimizers, banks,
                tensors, generators of torch and numpy.
            settings: everything that decides the result: a checkpoint of others is refused.
            runtime: only its main process writes; its own state is kept as well.
        """
        self.path = None if folder is None else folder / NAME
        self._kept: dict[str, Kept] = {**kept, "runtime": runtime}
        self._settings, self._runtime = dict(settings), runtime
        self._saved_at, self._cost = time.monotonic(), 0.0  # seconds

    def load(self) -> bool:
        """Restore what was saved; whether there was something.

        Raises:
            RunError: the file is of other settings, damaged, or not seen by all processes.
        """
        if self.path is None:
            return False
        found = self.path.exists()
        if self._runtime.any(found) and self._runtime.any(not found):
            raise RunError(
                f"{self.path}: only some of the processes see this file. Put the run's folder on a "
                "disk that all machines share."
            )
        if not found:
            return False
        saved = self._read(self.path)
        self._check_settings(self.path, saved["settings"])
        for name, thing in self._kept.items():
            try:
                _restore(thing, saved["kept"][name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                reason = " ".join(str(error).split()).removesuffix(".")
                raise RunError(
                    f"{self.path}: what was saved of {name!r} does not fit: {reason}. Give the "
                    "networks it was begun with, or start again in another folder."
                ) from error
        return True

    def due(self, minutes: float, *, epoch_ended: bool = False) -> bool:
        """Whether it is time to save: so many minutes have passed, or an epoch has ended.

        All processes must ask, and get the same answer.
        """
        passed = time.monotonic() - self._saved_at
        due = passed > 60 * minutes or (epoch_ended and passed > _SHARE * self._cost)
        return self.path is not None and self._runtime.any(due and self._runtime.is_main)

    def save(self) -> None:
        """Save the states of all, by the main process; the others must call it as well.

        Raises:
            RunError: the file cannot be written; the one before it is as it was.
        """
        if self.path is None:
            return
        begun = time.monotonic()
        states = {name: _state(thing) for name, thing in self._kept.items()}
        if self._runtime.is_main:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(self.path.parent, error) from error
            with atomic(self.path) as partial, partial.open("wb", buffering=0) as file:
                _save({"settings": self._settings, "kept": states}, file)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begun

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(saved, dict) or not {"settings", "kept"} <= saved.keys():
                raise ValueError("it holds something else than a training's state")
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).removesuffix(".")
            if isinstance(error, pickle.UnpicklingError):  # torch advises to open it unsafely
                reason = "it is damaged, or holds something else than numbers and names"
            raise RunError(
                f"{path}: cannot be read as a checkpoint: {reason}. Remove it to train this phase "
                "from its beginning."
            ) from error
        return saved

    def _check_settings(self, path: Path, before: Mapping[str, Any]) -> None:
        then, now = flat(before), flat(self._settings)
        changed = sorted(n for n in then.keys() | now.keys() if then.get(n) != now.get(n))
        if changed:
            first = changed[0]
            raise RunError(
                f"{path}: this training was begun with other settings: {', '.join(changed)} "
                f"changed ({first} was {then.get(first)!r} and is {now.get(first)!r}). Give the "
                "settings it was begun with, or start again in another folder."
            )


def _save(value: object, file: IO[bytes]) -> None:
    """torch.save, but a full disk is an OSError: torch reports a position it did not expect."""
    errors: list[OSError] = []

    class Watched:
        def write(self, part: bytes) -> int:
            try:
                return file.write(part)
            except OSError as error:
                errors.append(error)
                raise

        def flush(self) -> None:
            file.flush()

    try:
        torch.save(value, cast(IO[bytes], Watched()))
    except RuntimeError:
        if errors:
            raise errors[0] from None
        raise


def _state(thing: Kept) -> Any:
    if isinstance(thing, nn.Module):
        return bare(thing).state_dict()
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, np.random.Generator):
        return _lists(thing.bit_generator.state)
    return thing.state_dict()


def _lists(state: Any) -> Any:
    """A numpy generator's state without arrays, which torch.load would not open safely."""
    if isinstance(state, Mapping):
        return {name: _lists(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _restore(thing: Kept, state: Any) -> None:
    if isinstance(thing, nn.Module):
        bare(thing).load_state_dict(state)
    elif isinstance(thing, Tensor):
        if thing.shape != state.shape:
            raise ValueError(f"shape {tuple(state.shape)}, expected {tuple(thing.shape)}")
        with torch.no_grad():
            thing.copy_(state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    else:
        thing.load_state_dict(state)
