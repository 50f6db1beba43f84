"""What the tables of the terminal have in common: their look, and what they do in little room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

NAME_CELLS = 28
LEAST_NAME_CELLS = 8

LOOK: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left", "expand": False}


@dataclass(frozen=True)
class TableOrLines:
    """A table where there is room for its figures, else sentences; figures are never cut off."""

    table: Table  # the texts of its first column may be cut down to some cells
    lines: list[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = self.table.columns[0]
        names.width = None  # as it was printed before, in a terminal of another width
        longest = max(cell_len(str(cell)) for cell in (names.header, *names.cells))
        natural = console.measure(self.table, options=options.update(max_width=1000)).maximum
        room = options.max_width - (natural - longest)
        if room >= min(longest, LEAST_NAME_CELLS):
            names.width = min(longest, room)
            yield self.table
        else:
            yield Text(str(self.table.title), style="italic")
            yield from self.lines


def warning_lines(warnings: tuple[str, ...]) -> Group | None:
    """Warnings, one a line; None where there are none."""
    lines = [Text.assemble(("warning  ", "bold yellow"), warning) for warning in warnings]
    return Group(*lines) if lines else None


def in_blocks(*blocks: RenderableType | None) -> RenderableType:
    """Blocks with a blank line between; None is left out."""
    shown = [block for block in blocks if block is not None]
    return Group(*shown[:1], *(part for block in shown[1:] for part in (Text(), block)))


def short(name: str, n_cells: int = NAME_CELLS) -> Text:
    """A name that is cut off where it is too long."""
    text = Text(name)
    text.truncate(n_cells, overflow="ellipsis")
    return text
