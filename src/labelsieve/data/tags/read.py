"""Tags in any of the known forms become a TagSet, with sentences of what was understood."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from labelsieve.data.tags import columns as guess
from labelsieve.data.tags.batches import Table, open_table
from labelsieve.data.tags.columns import tag_column
from labelsieve.data.tags.gather import Listed, Pairs, Raw, matrix_of
from labelsieve.data.tags.hygiene import Names, one_spelling, read_synonyms
from labelsieve.data.tags.implied import (
    closure,
    read_implied,
    with_parents,
    with_verified_parents,
)
from labelsieve.data.tags.lists import read_listed
from labelsieve.data.tags.located import beside_table, in_folder
from labelsieve.data.tags.multi_hot import read_listed_columns
from labelsieve.data.tags.sources import read_raw
from labelsieve.data.tags.understood import never_named, summary
from labelsieve.data.tags.verified import (
    is_answers,
    merged,
    none_matches,
    of_lists,
    present_only,
    read_answers,
    settled,
)
from labelsieve.errors import ConfigError, DataError
from labelsieve.records import ImageSet
from labelsieve.records.tag_set import TagSet, values_at


def read_tags(
    source: str | Path,
    *,
    label: str | None = None,
    verified: str | Path | None = None,
    truth: str | Path | None = None,
    synonyms: str | Path | None = None,
    implies: Sequence[str] = (),
    least_confidence: float = 0.5,
    images: str | Path | None = None,
) -> TagSet:
    """Read tags, sniffing their form; what was understood is in `TagSet.understood`.

    The forms, and what each says of a pair, are in docs/formats.md.

    Args:
        source: a table, a JSON file, a text file or a folder.
        label: of a table: the column of tags, or what the columns of tags begin with.
        verified: what people found: a column of lists of right tags, what columns of 1, 0 and -1
            begin with, or a file image,label,present[,who,when], or any source of right tags.
        truth: the same kinds, for all images; for scores only.
        synonyms: a CSV file from,to.
        implies: such as "dog:animal".
        least_confidence: in [0, 1]; a pair asserted with less is dropped.
        images: the folder of the images' files, where the source does not name them.

    Raises:
        ConfigError: a setting is off.
        DataError: something cannot be read, or holds no images or no tags, or nothing matches.

    Example:
        >>> from labelsieve.data.tags.read import read_tags
        >>> tags = read_tags("photos.csv", verified="checked.csv")  # doctest: +SKIP
    """
    if not 0 <= least_confidence <= 1:
        raise ConfigError(f"least_confidence is {least_confidence}; expected 0 to 1.")
    name = os.fspath(source)
    raw, table = read_raw(Path(source), label, least_confidence)
    if not raw.images:
        raise DataError(f"{name}: no rows, so no images. Name another source.")
    if not len(raw.asserted) and len(raw.votes.answers):
        raw.asserted.repeat(raw.votes.answers)
        raw.notes.append("All rows are answers of people; what was asked counts as asserted.")
    if not len(raw.asserted):
        raise _no_tags(raw, name)
    if verified is not None:
        _take_verified(raw, table, verified, name)
    true = None if truth is None else _take_truth(raw, table, truth, name)
    ids = tuple(raw.images)
    found = _where(raw, ids, name, images)
    raw.images.clear()  # of millions of ids it is the largest part
    tag_set = _assembled(raw, true, ids, name, _one_spelling(raw, synonyms))
    return _with_implied(replace(tag_set, images=found), implies)


def _no_tags(raw: Raw, name: str) -> DataError:
    dropped = "; ".join(_dropped(raw))
    return DataError(
        f"{name}: {len(raw.images):,} images and not one tag. {dropped or 'Nothing was dropped.'} "
        "Expected tags of some images. Name their column with --label."
    )


def _dropped(raw: Raw) -> list[str]:
    such = {reason: f", such as {raw.examples[reason]}" for reason in raw.dropped}
    return [
        f"{n:,} rows {reason} were dropped{such[reason] if raw.examples[reason] else ''}."
        for reason, n in raw.dropped.items()
    ]


def _take_verified(raw: Raw, table: Table | None, verified: str | Path, name: str) -> None:
    listed = _listing(raw, table, str(verified), "not verified")
    if listed is not None:
        raw.listed = listed
        return
    path = Path(verified)
    answers = open_table(path) if path.exists() else None
    if answers is not None and is_answers(answers):
        read_answers(raw, answers, "--verified")
    elif path.exists():
        raw.listed = _listing_of(raw, path, "--verified")
    else:
        raise _nothing_named(raw, table, str(verified), name, "--verified")


def _take_truth(raw: Raw, table: Table | None, truth: str | Path, name: str) -> Listed:
    listed = _listing(raw, table, str(truth), "none of the tags is right")
    if listed is None and Path(truth).exists():
        listed = _listing_of(raw, Path(truth), "--truth")
        told = np.unique(np.concatenate(listed.looked_at))
        if len(told) < len(raw.images):
            missing = list(raw.images)[int(np.setdiff1d(np.arange(len(raw.images)), told)[0])]
            raise DataError(
                f"--truth {truth}: {len(raw.images) - len(told):,} of {len(raw.images):,} images "
                f"are not in it, such as {missing!r}; expected all. Add a row with no tags for "
                "images that have none."
            )
    if listed is None:
        raise _nothing_named(raw, table, str(truth), name, "--truth")
    return listed


def _nothing_named(raw: Raw, table: Table | None, wanted: str, name: str, flag: str) -> DataError:
    if table is not None:
        return guess.no_such_column(table, name, wanted, flag)
    return DataError(f"{flag} {wanted}: no such file. Name a table image,label,present.")


def _listing(raw: Raw, table: Table | None, wanted: str, blank: str) -> Listed | None:
    """Right tags from a column of the source's own table, or columns that begin so."""
    if table is None:
        return None
    image = None if raw.bytes_of is not None else raw.form.image
    if wanted in table.columns:
        listed = Listed()
        read_listed(listed, raw, table, image, tag_column(table, wanted), blank)
        return listed
    columns = guess.prefixed(table, wanted)
    if not columns:
        return None
    listed = Listed()
    read_listed_columns(listed, raw, table, image, columns, wanted)
    return listed


