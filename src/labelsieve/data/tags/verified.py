"""What people found: answers of annotators, and lists of the tags that are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labelsieve.data.tags.batches import Table
from labelsieve.data.tags.columns import CONFIDENCE, IMAGE, PRESENT, TAG, column_named
from labelsieve.data.tags.gather import Listed, Pairs, Pile, Raw, Votes, codes, matrix_of
from labelsieve.data.tags.lists import blank_to_null
from labelsieve.data.tags.long import numbers
from labelsieve.errors import DataError
from labelsieve.records.tag_set import values_at

_WHO = ("who", "annotator", "user", "worker", "rater")
_WHEN = ("when", "date", "time", "timestamp")


def is_answers(table: Table) -> bool:
    """Whether a table has a row an answer: an image, a tag, and whether it is present."""
    return all(column_named(table, names) for names in (IMAGE, TAG, (*PRESENT, *CONFIDENCE)))


def read_answers(raw: Raw, table: Table, flag: str) -> None:
    """Take the rows of a table image,label,present[,who,when] as answers about known images.

    Args:
        raw: of the source; gets the answers, and tags that only they name.
        table: the answers; 0.5 and more is present.
        flag: that named it, for messages.

    Raises:
        DataError: no row is of an image that the source has.
    """
    path = str(table.files[0])
    found = [column_named(table, names) for names in (IMAGE, TAG, (*PRESENT, *CONFIDENCE))]
    image, tag, present = (name for name in found if name is not None)
    who, when = column_named(table, _WHO), column_named(table, _WHEN)
    wanted = [image, tag, present, *(name for name in (who, when) if name is not None)]
    votes, unknown, n_rows = raw.votes, list[str](), 0
    n_unknown = n_blank = 0
    for batch in table.batches(wanted):
        names = blank_to_null(batch.column(image))
        rows = raw.image_rows(names, known_only=True)
        strange = names.filter(pa.array(rows < 0)).drop_null()
        unknown += strange.slice(0, max(0, 100 - len(unknown))).to_pylist()
        n_unknown += len(strange)
        n_rows += len(rows)
        value = numbers(batch.column(present), present, path, np.nan)
        off = value[(value < -1) | (value > 1)]
        if len(off):
            raise DataError(
                f"{flag} {path}: column {present!r} holds {off[0]:g}; expected 1 where the tag is "
                "right, 0 where it is wrong, and nothing where it is not known."
            )
        answered = (rows >= 0) & ~np.isnan(value)
        n_blank += int(np.count_nonzero((rows >= 0) & np.isnan(value)))
        columns = raw.tag_columns(
            pa.array(blank_to_null(batch.column(tag)).filter(pa.array(answered)))
        )
        people = times = None
        if who is not None:
            people = codes(votes.people, blank_to_null(batch.column(who)))[answered]
        if when is not None:
            said = batch.column(when).cast(pa.string()).fill_null("").to_pylist()
            times = np.array(said, np.str_)[answered]
        votes.add(rows[answered], columns, value[answered] >= 0.5, people, times)
    if n_rows and n_unknown == n_rows:
        raise none_matches(path, unknown, raw.images, flag)
    raw.notes.append(f"{n_rows:,} answers in {Path(path).name}.")
    if n_unknown:
        raw.notes.append(
            f"{n_unknown:,} answers are of images that the source does not have, such as "
            f"{unknown[0]!r}{_hint(unknown, raw.images)}; left out."
        )
    if n_blank:
        raw.notes.append(f"{n_blank:,} answers are blank; these pairs stay unverified by them.")


def none_matches(path: str, unknown: Sequence[str], images: dict[str, int], flag: str) -> DataError:
    """What to say where no id of a file is one of the source's; it looks for what differs."""
    such = next(iter(images), "")
    hint = _hint(unknown, images)
    advice = "Use the ids of the source." if hint else "Is it of the same images?"
    if "leading zeros" in hint:
        advice = "Keep ids as text when the file is made; a spreadsheet makes numbers of them."
    return DataError(
        f"{flag} {path}: none of its images is one of the {len(images):,} of the source: it has "
        f"such as {unknown[0]!r}, the source such as {such!r}{hint}. {advice}"
    )


