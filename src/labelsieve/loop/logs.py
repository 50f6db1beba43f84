"""The log of a training: one line an epoch in log.jsonl, and the same for TensorBoard if wanted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelsieve.errors import import_extra
from labelsieve.files import atomic, cannot_write

# What differs between two runs of the same training.
TIMINGS = ("images_per_second", "waiting_share")


class EpochLog:
    """Lines of one phase in a log.jsonl that other phases and stages write to as well.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = EpochLog(Path(folder) / "log.jsonl", phase="pretrain")
        ...     log.restart(0)
        ...     log.write(0, {"loss": 5.25})
        ...     print(log.path.read_text(), end="")
        {"phase": "pretrain", "epoch": 0, "loss": 5.25}
    """

    def __init__(self, path: Path, phase: str, tensorboard: Path | None = None) -> None:
        """Name the phase; nothing is written before `restart` and `write`.

        Args:
            path: of log.jsonl; made where it is missing.
            phase: such as "pretrain".
            tensorboard: folder for TensorBoard's event files; needs the extra of that name.

        Raises:
            MissingExtraError: TensorBoard is wanted and not installed.
        """
        self.path, self.phase, self._tensorboard = path, phase, tensorboard
        self._writer: Any = None
        if tensorboard is not None:
            import_extra("tensorboard", "tensorboard", "writing event files for TensorBoard")

    def restart(self, epoch: int) -> None:
        """Drop what an interrupted training wrote of this epoch and later ones: it comes again.

        Raises:
            RunError: the file cannot be written.
        """
        kept = [line for line in self._lines() if not self._is_from(line, epoch)]
        with atomic(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        if self._tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.close()
            folder = str(self._tensorboard / self.phase)
            self._writer = SummaryWriter(folder, purge_step=epoch)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the line of an epoch; numbers that are not finite become null.

        Raises:
            RunError: the file cannot be written.
        """
        numbers = {name: float(v) if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({"phase": self.phase, "epoch": epoch, **numbers})
        try:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{self.phase}/{name}", value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's file, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _lines(self) -> list[str]:
        """The whole lines there are: a process killed while it wrote leaves half of one."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return [line for line in text.split("\n")[:-1] if line]

    def _is_from(self, line: str, epoch: int) -> bool:
        try:
            facts = json.loads(line)
        except ValueError:
            return False  # not ours to judge
        return (
            isinstance(facts, dict)
            and facts.get("phase") == self.phase
            and facts.get("epoch", -1) >= epoch
        )


def history(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The epochs of each phase in a log.jsonl."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # cut off by a kill, and the next line written behind it
        if "phase" in facts:
            found.setdefault(facts["phase"], []).append(facts)
    return found
