from __future__ import annotations

import csv
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.places import Reader
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.exports import export_run, read_names
from labelsieve.files import write_csv, write_json
from labelsieve.records import Findings, ImageSet, Verdict
from labelsieve.records.clusters import Clusters
from labelsieve.report import export
from labelsieve.report.export import export_csv, export_links, safe_name
from made_clusters import made_clusters
from made_findings import made_findings
from made_sets import parquet, png, put, table_of

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


def tree(folder: Path) -> dict[str, bytes]:
    """Each file below a folder by its path, with what is read from it."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(4):
        put(tmp_path / "photos" / f"{i + 1}.png", png(i))
    return tmp_path / "photos"


def saved_run(
    path: Path, source: Path, found: Clusters | Findings, job: str | None = None, **inputs
) -> Path:
    path.mkdir()
    kind = "clusters" if isinstance(found, Clusters) else "findings"
    found.save(path / f"{kind}.parquet")
    about = {
        "labelsieve": "0",
        "job": job or ("cluster" if kind == "clusters" else "audit"),
        "status": "done",
        "settings": {"inputs": {"source": str(source), "label": None, "truth": None, **inputs}},
    }
    write_json(path / "run.json", about)
    return path


def clusters_of(images: ImageSet, cluster: list[int], n_clusters: int | None = None) -> Clusters:
    return made_clusters(cluster, n_clusters, image=images.ids)


def names_table(path: Path, *rows: tuple[object, str]) -> Path:
    return table_of(path, ["cluster", "name"], *([str(c), name] for c, name in rows))


def test_links_lead_to_the_images_under_the_names_of_their_clusters(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 1, 2, -1]))
    before = stamps(photos)
    names = names_table(tmp_path / "names.csv", (0, "cat"), (2, "cat"))
    done = export_run(run, "links", tmp_path / "out", names)
    assert tree(tmp_path / "out") == {"cat/1.png": png(0), "cat/3.png": png(2)}
    link = tmp_path / "out" / "cat" / "1.png"
    assert link.is_symlink()
    assert os.readlink(link) == str(photos / "1.png")  # absolute: the folder may be moved
    assert stamps(photos) == before
    assert (done.labels, done.n_broken, done.n_unnamed) == ({"cat": 2}, 1, 1)
    json.dumps(done.to_dict())
    assert str(done) == (
        f"2 images under 1 label in {tmp_path / 'out'}; "
        "left out: 1 that cannot be read, 1 without a name or label"
    )


def test_what_is_exported_can_be_read_as_a_labeled_set(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 1, 0, 1]))
    names = names_table(tmp_path / "names.csv", (0, "cat"), (1, "dog"))
    export_run(run, "links", tmp_path / "out", names)
    images = read(tmp_path / "out")
    assert images.class_names == ("cat", "dog")
    assert images.ids == ("cat/1.png", "cat/3.png", "dog/2.png", "dog/4.png")


def test_without_a_table_of_names_clusters_keep_theirs(tmp_path: Path, photos: Path):
    found = clusters_of(read(photos), [0, 1, 1, 3], 4).named({1: "dog"})
    run = saved_run(tmp_path / "run", photos, found)
    done = export_run(run, "links", tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"0/1.png", "dog/2.png", "dog/3.png", "3/4.png"}
    assert done.labels == {"0": 1, "dog": 2, "3": 1}
    assert str(done) == f"4 images under 3 labels in {tmp_path / 'out'}"


def test_a_name_that_an_unnamed_cluster_has_does_not_take_its_images(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 1, 1, 0]))
    names = names_table(tmp_path / "names.csv", (0, "1"))
    export_run(run, "links", tmp_path / "out", names)
    assert set(tree(tmp_path / "out")) == {"1/1.png", "1/4.png"}


def test_copies_are_files_of_their_own(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 0, 0, 0]))
    export_run(run, "links", tmp_path / "out", copy=True)
    copies = list((tmp_path / "out" / "0").iterdir())
    assert len(copies) == 4
    assert not any(path.is_symlink() for path in copies)
    copies[0].write_bytes(b"changed")
    assert (photos / copies[0].name).read_bytes() != b"changed"


def test_the_table_has_a_row_for_each_image_with_a_label(tmp_path: Path, photos: Path):
    images = read(photos)
    run = saved_run(tmp_path / "run", photos, clusters_of(images, [0, 1, 2, -1]))
    names = names_table(tmp_path / "names.csv", (0, "cat"), (1, "=dog"))
    export_run(run, "csv", tmp_path / "labels.csv", names)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["label"], row["probability"]) for row in rows] == [
        ("1.png", "cat", "0.9"),
        ("2.png", "'=dog", "0.9"),
    ]


def test_the_probability_of_merged_clusters_is_their_sum(tmp_path: Path, photos: Path):
    values = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.5, 0.25, 0.25]]
    found = Clusters.of_probabilities(read(photos).ids, values)
    run = saved_run(tmp_path / "run", photos, found)
    names = names_table(tmp_path / "names.csv", (0, "a"), (1, "a"), (2, "b"))
    export_run(run, "csv", tmp_path / "labels.csv", names)
    with (tmp_path / "labels.csv").open(newline="") as file:
        got = [float(row["probability"]) for row in csv.DictReader(file)]
    assert got == pytest.approx([0.9, 0.9, 0.8, 0.75])


def test_a_table_needs_no_images(tmp_path: Path):
    run = saved_run(tmp_path / "run", tmp_path / "gone", made_clusters([0, 1]))
    export_run(run, "csv", tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().splitlines() == [
        '"image","label","probability"', '"0000.png","0",0.9', '"0001.png","1",0.9',
    ]  # fmt: skip


def audited(ids: tuple[str, ...]) -> Findings:
    return made_findings(
        [CLEAN, MISLABELED, FOREIGN, BROKEN], [0, 0, 1, 1], image=ids, suggestion=[0, 2, 1, -1]
    )


def test_of_an_audit_the_better_label_counts_and_foreign_images_stay_out(
    tmp_path: Path, photos: Path
):
    run = saved_run(tmp_path / "run", photos, audited(read(photos).ids))
    done = export_run(run, "links", tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"cat/1.png", "owl/2.png"}
    assert done.labels == {"cat": 1, "owl": 1}
    assert (done.n_broken, done.n_foreign, done.n_unnamed) == (1, 1, 0)


def test_images_without_a_label_get_the_suggested_one_if_there_is_one(tmp_path: Path):
    found = made_findings(
        [CLEAN, CLEAN, MISLABELED, CLEAN], [-1, -1, 0, 1], suggestion=[2, -1, -1, -1]
    )
    run = saved_run(tmp_path / "run", tmp_path, found, job="demo")
    done = export_run(run, "csv", tmp_path / "labels.csv")
    rows = (tmp_path / "labels.csv").read_text().splitlines()[1:]
    assert rows == ['"0000.png","owl",0.7', '"0003.png","dog",']  # what nothing says is empty
    assert done.n_unnamed == 2


def test_names_are_of_clusters_only(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, audited(read(photos).ids))
    names = names_table(tmp_path / "names.csv", (0, "cat"))
    with pytest.raises(
        ConfigError, match=r"--names is for runs of `cluster`; .* `labelsieve audit`"
    ):
        export_run(run, "csv", tmp_path / "labels.csv", names)


def test_words_that_do_not_go_together_are_refused(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 0, 0, 0]))
    with pytest.raises(ConfigError, match="--copy is for --to links"):
        export_run(run, "csv", tmp_path / "labels.csv", copy=True)
    with pytest.raises(ConfigError, match="--to is 'zip'; expected 'links' or 'csv'"):
        export_run(run, "zip", tmp_path / "labels.zip")  # type: ignore[arg-type]
    other = saved_run(tmp_path / "other", photos, made_clusters([0]), job="features")
    with pytest.raises(RunError, match="made by `labelsieve features`; expected a run of"):
        export_run(other, "csv", tmp_path / "labels.csv")
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "run", "other"}


def test_images_in_a_table_become_files_with_the_suffix_of_their_bytes(tmp_path: Path):
    jpeg = b"\xff\xd8\xff rest"
    source = parquet(
        tmp_path / "images.parquet",
        image=[png(0), jpeg, b"GIF89a rest", png(3), b"something else"],
        path=["a", "b.JPEG", "c.png", "d.png", "e.dat"],
    )
    run = saved_run(tmp_path / "run", source, clusters_of(read(source), [0, 0, 1, 1, 1]))
    export_run(run, "links", tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "0/a.png": png(0),
        "0/b.JPEG": jpeg,
        "1/c.png.gif": b"GIF89a rest",
        "1/d.png": png(3),
        "1/e.dat": b"something else",
    }


def test_a_table_is_read_in_its_own_order(tmp_path: Path, monkeypatch):
    source = parquet(tmp_path / "images.parquet", image=[png(i) for i in range(5)])
    images = read(source).take(np.array([3, 1, 4, 0, 2]))
    seen = []
    read_one = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, row: (seen.append(row), read_one(self, row))[1]
    )
    export_links(images, ["a", "a", None, "a", "a"], tmp_path / "out")
    assert seen == [3, 1, 4, 0]  # rows 0, 1, 2, 3 of the table
    assert tree(tmp_path / "out")["a/row000002.png"] == png(2)


def test_images_in_a_tar_become_files(tmp_path: Path):
    put(tmp_path / "in" / "x" / "1.png", png(1))
    put(tmp_path / "in" / "2.png", png(2))
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "in" / "x" / "1.png", "x/1.png")
        tar.add(tmp_path / "in" / "2.png", "2.png")
    images = read(tmp_path / "images.tar")
    run = saved_run(tmp_path / "run", tmp_path / "images.tar", clusters_of(images, [0, 1]))
    export_run(run, "links", tmp_path / "out")
    assert tree(tmp_path / "out") == {"0/x/1.png": png(1), "1/2.png": png(2)}


def test_ids_that_lead_elsewhere_stay_below_the_folder(tmp_path: Path):
    put(tmp_path / "deep" / "1.png", png(1))
    put(tmp_path / "2.png", png(2))
    table = table_of(
        tmp_path / "deep" / "t.csv", ["image"], ["1.png"], ["../2.png"], [str(tmp_path / "2.png")]
    )
    images = read(table)
    run = saved_run(tmp_path / "run", table, clusters_of(images, [0, 0, 0]))
    export_run(run, "links", tmp_path / "new" / "out")
    found = tree(tmp_path / "new")
    assert len(found) == 3
    assert all(name.startswith("out/0/") for name in found)
    assert sorted(found.values()) == sorted([png(1), png(2), png(2)])


def test_links_end_with_the_suffix_of_their_file(tmp_path: Path):
    put(tmp_path / "in" / "1.png")
    put(tmp_path / "in" / "2.png")
    images = read(tmp_path / "in")
    named = ImageSet("in", ("seven", "eight.PNG"), images.places)
    export_links(named, ["a", "a"], tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"a/seven.png", "a/eight.PNG"}


def test_names_that_become_one_are_told_apart(tmp_path: Path):
    n = 10
    for i in range(n):
        put(tmp_path / "in" / f"{i}.png", png(i))
    places = read(tmp_path / "in").places
    ids = (
        "a.png",
        "A.png",
        "a?.png",
        "a:.png",
        "a-2.png",
        "d",
        "d/e.png",
        "d/f.png",
        "D.png/x.png",
        "D.png/y.png",
    )
    images = ImageSet("in", ids, places)
    export_links(images, ["x/y"] * 5 + ["x:y"] * 5, tmp_path / "out")
    found = tree(tmp_path / "out")
    assert sorted(found.values()) == sorted(png(i) for i in range(n))
    assert {name for name in found if name.startswith("x_y/")} == {
        "x_y/a.png", "x_y/A-2.png", "x_y/a_.png", "x_y/a_-2.png", "x_y/a-2-2.png",
    }  # fmt: skip
    assert {name for name in found if name.startswith("x_y-2/")} == {
        "x_y-2/d.png", "x_y-2/d/e.png", "x_y-2/d/f.png", "x_y-2/D-2.png/x.png",
        "x_y-2/D-2.png/y.png",
    }  # fmt: skip


pieces = st.text("aA.:/ \\é?-2", min_size=1, max_size=6)


@given(st.lists(st.tuples(pieces, pieces), min_size=1, max_size=12, unique_by=lambda t: t[1]))
def test_every_image_gets_a_path_of_its_own_whatever_it_is_called(tmp_path_factory, named):
    folder = tmp_path_factory.mktemp("any")
    for i in range(len(named)):
        put(folder / "in" / f"{i:02d}.png", png(i))  # in the order of their ids
    labels, ids = zip(*named, strict=True)
    images = ImageSet("in", ids, read(folder / "in").places.take(np.arange(len(named))))
    export_links(images, labels, folder / "out")
    found = tree(folder / "out")
    assert sorted(found.values()) == sorted(png(i) for i in range(len(named)))
    assert len({name.casefold() for name in found}) == len(named)
    by_label = [
        {Path(name).parts[0] for name, data in found.items()
         if data in {png(i) for i, each in enumerate(labels) if each == label}}
        for label in set(labels)
    ]  # fmt: skip
    assert all(len(folders) == 1 for folders in by_label)
    assert len(set.union(*by_label)) == len(by_label)
    for name in found:
        for part in Path(name).parts:
            assert part == part.strip().rstrip(".")
            assert not part.startswith(".")
            assert not set(part) & set(':?\\/*"<>|')


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat", "cat"),
        ("Hauskatze, groß", "Hauskatze, groß"),
        ('a/b\\c:d*e?f"g<h>i|j\0k\nl', "a_b_c_d_e_f_g_h_i_j_k_l"),
        ("..", "_"),
        ("", "_"),
        (" . ", "_"),
        (".hidden", "_hidden"),
        ("end. ", "end"),
        ("NUL", "_NUL"),
        ("com1.tar.gz", "_com1.tar.gz"),
        ("console", "console"),
        ("e\u0301", "é"),
        ("\ud800x", "_x"),
    ],
)
def test_names_are_made_safe(name, safe):
    assert safe_name(name) == safe


@given(st.text(max_size=300))
def test_a_safe_name_is_short_and_stays_as_it_is(name):
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 200
    assert safe_name(safe) == safe


def test_long_names_keep_their_suffix():
    assert safe_name("雪" * 100 + ".jpeg").endswith("雪.jpeg")
    assert safe_name("a" * 199 + " b") == "a" * 199  # nor end with the blank before the cut


def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path, photos: Path, monkeypatch):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 1, 0, 1]))
    (photos / "4.png").unlink()
    (photos / "5.png").write_bytes(png(4))
    with pytest.raises(
        DataError, match=r"1 images of .*run are not there any more, such as '4.png'"
    ):
        export_run(run, "links", tmp_path / "out")
    put(photos / "4.png")
    calls = []

    def fails(*words):
        calls.append(words)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        os.symlink(words[0], words[2])

    monkeypatch.setattr(export, "_link", fails)
    with pytest.raises(RunError, match=r"out: cannot be written: No space left on device"):
        export_run(run, "links", tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "run"}
    monkeypatch.undo()
    put(tmp_path / ".partial-out" / "0" / "left.png")  # by an export that was killed
    export_run(run, "links", tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"0/1.png", "1/2.png", "0/3.png", "1/4.png"}
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "run", "out"}


def test_a_file_that_went_since_is_named(tmp_path: Path):
    put(tmp_path / "1.png")
    table = table_of(tmp_path / "t.csv", ["image"], ["1.png"], ["2.png"])
    run = saved_run(tmp_path / "run", table, clusters_of(read(table), [0, 0]))
    for copy in (False, True):
        with pytest.raises(DataError, match=r"2.png: no such file any more: /.*Put it back"):
            export_run(run, "links", tmp_path / "out", copy=copy)
    assert not (tmp_path / "out").exists()


def test_bytes_that_cannot_be_had_are_named(tmp_path: Path):
    source = parquet(tmp_path / "images.parquet", image=[png(0), None], path=["a", "b"])
    run = saved_run(tmp_path / "run", source, clusters_of(read(source), [0, 0]))
    with pytest.raises(DataError, match="b: cannot be read: no bytes in the table"):
        export_run(run, "links", tmp_path / "out")


def test_where_links_are_not_allowed_copies_are_offered(tmp_path: Path, photos: Path, monkeypatch):
    def refuses(*_):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuses)
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 0, 0, 0]))
    with pytest.raises(RunError, match="links cannot be made there: A required .* Use --copy"):
        export_run(run, "links", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_run(run, "links", tmp_path / "out", copy=True)


def test_nothing_that_is_there_is_overwritten(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 0, 0, 0]))
    put(tmp_path / "full" / "mine.txt", b"mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"full: not empty \(it holds mine.txt\)"):
        export_run(run, "links", tmp_path / "full")
    with pytest.raises(RunError, match=r"mine.txt: a file. Choose another --out"):
        export_run(run, "links", tmp_path / "full" / "mine.txt")
    with pytest.raises(RunError, match=r"mine.txt: there already, and not overwritten"):
        export_run(run, "csv", tmp_path / "full" / "mine.txt")
    assert (tmp_path / "full" / "mine.txt").read_bytes() == b"mine"
    export_run(run, "links", tmp_path / "empty")
    assert len(tree(tmp_path / "empty")) == 4


def test_an_export_does_not_go_among_the_images(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 0, 0, 0]))
    before = stamps(photos)
    (tmp_path / "alias").symlink_to(photos)
    for out in (photos / "sorted", photos, tmp_path / "alias" / "sorted"):
        with pytest.raises(RunError, match="lies among the images"):
            export_run(run, "links", out)
    assert stamps(photos) == before


def test_validation_images_are_exported_too(tmp_path: Path, photos: Path):
    put(tmp_path / "more" / "1.png", png(7))
    put(tmp_path / "more" / "9.png", png(9))
    found = made_clusters(
        [0, 1, 0, 1, 0, 1], image=["1.png", "2.png", "3.png", "4.png", "valid/1.png", "9.png"]
    )
    run = saved_run(tmp_path / "run", photos, found, valid=str(tmp_path / "more"))
    export_run(run, "links", tmp_path / "out")
    assert tree(tmp_path / "out")["0/valid/1.png"] == png(7)
    assert tree(tmp_path / "out")["1/9.png"] == png(9)


def test_images_that_came_since_do_not_matter(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, 1, 0, 1]))
    put(photos / "0.png", png(9))
    export_run(run, "links", tmp_path / "out")
    assert tree(tmp_path / "out")["1/2.png"] == png(1)
    assert len(tree(tmp_path / "out")) == 4


def test_progress_counts_the_images_that_are_written(tmp_path: Path, photos: Path):
    run = saved_run(tmp_path / "run", photos, clusters_of(read(photos), [0, -1, 0, 0]))
    seen = []
    export_run(run, "links", tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen == [("export", 1, 3), ("export", 2, 3), ("export", 3, 3)]


def test_thousands_of_images_take_no_more_than_their_links(tmp_path: Path):
    n = 2000
    put(tmp_path / "in" / "0.png")
    one = read(tmp_path / "in").places
    images = ImageSet(
        "in", tuple(f"{i % 70}/{i}.png" for i in range(n)), one.take(np.zeros(n, int))
    )
    start = time.process_time()
    export_links(images, [str(i % 10) for i in range(n)], tmp_path / "out")
    export_seconds = time.process_time() - start
    (tmp_path / "plain").mkdir()
    start = time.process_time()
    for i in range(n):
        os.symlink(tmp_path / "in" / "0.png", tmp_path / "plain" / f"{i}.png")
    plain_seconds = time.process_time() - start
    assert export_seconds < 4 * plain_seconds + 0.5  # 1.4 times as measured


def test_names_are_read_as_a_spreadsheet_may_write_them(tmp_path: Path):
    path = tmp_path / "names.csv"
    path.write_bytes("\ufeffcluster;size;name\r\n 0 ;12;Große Katze \r\n1;3;\r\n2\r\n".encode())
    assert read_names(path, 3) == {0: "Große Katze"}
    path.write_text('name,cluster\n"a, ""b""",1\n\n')
    assert read_names(path, 2) == {1: 'a, "b"'}