def _hint(unknown: Sequence[str], images: dict[str, int]) -> str:
    """What would make ids match, with an example."""
    changes: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("leading zeros were lost", lambda name: name.lstrip("0")),
        ("they differ in case", str.casefold),
        ("they differ in the folder", lambda name: PurePosixPath(name).name),
        ("they differ in the suffix", lambda name: str(PurePosixPath(name).with_suffix(""))),
        ("they differ in folder and suffix", lambda name: PurePosixPath(name).stem),
        ("folder, suffix or leading zeros were lost", lambda n: PurePosixPath(n).stem.lstrip("0")),
    )
    some = unknown[:100]
    for words, change in changes:
        wanted = {_changed(change, name): name for name in some}
        for name in images:
            twin = wanted.get(_changed(change, name))
            if twin is not None:
                return f" ({words}: {twin!r} is {name!r})"
    return ""


def _changed(change: Callable[[str], str], name: str) -> str:
    try:
        return change(name)
    except ValueError:  # no name to take a suffix from
        return name


def settled(votes: Votes, place: NDArray[np.int32], shape: tuple[int, int],
            shown: Callable[[int, int], str]) -> tuple[csr_array, list[str]]:  # fmt: skip
    """Answers as one matrix: the majority's; a tie stays unverified and is said.

    Of several answers of one person to one pair the latest counts, by `when` where there is one,
    else the last of the file.

    Args:
        votes: answers, by spelling.
        place: spelling -> tag.
        shape: (N, C).
        shown: a row and a column as words.
    """
    notes: list[str] = []
    rows, columns, values = votes.answers.pairs()
    columns = place[columns]
    keep = columns >= 0
    if votes.people:
        keep &= _latest(rows, columns, votes)
        replaced = int(np.count_nonzero(~keep & (columns >= 0)))
        if replaced:
            notes.append(f"{replaced:,} answers were replaced by a later one of the same person.")
    each = Pairs(rows[keep], columns[keep], values[keep].astype(np.int32))
    total, n_again = matrix_of(each, shape, np.add)
    if n_again:
        size, _ = matrix_of(each._replace(values=np.ones_like(each.values)), shape, np.add)
        split = np.abs(total.data) < size.data
        tied = np.flatnonzero(total.data == 0)
        notes.append(f"{n_again:,} answers are of pairs that had one before.")
        if split.any():
            notes.append(
                f"Of {int(split.sum()):,} pairs annotators disagree; the majority counts, and "
                f"{len(tied):,} ties stay unverified{_listed(tied, total, shown)}."
            )
        total.eliminate_zeros()
    total.data = np.sign(total.data)
    return csr_array(total, dtype=np.int8), notes


def _latest(rows: NDArray[np.int32], columns: NDArray[np.int32], votes: Votes) -> NDArray[np.bool_]:
    """(A,) the answers that no later one of the same person replaces; of nobody known, all."""
    who = votes.who()
    rank = np.empty(len(rows), np.int64)  # in time; of equal times the later row is later
    rank[np.argsort(votes.when(), kind="stable")] = np.arange(len(rows))
    by = np.lexsort((rank, who, columns, rows))
    same = (
        (rows[by][1:] == rows[by][:-1])
        & (columns[by][1:] == columns[by][:-1])
        & (who[by][1:] == who[by][:-1])
        & (who[by][1:] >= 0)
    )
    latest = np.ones(len(rows), np.bool_)
    latest[by[:-1][same]] = False
    return latest


