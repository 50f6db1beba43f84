"""Cleaned tags as tables for the terminal; the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labelsieve.records.tag_findings import Tagged, TagVerdict
from labelsieve.report.spread import Spread
from labelsieve.report.table import percent
from labelsieve.report.tag_evaluation import BASELINE, Gain, TagEvaluation
from labelsieve.report.tag_metrics import TagScores
from labelsieve.report.tag_rows import (
    MEANINGS,
    SHOWN_VERDICTS,
    TagRow,
    WrongShare,
    method_words,
    never_verified,
    ranked,
    worst_tags,
    wrong_share,
)
from labelsieve.report.terminal_tables import (
    LOOK,
    TableOrLines,
    count_of,
    in_blocks,
    short,
    warning_lines,
    within,
)

N_WORST = 5
N_NEVER = 8  # names
STYLES = {
    TagVerdict.KEPT: "green",
    TagVerdict.REVIEW: "cyan",
    TagVerdict.REMOVED: "yellow",
    TagVerdict.ADDED: "blue",
}
_SHOWN = {  # measures of a table, and what they are called
    "map": "MAP",
    "ap_all": "AP all tags",
    "precision_kept": "precision kept",
    "recall_kept": "recall kept",
    "map_full": "MAP, all images",
}
_ALWAYS = ("map", "ap_all")
_MEANING = (
    "on verified tags that were not learned from; AP over all tags rewards calibration between "
    "tags: compare it with the line of biases only, else go by MAP"
)
_OTHER_PAIRS = "; a cleaner ranks given tags only, which no other line can be compared with"


def terminal_tags(
    tagged: Tagged,
    scores: Mapping[str, TagScores] | None = None,
    tag_rows: Sequence[TagRow] = (),
) -> RenderableType:
    """What the cleaning of tags came to, in tables that fit a terminal whatever the number of tags.

    Args:
        tagged: what is found.
        scores: by method, as `write_tag_page` takes them; empty without verified pairs for it.
        tag_rows: one a tag, as `tag_rows` gives them.
    """
    scores = scores or {}
    worst = worst_tags(tag_rows)[:N_WORST]
    never = never_verified(tag_rows)
    return in_blocks(
        warning_lines(tagged.warnings),
        _verdict_table(tagged),
        _stay_line(tagged),
        _wrong_line(wrong_share(tagged, scores)),
        terminal_tag_scores(scores) if ranked(scores) else None,
        _worst_table(worst) if worst else None,
        _never_line(never) if never else None,
    )


def terminal_tag_scores(scores: Mapping[str, TagScores]) -> RenderableType:
    """Methods side by side; the last one is what the tags were cleaned with."""
    names = _names(list(scores.values()))
    base = scores.get(BASELINE)
    rows = {}
    for method, one in scores.items():
        figures = []
        for name in names:
            figures.append(_figure(one.measures()[name]))
            if name in _ALWAYS and base is not None:
                figures.append(_gained(one, base, name))
        rows[method_words(method)] = figures
    headings = []
    for name in names:
        headings += [_SHOWN[name]] + (["gain"] if name in _ALWAYS and base is not None else [])
    table = _table("Methods, in %", "method", headings, rows, bold=list(rows)[-1])
    return Group(table, Text(_meaning(scores), style="dim"))


def terminal_tag_evaluation(found: TagEvaluation) -> RenderableType:
    """The scores of one or several runs; of several mean, spread and what was gained in pairs."""
    blocks: list[RenderableType] = []
    for run, methods in found.runs.items():
        names = _names(list(methods.values()))
        rows = {
            method_words(method): [_figure(one.measures()[name]) for name in names]
            for method, one in methods.items()
        }
        headings = [_SHOWN[name] for name in names]
        if blocks:
            blocks.append(Text())
        blocks.append(_table(f"{run}, in %", "method", headings, rows))
    blocks.append(Text(_meaning(*found.runs.values()), style="dim"))
    if found.over_runs:
        blocks += [Text(), _spread_table(found)]
    return Group(*blocks)


def _verdict_table(tagged: Tagged) -> Table:
    n_given = sum(tagged.count(v) for v in TagVerdict if v != TagVerdict.ADDED)
    title = f"{n_given:,} tags of {count_of(len(tagged.ids))}, {len(tagged.tag_names):,} different"
    table = Table(title=title, **LOOK)
    table.add_column("verdict", no_wrap=True)
    for heading in ("tags", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("meaning", style="dim")
    for verdict in SHOWN_VERDICTS:
        n = tagged.count(verdict)
        share = n / n_given if n_given and verdict != TagVerdict.ADDED else None
        table.add_row(
            Text(verdict.name.lower(), STYLES[verdict]), f"{n:,}", percent(share), MEANINGS[verdict]
        )
    return table


def _stay_line(tagged: Tagged) -> Text:
    n = int(np.count_nonzero(tagged.stays))
    return Text.assemble(
        (f"{n:,}", "bold"), " tags stay: kept and added ones, and of review those that are as "
        "probable as their tag asks for",
    )  # fmt: skip


def _wrong_line(wrong: WrongShare | None) -> Text:
    if wrong is None:
        return Text("How many are wrong, nobody knows: none was verified (--verified FILE)")
    before = (percent(wrong.before), "bold")
    after = (percent(wrong.after), "bold")
    if not wrong.is_checked:
        return Text.assemble(
            "wrong, if the probabilities hold: ", before, " as given, ", after, " of what stays"
        )
    of = "given tags, by the truth"
    if not wrong.by_truth:
        of = "verified given tags that were not learned from"
    return Text.assemble(
        f"wrong, of {wrong.n_pairs:,} {of}: ",
        before, within(wrong.before_interval), " as given, ",
        after, within(wrong.after_interval), " of what stays; of all right ones "
        f"{percent(wrong.recall_before)} are given and {percent(wrong.recall_after)} stay",
    )  # fmt: skip


def _worst_table(worst: Sequence[TagRow]) -> TableOrLines:
    rows = {
        row.name: [
            f"{row.n_asserted:,}", f"{row.n_looked:,}",
            f"{percent(row.share)}{within(row.interval)}", f"{row.n_removed:,}",
            f"{row.n_review:,}",
        ]
        for row in worst
    }  # fmt: skip
    headings = ("given", "verified", "wrong", "removed", "review")
    return _table("Most often wrong", "tag", headings, rows)


def _never_line(never: Sequence[TagRow]) -> Text:
    names = ", ".join(str(short(row.name)) for row in never[:N_NEVER])
    more = f" and {len(never) - N_NEVER:,} more" if len(never) > N_NEVER else ""
    what = "1 tag" if len(never) == 1 else f"{len(never):,} tags"
    stay = "" if any(row.threshold for row in never) else ", all stay"
    return Text.assemble((f"never verified{stay}: {what}", "bold red"), f" ({names}{more})")


def _meaning(*runs: Mapping[str, TagScores]) -> str:
    """What the figures of methods are of; also of those that are on other pairs than the rest."""
    others = any(
        not one.is_of_the_same_pairs(next(iter(methods.values())))
        for methods in runs
        for one in methods.values()
    )
    return _MEANING + _OTHER_PAIRS * others


def _spread_table(found: TagEvaluation) -> TableOrLines:
    """Mean ± deviation of scores, and of gains within a run, which tell far more."""
    rows = {}
    for method, spreads in found.over_runs.items():
        gains = found.gains.get(method, {})
        figures = []
        for name in (*_ALWAYS, "recall_kept"):
            figures.append(_plus_minus(spreads.get(name)))
            if name in _ALWAYS:
                figures.append(_gain(gains.get(name)))
        rows[method_words(method)] = figures
    headings = ("MAP", "gain", "AP all tags", "gain", "recall kept")
    n_runs = len(found.runs)
    title = f"Over {n_runs} runs, in %; in brackets, runs in which it gains"
    return _table(title, "method", headings, rows)


def _plus_minus(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{100 * spread.mean:.1f} ± {100 * (spread.std or 0.0):.1f}"


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return ""
    std = 100 * (gain.spread.std or 0.0)
    return f"{_points(gain.spread.mean)} ± {std:.1f} ({gain.n_better}/{len(gain.values)})"


def _table(
    title: str,
    first: str,
    headings: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    bold: str = "",
) -> TableOrLines:
    """Names and their figures; where there is little room, sentences."""
    table = Table(title=title, **LOOK)
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    sentences = []
    for name, figures in rows.items():
        style = "bold" if name == bold else ""
        table.add_row(short(name), *map(Text, figures), style=style)
        said = [f"{what} {one}" for what, one in zip(headings, figures, strict=True) if one]
        sentences.append(Text.assemble(short(name), f": {', '.join(said)}"))
    return TableOrLines(table, sentences)


def _names(scores: Sequence[TagScores]) -> list[str]:
    """The measures that any of them has; MAP and AP over all tags in any case."""
    found = [one.measures() for one in scores]
    return [n for n in _SHOWN if n in _ALWAYS or any(one[n] is not None for one in found)]


def _gained(one: TagScores, base: TagScores, name: str) -> str:
    mine, other = one.measures()[name], base.measures()[name]
    if one is base or mine is None or other is None or not one.is_of_the_same_pairs(base):
        return ""
    return _points(mine - other)


def _figure(share: float | None) -> str:
    return percent(share).removesuffix(" %")


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}".replace("-", "\N{MINUS SIGN}")