def _listing_of(raw: Raw, path: Path, flag: str) -> Listed:
    """Right tags from another source, of the images that both have."""
    other, _ = read_raw(path, None, 0.0)
    rows = np.array([raw.images.get(each, -1) for each in other.images], np.int32)
    if len(rows) and (rows < 0).all():
        raise none_matches(str(path), list(other.images), raw.images, flag)
    numbers = [raw.tags.setdefault(other.names.get(tag, tag), len(raw.tags)) for tag in other.tags]
    pairs = other.asserted.pairs()
    listed = Listed()
    listed.present.add(rows[pairs.rows], np.array(numbers, np.int32)[pairs.columns])
    listed.looked_at.append(rows[rows >= 0])
    n_strange = int(np.count_nonzero(rows < 0))
    raw.notes.append(f"{path.name}: right tags of {len(rows) - n_strange:,} images.")
    raw.notes += [f"{path.name}: {note}" for note in other.notes]
    if n_strange:
        raw.notes.append(f"{n_strange:,} images of {path.name} are not in the source; left out.")
    return listed


def _one_spelling(raw: Raw, synonyms: str | Path | None) -> Names:
    known = {} if synonyms is None else read_synonyms(Path(synonyms))
    return one_spelling(list(raw.tags), raw.asserted.counts(len(raw.tags)), known, raw.names)


def _assembled(
    raw: Raw, true: Listed | None, ids: tuple[str, ...], name: str, names: Names
) -> TagSet:
    """Everything gathered, as matrices of one spelling a tag; the piles are emptied."""
    shape = (len(ids), len(names.tags))
    rows, numbers, values = raw.asserted.pairs()
    columns = names.place[numbers]
    del numbers
    blank = columns < 0
    if blank.any():
        raw.drop("without a tag", int(np.count_nonzero(blank)))
        rows, columns, values = rows[~blank], columns[~blank], values[~blank]
    asserted, n_again = matrix_of(Pairs(rows, columns, values), shape, np.maximum)
    del rows, columns, values
    notes = [*raw.notes, *_dropped(raw), *names.notes]
    if n_again:
        notes.append(f"{n_again:,} pairs were there more than once; the most confident counts.")

    def shown(row: int, column: int) -> str:
        return f"{ids[row]!r} {names.tags[column]!r}"

    verified, more = settled(raw.votes, names.place, shape, shown)
    notes += more
    if raw.listed is not None:
        by_lists, more, never = of_lists(raw.listed, names.place, asserted)
        verified = merged(verified, by_lists)
        notes += [*more, *never_named(never, names.tags)]
    notes += summary(asserted, verified, names.tags)
    return TagSet(
        ids=ids,
        tag_names=names.tags,
        asserted=asserted,
        verified=verified,
        source=name,
        form=replace(raw.form, renamed=names.renamed),
        understood=tuple(notes),
        truth=None if true is None else present_only(true, names.place, shape),
    )


def _where(raw: Raw, ids: tuple[str, ...], name: str, images: str | Path | None) -> ImageSet | None:
    """Where the images are; whether it is known is said."""
    if images is not None:
        found, note = in_folder(name, ids, Path(images))
        raw.notes.append(note)
        return found
    if raw.bytes_of is not None:
        return ImageSet(name, ids, raw.bytes_of.places)
    if raw.folder is None:
        raw.notes.append("No files of images are named; give their folder with --images.")
        return None
    beside, note = beside_table(name, ids, raw.folder)
    if note:
        raw.notes.append(note)
    return beside


def _with_implied(tag_set: TagSet, implies: Sequence[str]) -> TagSet:
    """Add what tags imply; parents that no image had become tags."""
    if not implies:
        return tag_set
    ancestors = read_implied(implies, tag_set.tag_names)
    new = sorted({n for names in ancestors.values() for n in names} - set(tag_set.tag_names))
    tags = (*tag_set.tag_names, *new)
    implied = closure(ancestors, tags)

    def wider(matrix: csr_array) -> csr_array:
        parts = (matrix.data, matrix.indices, matrix.indptr)
        return csr_array(parts, shape=(len(tag_set), len(tags)))

    asserted, n_asserted = with_parents(wider(tag_set.asserted), implied)
    verified, n_verified = with_verified_parents(wider(tag_set.verified), asserted, implied)
    notes = [f"{n_asserted:,} assertions and {n_verified:,} verified pairs follow from --implies."]
    against = _contradictions(verified, implied)
    if against:
        notes.append(
            f"{against:,} pairs are verified present although a tag they imply is verified absent; "
            "both answers are kept."
        )
    truth = tag_set.truth
    if truth is not None:
        truth = csr_array(with_parents(wider(truth), implied)[0], dtype=np.int8)
    return replace(
        tag_set,
        tag_names=tags,
        asserted=asserted,
        verified=verified,
        truth=truth,
        understood=(*tag_set.understood, *notes),
    )


def _contradictions(verified: csr_array, implied: csr_array) -> int:
    present = verified.copy()
    present.data = (present.data > 0).astype(np.int8)
    present.eliminate_zeros()
    follows, _ = with_parents(present, implied)
    return int(np.count_nonzero(values_at(verified, follows) < 0))