def _listed(tied: NDArray[np.int64], total: csr_array, shown: Callable[[int, int], str]) -> str:
    if not len(tied):
        return ""
    rows = np.searchsorted(total.indptr, tied[:20], side="right") - 1
    each = [shown(int(r), int(c)) for r, c in zip(rows, total.indices[tied[:20]], strict=True)]
    return f": {'; '.join(each)}{'; ...' if len(tied) > 20 else ''}"


def of_lists(
    listed: Listed, place: NDArray[np.int32], asserted: csr_array
) -> tuple[csr_array, list[str], NDArray[np.bool_]]:
    """Lists of right tags as verified pairs.

    Named is present. What is asserted of an image and not named on its list, or has a 0, is absent;
    but a tag that no list names is taken as never looked at, since it would be absent everywhere. A
    pair that is neither asserted nor named is unknown: lists say what remains of the assertions.

    Returns:
        the matrix; sentences; (C,) the tags taken as never looked at.
    """
    shape = asserted.shape
    present = _placed(listed.present, place, shape)
    absent = _placed(listed.absent, place, shape)
    zero = _placed(listed.zero, place, shape)
    ever = np.bincount(present.indices, minlength=shape[1]) > 0
    rows = np.repeat(np.arange(shape[0], dtype=np.int32), np.diff(asserted.indptr))
    if listed.named:
        looked = np.zeros(shape[0], np.bool_)
        looked[np.concatenate(listed.looked_at or [np.zeros(0, np.int32)])] = True
        denied = looked[rows] & ever[asserted.indices] & (values_at(present, asserted) == 0)
        never = ~ever & (np.bincount(asserted.indices[looked[rows]], minlength=shape[1]) > 0)
    else:
        never = np.zeros(shape[1], np.bool_)
        of_zero = absent.nnz == 0  # with a -1 anywhere, 0 is "unknown"
        denied = (values_at(zero, asserted) != 0) & of_zero
        denied &= values_at(present, asserted) == 0
    parts = [
        _triples(present, 1),
        _triples(absent, -1),
        Pairs(rows[denied], asserted.indices[denied], np.full(int(denied.sum()), -1, np.int8)),
    ]
    each = Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    made, _ = matrix_of(each, shape, np.add)
    made.eliminate_zeros()  # named present and absent in two rows of one image
    made.data = np.sign(made.data).astype(np.int8)
    return made, _notes(listed, made), never


def _notes(listed: Listed, made: csr_array) -> list[str]:
    n_present = int(np.count_nonzero(made.data > 0))
    how = "lists of right tags" if listed.named else "columns of verified tags"
    looked = np.unique(np.concatenate(listed.looked_at or [np.zeros(0, np.int32)]))
    return [
        f"{len(looked):,} images with {how}: {n_present:,} pairs verified present, "
        f"{made.nnz - n_present:,} absent. Absent is what was asserted and is not confirmed."
    ]


def merged(answers: csr_array, listed: csr_array) -> csr_array:
    """Answers of people, and what lists say of the other pairs."""
    if not listed.nnz:
        return answers
    if not answers.nnz:
        return listed
    extra = listed.copy()
    extra.data = np.where(values_at(answers, listed) == 0, listed.data, 0)
    both = csr_array(answers + extra)
    both.eliminate_zeros()
    return both


def present_only(listed: Listed, place: NDArray[np.int32], shape: tuple[int, int]) -> csr_array:
    """(N, C) 1 where a list names the tag: the whole truth, as `--truth` gives it."""
    truth = _placed(listed.present, place, shape)
    truth.data = np.ones(truth.nnz, np.int8)
    return truth


def _placed(pile: Pile, place: NDArray[np.int32], shape: tuple[int, int]) -> csr_array:
    rows, columns, values = pile.pairs()
    columns = place[columns]
    known = columns >= 0
    made, _ = matrix_of(Pairs(rows[known], columns[known], values[known]), shape, np.maximum)
    return made


def _triples(matrix: csr_array, value: int) -> Pairs:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    return Pairs(rows, matrix.indices, np.full(matrix.nnz, value, np.int8))