def test_a_name_survives_our_own_table(tmp_path: Path):
    import pyarrow as pa

    names = ["=x", "'quoted'", "plain", "-1"]
    write_csv(pa.table({"cluster": range(4), "name": names}), tmp_path / "names.csv")
    assert list(read_names(tmp_path / "names.csv", 4).values()) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"names.csv: no column 'cluster'. There are none."),
        ("cluster,name\n", r"names.csv: names no cluster"),
        ("cluster,name\n0,\n1, \n", r"names.csv: names no cluster. Give at least one a name"),
        ("cluster,nam\n0,cat\n", r"names.csv: no column 'name'. Did you mean 'nam'?"),
        ("number,name\n0,cat\n", r"names.csv: no column 'cluster'. There are: name, number"),
        (
            "cluster,name\n0,cat\n5,dog\n",
            r"line 3: there is no cluster 5; they are 0 to 2. Is it of",
        ),
        ("cluster,name\n-1,cat\n", r"line 2: there is no cluster -1"),
        ("cluster,name\ncat,0\n", r"line 2: 'cat' is no number of a cluster"),
        ("cluster,name\n0,cat\n0,dog\n", r"line 3: cluster 0 is 'cat' and 'dog'. Give it one name"),
        ('cluster,name\n0,"cat\n', r"names.csv: cannot be read: unexpected end of data"),
    ],
)
def test_tables_of_names_that_make_no_sense_are_refused(tmp_path: Path, text, said):
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_names(tmp_path / "names.csv", 3)


def test_tables_of_names_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone.csv: cannot be read: No such file"):
        read_names(tmp_path / "gone.csv", 3)
    (tmp_path / "names.csv").write_bytes("cluster,name\n0,Öl\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8: .* Save it as UTF-8"):
        read_names(tmp_path / "names.csv", 3)


def test_a_table_that_cannot_be_written_says_so(tmp_path: Path):
    with pytest.raises(RunError, match="cannot be written"):
        export_csv(["a"], ["b"], np.ones(1, np.float32), tmp_path / "missing" / "labels.csv")
