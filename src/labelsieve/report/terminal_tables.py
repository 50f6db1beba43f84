"""What the tables of the terminal have in common: their look, and what they do in little room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from labelsieve.report.classifier_scores import Interval
from labelsieve.report.spread import Spread

NAME_CELLS = 28
LEAST_NAME_CELLS = 8

LOOK: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left", "expand": False}


@dataclass(frozen=True)
class TableOrLines:
    """A table where there is room for its figures, else sentences; figures are never cut off."""

    table: Table  # the texts of its first column may be cut down to some cells
    lines: list[Text]
    least: int = LEAST_NAME_CELLS  # to which these are cut, where they are longer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = self.table.columns[0]
        names.width = None  # as it was printed before, in a terminal of another width
        longest = max(cell_len(str(cell)) for cell in (names.header, *names.cells))
        natural = console.measure(self.table, options=options.update(max_width=1000)).maximum
        room = options.max_width - (natural - longest)
        if room >= min(longest, self.least):
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


def run_table(
    title: str, headings: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> TableOrLines:
    """Figures of several runs, one a line.

    Args:
        title: of the table.
        headings: of the figures; the first counts images.
        rows: figures by name of the run.
    """
    table = Table(title=title, **LOOK)
    table.add_column("run", no_wrap=True, overflow="ellipsis")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    sentences = []
    for run, (n_tested, *figures) in rows.items():
        table.add_row(short(run), n_tested, *figures)
        said = [f"{name} {figure}" for name, figure in zip(headings[1:], figures, strict=True)]
        sentences.append(Text.assemble(short(run), f" ({n_tested}): {', '.join(said)}"))
    return TableOrLines(table, sentences)


def spread_table(n_runs: int, rows: Mapping[str, tuple[str, str]]) -> TableOrLines:
    """Measures over several runs: mean ± standard deviation, and the interval of the mean."""
    table = Table(title=f"Over {n_runs} runs", **LOOK)
    table.add_column("", no_wrap=True)
    for heading in ("mean ± std", "95 % interval of the mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    sentences = []
    for name, (mean, interval) in rows.items():
        table.add_row(name, mean, interval)
        sentences.append(Text(f"{name}: {mean}, {interval}"))
    return TableOrLines(table, sentences, least=max(map(len, rows), default=0))


def spread_words(spread: Spread, *, is_percent: bool) -> tuple[str, str]:
    """Mean ± standard deviation, and the interval; a dash where one run has none."""
    factor, digits, unit = (100, 1, " %") if is_percent else (1, 3, "")
    mean, std = factor * spread.mean, spread.std
    deviation = "–" if std is None else f"{factor * std:.{digits}f}"
    ends = "–"
    if spread.interval is not None:
        low, high = (factor * end for end in spread.interval)
        ends = f"{low:.{digits}f}–{high:.{digits}f}{unit}"
    return f"{mean:.{digits}f} ± {deviation}{unit}", ends


def within(interval: Interval | None) -> str:
    """The ends of a share's interval in percent, in brackets; nothing without one."""
    return "" if interval is None else f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def count_of(n: int, what: str = "image") -> str:
    """A number of images in words.

    Example:
        >>> count_of(1), count_of(1200, "test image")
        ('1 image', '1,200 test images')
    """
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
