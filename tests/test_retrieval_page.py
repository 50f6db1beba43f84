from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError, RunError
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors, NoiseRate, Verdict
from labelsieve.report.retrieval_curves import best_on_test, filter_chart, training_charts
from labelsieve.report.retrieval_galleries import (
    N_NEIGHBORS,
    N_PAIRS,
    N_QUERIES,
    N_WORST,
    Query,
    choose_confused,
    nearest_rows,
    pick_queries,
    query_rows,
)
from labelsieve.report.retrieval_metrics import score_retrieval
from labelsieve.report.retrieval_page import N_CLASSES, write_retrieval_page
from made_findings import made_findings, random_findings
from made_pictures import encoded, photo
from made_retrieval import made_neighbors, made_rows, retrieval_epochs
from test_classifier_page import lede, sections, words
from test_page import EVIL, Elements, image_set

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict
ALWAYS = {"overview", "mislabeled", "next", "made"}


def labeled(folder, labels, names=None, image=None, **more):
    """A test set with these labels."""
    n, size = len(labels), int(max(labels, default=0)) + 1
    names = names or tuple(f"kind {c}" for c in range(size))
    image = image or [f"t{i:05d}.png" for i in range(n)]
    folder.mkdir(exist_ok=True)
    findings = made_findings([CLEAN] * n, list(labels), class_names=names, image=image)
    return image_set(folder, findings, **more)


def on_test(folder, n, n_classes, stages=("train", "second"), **more):
    """What the page is given of a test set that was scored after each stage."""
    rows, labels = made_rows(n, n_classes)
    found = nearest_neighbors(rows, N_NEIGHBORS)
    return {
        "stages": {
            stage: score_retrieval(made_rows(n, n_classes, skill=0.5 + i / 2)[0], labels)
            for i, stage in enumerate(stages)
        },
        "test_images": labeled(folder / "test", labels, **more),
        "shown": pick_queries(np.arange(n), found, labels),
        "nearest": nearest_rows(np.arange(n), found, n),
    }


def page(folder, findings, **more):
    path = folder / "report.html"
    write_retrieval_page(findings, image_set(folder, findings), path, **more)
    return path.read_text(encoding="utf-8")


def part(text, section):
    return text.partition(f'<section id="{section}"')[2].partition("</section>")[0]


HISTORY = {"train": retrieval_epochs(), "second": retrieval_epochs(filtered=False)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with everything on it."""
    folder = tmp_path_factory.mktemp("page")
    findings = random_findings(
        200, 7, seed=1, neighbors=np.random.default_rng(0).integers(0, 200, (200, 5)),
        warnings=("Few images in class 3.",), reason=("nearer to another class",) * 200,
    )  # fmt: skip
    about = {
        "labelsieve": "0.1.0", "job": "retrieve", "recipe": "two-stage", "model": "features",
        "argv": ["retrieve", "my photos/", "--test", "checked/", "--out", "run"], "run": "my run",
        "settings": {"embed": {"filter": {"window": 30}}}, "timings": {"train": 3.0},
        "next": [("labelsieve audit photos/", "Or look closer:")],
    }  # fmt: skip
    return page(folder, findings, about=about, history=HISTORY, **on_test(folder, 90, 7))


def test_the_page_is_well_formed_and_its_links_lead_somewhere(whole):
    elements = Elements(whole)
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in elements.found if a.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_the_page_loads_nothing_from_anywhere(whole):
    elements = Elements(whole)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in whole
    assert "url(" not in whole
    assert len(elements["script"]) == 1


def test_a_page_with_everything_has_every_section_in_order(whole):
    order = ["warnings", "overview", "scores", "queries", "confused", "training", "noise",
             "confusions", "mislabeled", "foreign", "next", "made"]  # fmt: skip
    assert [a["id"] for a in Elements(whole)["section"]] == order
    assert re.findall(r'<li><a href="#(\w+)">', whole.partition("<main")[0]) == order


def test_the_top_says_how_good_it_is_and_what_it_was_trained_on(whole, tmp_path):
    last = on_test(tmp_path, 90, 7)["stages"]["second"]
    low, high = (f"{100 * end:.1f} %" for end in last.interval)
    said = lede(whole)
    assert "trained on 200 images of 7 classes, recipe two-stage, model features." in said
    assert f"For {100 * last.precision_at_1:.1f} % of 90 test images the nearest other" in said
    assert f"({low} to {high})" in said
    assert said.endswith("Read the warnings first.")
    for text in (
        "labelsieve retrieve &#39;my photos/&#39; --test checked/ --out run",
        "embed.filter.window", "labelsieve rerun &#39;my run&#39; --out again/",
        "labelsieve audit photos/", "<dt>recipe</dt><dd>two-stage</dd>",
    ):  # fmt: skip
        assert text in whole, text
    assert whole.index("Before you rely on this") < whole.index("<h2>Overview")


def test_the_table_of_scores_holds_both_stages_and_what_the_second_gained(whole, tmp_path):
    stages = on_test(tmp_path, 90, 7)["stages"]
    table = words(whole, "scores")
    assert "Stage first training second training gain, points" in re.sub(
        r"(?<=[a-z])(?=(first|second|gain))", " ", table
    )
    gain = 100 * (stages["second"].map_at_r - stages["train"].map_at_r)
    values = "".join(f"{100 * one.map_at_r:.1f} %" for one in stages.values())
    assert f"MAP@R{values}{gain:+.1f}".replace("-", "\N{MINUS SIGN}") in table
    assert "Best Precision@1 on these images, only to compareepoch 8 90.0 %epoch 8 90.0 %" in table
    assert "The last epoch counts: 39.0 %. The best on the test images, 90.0 %" in words(
        whole, "training"
    )


def test_one_stage_has_no_column_of_gains(tmp_path):
    given = on_test(tmp_path, 60, 5, stages=("train",))
    text = words(page(tmp_path, made_findings([CLEAN], [0]), **given), "scores")
    assert "gain" not in text
    assert "Precision@1, last epoch" in text
    assert "only to compare" not in text  # nothing was tested on the way


def test_scores_given_alone_are_those_of_the_last_epoch(tmp_path):
    scores = on_test(tmp_path, 60, 5)["stages"]["second"]
    text = page(tmp_path, made_findings([CLEAN], [0]), scores=scores, history=HISTORY)
    assert sections(text) == ALWAYS | {"scores", "training"}
    assert f"For {100 * scores.precision_at_1:.1f} %" in lede(text)
    assert "only to compareepoch 8 90.0 %" in words(text, "scores")


def test_queries_show_what_is_right_and_wrong_in_words_too(whole, tmp_path):
    given = on_test(tmp_path, 90, 7)
    shown, queries = given["shown"], part(whole, "queries")
    assert "Found" in queries
    assert "Surest mistakes" in queries
    right = sum(sum(query.right) for query in shown)
    n_found = sum(len(query.right) for query in shown)
    assert queries.count('<li class="right">') == right
    assert queries.count('<li class="wrong">') == n_found - right
    said = [a["alt"] for a in Elements(whole)["img"] if a["alt"].startswith(("Right", "Wrong"))]
    assert len(said) == n_found
    assert all(re.fullmatch(r"(Right|Wrong): t\d{5}\.png, labeled kind \d", a) for a in said)
    first = shown[0]
    assert f"{sum(first.right)} of {len(first.right)} right" in words(whole, "queries")


def test_the_filter_is_drawn_with_what_it_removed(whole):
    training = words(whole, "training")
    assert "At the end 59 % kept, 41 % removed, 40 % taken as the noise rate." in training
    assert "an image that scores below \N{MINUS SIGN}3.100 is removed" in training
    assert "First training" in training
    assert "Second training, on what was kept" in training


def test_without_a_test_set_the_page_says_what_is_known(tmp_path):
    text = page(tmp_path, made_findings([CLEAN, CLEAN], [0, 1]))
    assert "only test images tell" in lede(text)
    assert "Train with --test IMAGES" in words(text, "overview")
    assert "No image was called mislabeled." in words(text, "mislabeled")
    assert sections(text) == ALWAYS


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"history": {"train": retrieval_epochs(3)}}, {"training"}),
        ({"history": {"train": []}}, set()),
        ({"history": {"train": [{"images_per_second": 3.0}]}}, set()),
        ({"history": {"train": [{"loss": 1.0, "threshold": float("nan")}]}}, {"training"}),
    ],
)
def test_a_section_is_there_only_where_there_is_something_to_say(tmp_path, given, more):
    assert sections(page(tmp_path, made_findings([CLEAN], [0]), **given)) == ALWAYS | more


def test_a_foreign_column_is_there_only_where_something_is_known_of_it(tmp_path):
    def rates(interval):
        return tuple(NoiseRate(name, 3, 0.3, (0.1, 0.5), 0.0, interval) for name in ("cat", "dog"))

    known = page(tmp_path, made_findings([CLEAN], [0], noise_rates=rates((0.0, 0.2))))
    unknown = page(tmp_path, made_findings([CLEAN], [0], noise_rates=rates((0.0, 1.0))))
    assert "Foreign" in words(known, "noise")
    assert "Foreign" not in words(unknown, "noise")
    assert "not known" not in words(unknown, "noise")
    assert "30.0 % 10.0–50.0" in words(unknown, "noise")


def test_a_test_set_without_mates_has_neighbors_and_no_scores(tmp_path):
    labels = np.arange(6)
    rows, _ = made_rows(6, 6)
    found = nearest_neighbors(rows, 3)
    text = page(
        tmp_path, made_findings([CLEAN], [0]), stages={"train": score_retrieval(rows, labels)},
        test_images=labeled(tmp_path / "test", labels),
        shown=pick_queries(labels, found, labels), nearest=nearest_rows(labels, found, 6),
    )  # fmt: skip
    assert "Not one test image can be read and has another of its class" in words(text, "overview")
    assert sections(text) == ALWAYS


def test_test_images_without_labels_have_neighbors_that_nobody_judges(tmp_path):
    found, _ = made_neighbors(30, 3)
    labels = np.full(30, -1)
    images = replace(labeled(tmp_path / "test", [0] * 30), labels=None, class_names=())
    shown = pick_queries(np.arange(30), found, labels)
    text = page(tmp_path, made_findings([CLEAN], [0]), test_images=images, shown=shown,
                nearest=nearest_rows(np.arange(30), found, 30))  # fmt: skip
    queries = part(text, "queries")
    assert queries.count('class="query"') == N_QUERIES
    assert queries.count('<li class="unknown">') == N_QUERIES * N_NEIGHBORS
    assert "what is right, nobody knows" in queries
    assert "frame" not in words(text, "queries")
    assert sections(text) == ALWAYS | {"queries"}


def test_a_single_test_class_has_no_confusion(tmp_path):
    text = page(tmp_path, made_findings([CLEAN], [0]), **on_test(tmp_path, 20, 1))
    assert "always of the same class" in words(text, "confused")
    assert "Surest mistakes" not in words(text, "queries")
    assert "100.0 % of 20 test images" in lede(text)


def test_broken_images_have_a_place_and_no_picture(tmp_path):
    given = on_test(tmp_path, 40, 4, pictures=[encoded(photo()), b"no image", b""])
    findings = made_findings([MISLABELED, BROKEN], [0, 1], suggestion=[1, -1])
    text = page(tmp_path, findings, **given)
    queries = part(text, "queries")
    assert "no picture" in queries
    assert "data:image" in queries
    assert queries.count("<img") + queries.count('class="nopicture"') == sum(
        1 + len(query.neighbors) for query in given["shown"]
    )


def test_names_from_the_user_are_never_markup(tmp_path):
    names = (EVIL + "a", EVIL + "b")
    findings = made_findings(
        [MISLABELED, FOREIGN, MISLABELED], [0, 1, 0], class_names=names,
        image=[EVIL, EVIL + "f", "{{ 7 * 7 }}.png"], suggestion=[1, -1, 1],
        reason=(EVIL,) * 3, warnings=(EVIL,),
        noise_rates=(NoiseRate(EVIL + "a", 3, 0.3, (0.1, 0.5), 0.1, (0.0, 0.2)),),
    )  # fmt: skip
    about = {"recipe": EVIL, "model": EVIL, "settings": {EVIL: EVIL}, "next": [(EVIL, EVIL)]}
    given = on_test(tmp_path, 20, 2, names=names, image=[f"{EVIL}{i}" for i in range(20)],
                    stages=(EVIL, EVIL + "2"))  # fmt: skip
    text = page(tmp_path, findings, about=about, history={EVIL: retrieval_epochs(4)}, **given)
    elements = Elements(text)
    assert len(elements["script"]) == 1
    assert not any("onerror" in a or a.get("src") == "x" for _, a in elements.found)
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}.png" in "".join(elements.texts)


def test_ten_thousand_classes_keep_the_page_small_and_what_is_left_out_is_said(tmp_path):
    findings = random_findings(20_000, 10_000, seed=0)
    labels = np.arange(20_000) // 2
    nearest = np.roll(np.arange(20_000), 1)  # half of them right
    found = Neighbors(nearest[:, None], np.full((20_000, 1), 0.5, np.float32))
    text = page(
        tmp_path, findings, test_images=labeled(tmp_path / "test", labels),
        shown=pick_queries(np.arange(20_000), found, labels), nearest=nearest,
    )  # fmt: skip
    assert len(text) < 15 << 20
    assert f"{N_WORST} of 10,000 classes" in words(text, "confused")
    assert part(text, "confused").count('<tr role="row">') == N_WORST + 1
    assert "The 30 classes confused most" in words(text, "confused")
    assert f"{N_CLASSES} of 10,000 classes are shown" in words(text, "noise")
    assert part(text, "queries").count('class="query"') == 2 * N_QUERIES


def test_more_queries_than_a_page_holds_are_said_to_be_left_out(tmp_path):
    given = on_test(tmp_path, 90, 7)
    one = next(query for query in given["shown"] if query.right[0])
    given["shown"] = [one] * 50
    text = words(page(tmp_path, made_findings([CLEAN], [0]), **given), "queries")
    assert f"{N_QUERIES} of 50 queries that were given are shown" in text


def test_records_of_other_images_are_refused(tmp_path):
    findings = made_findings([CLEAN] * 2, [0, 1])
    images, path = image_set(tmp_path, findings), tmp_path / "r.html"
    other = made_findings([CLEAN] * 2, [0, 1], image=["x", "y"])
    tests = labeled(tmp_path / "test", [0, 0, 1])
    with pytest.raises(DataError, match="findings of 2 images do not go with photos/pets"):
        write_retrieval_page(other, images, path)
    with pytest.raises(DataError, match="queries name test images 1 to 3, and there are 3"):
        write_retrieval_page(findings, images, path, test_images=tests,
                             shown=[Query(1, (3,), (0.5,), (True,))])  # fmt: skip
    with pytest.raises(DataError, match="queries name test images 0 to 1, and there are 0"):
        write_retrieval_page(findings, images, path, shown=[Query(0, (1,), (0.5,), (True,))])
    with pytest.raises(DataError, match="nearest image of 2 test images is given"):
        write_retrieval_page(findings, images, path, test_images=tests, nearest=np.array([1, 0]))
    with pytest.raises(RunError, match="Make the folder"):
        write_retrieval_page(findings, images, tmp_path / "nowhere" / "r.html")
    assert not list(tmp_path.glob("*.html"))


def test_progress_counts_the_pictures_of_both_sets_up_to_all(tmp_path):
    told = []
    page(tmp_path, random_findings(60, 3, seed=0), **on_test(tmp_path, 40, 3),
         progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert len({total for _, total in told}) == 1


# What is chosen


@given(seed=st.integers(0, 10_000), n=st.integers(2, 40), n_classes=st.integers(1, 6),
       k=st.integers(1, 5), skill=st.floats(0.0, 3.0))  # fmt: skip
def test_a_query_is_what_a_slow_search_finds(seed, n, n_classes, k, skill):
    features, labels = made_rows(n, n_classes, seed=seed, skill=skill)
    labels = np.where(np.random.default_rng(seed).random(n) < 0.2, -1, labels)
    rows = np.flatnonzero(np.random.default_rng(seed + 1).random(n + 3) < 0.7)[:n]
    if len(rows) < 2:
        return
    every = np.full(n + 3, -1)
    every[: len(labels)] = labels
    kept = np.resize(features, (len(rows), features.shape[1]))
    found = nearest_neighbors(kept, k)
    for query in pick_queries(rows, found, every, n_good=4, n_bad=3, seed=seed):
        place = int(np.flatnonzero(rows == query.image)[0])
        similar = kept @ kept[place]
        others = [i for i in range(len(rows)) if i != place]
        best = sorted(others, key=lambda i: -similar[i])[: len(query.neighbors)]
        assert query.similarities == pytest.approx([similar[i] for i in best], abs=1e-5)
        assert query.image not in query.neighbors
        own = every[query.image]
        assert query.right == tuple(own >= 0 and every[row] == own for row in query.neighbors)


def test_good_queries_are_right_at_first_and_bad_ones_wrong_with_the_most_similar_first():
    found, labels = made_neighbors(200, 20, skill=0.6)
    picked = pick_queries(np.arange(200), found, labels, n_good=5, n_bad=6)
    good, bad = picked[:5], picked[5:]
    assert all(query.right[0] for query in good)
    assert not any(query.right[0] for query in bad)
    assert len(bad) == 6
    sure = [query.similarities[0] for query in bad]
    assert sure == sorted(sure, reverse=True)
    wrong = labels[found.indices[:, 0]] != labels
    assert sure[0] == found.similarities[wrong, 0].max()


def test_every_class_has_a_query_before_one_has_two():
    labels = np.array([0] * 100 + [1, 1])
    nearest = np.roll(np.arange(102), 1)
    nearest[100] = 101
    found = Neighbors(nearest[:, None], np.full((102, 1), 0.5, np.float32))
    for seed in range(5):
        picked = pick_queries(np.arange(102), found, labels, n_good=2, n_bad=0, seed=seed)
        assert {int(labels[query.image]) for query in picked} == {0, 1}


def test_other_seeds_draw_other_good_queries_and_the_same_bad_ones():
    found, labels = made_neighbors(300, 10, skill=0.8)
    by_seed = [pick_queries(np.arange(300), found, labels, seed=s) for s in (1, 1, 2)]
    assert by_seed[0] == by_seed[1]
    assert by_seed[0] != by_seed[2]
    assert by_seed[0][N_QUERIES:] == by_seed[2][N_QUERIES:]


def test_of_two_images_nearest_to_each_other_one_is_a_bad_query():
    near = Neighbors(
        np.array([[1], [0], [3], [2]]), np.array([[0.9]] * 2 + [[0.8]] * 2, np.float32)
    )
    picked = pick_queries(np.arange(4), near, np.array([0, 1, 0, 1]))
    assert [query.image for query in picked] == [0, 2]


def test_images_without_a_mate_or_without_a_label_are_no_queries():
    near = Neighbors(np.array([[1], [0], [0], [0]]), np.full((4, 1), 0.5, np.float32))
    picked = pick_queries(np.arange(4), near, np.array([0, 0, 1, -1]))
    assert {query.image for query in picked} == {0, 1}
    assert pick_queries(np.arange(1), Neighbors(np.empty((1, 0), np.int64),
                        np.empty((1, 0), np.float32)), np.array([0])) == []  # fmt: skip


def test_rows_that_cannot_be_read_are_skipped_over():
    near = Neighbors(np.array([[1], [0]]), np.full((2, 1), 0.5, np.float32))
    rows, labels = np.array([2, 5]), np.array([1, 1, 0, 1, 1, 0])
    assert pick_queries(rows, near, labels)[0].neighbors in {(2,), (5,)}
    assert nearest_rows(rows, near, 6).tolist() == [-1, -1, 5, -1, -1, 2]


def test_a_neighbor_without_a_label_is_neither_right_nor_wrong(tmp_path):
    images = labeled(tmp_path / "test", [0, -1, 0, 1])
    shown = query_rows([Query(0, (1, 2, 3), (0.9, 0.8, 0.7), (False, True, False))], images)
    assert [hit.judgment for hit in shown.unknown[0].hits] == ["unknown", "right", "wrong"]
    assert (shown.unknown[0].n_right, shown.unknown[0].n_judged) == (1, 2)
    assert shown.rows() == {0, 1, 2, 3}


def test_the_shares_of_classes_are_those_of_the_scores(tmp_path):
    rows, labels = made_rows(120, 8, skill=0.7)
    labels[::10] = -1
    labels[5] = 8  # alone
    found = nearest_neighbors(rows, 3)
    images = labeled(tmp_path / "test", labels)
    confused = choose_confused(nearest_rows(np.arange(120), found, 120), images)
    scores = score_retrieval(rows, labels)
    assert confused.n_queries == scores.n_queries
    assert confused.n_classes == scores.n_classes == len(confused.worst)
    n_right = sum(one.share * one.n_queries for one in confused.worst)
    assert n_right / confused.n_queries == pytest.approx(scores.precision_at_1)
    ends = [one.interval[1] for one in confused.worst]
    assert ends == sorted(ends)
    pairs = Counter()
    for own, near in zip(labels, labels[found.indices[:, 0]], strict=True):
        if own >= 0 and near >= 0 and own != near and (labels == own).sum() > 1:
            pairs[int(own), int(near)] += 1
    expected = sorted(pairs.values(), reverse=True)[:N_PAIRS]
    assert [pair.n_images for pair in confused.pairs] == expected
    assert all(pairs[p.given, p.suggested] == p.n_images for p in confused.pairs)


def test_a_class_of_two_images_does_not_come_before_a_large_one_that_is_hardly_found(tmp_path):
    labels = np.array([0, 0] + [1] * 50 + [2] * 50)
    nearest = np.where(labels == 1, 60, 2)
    nearest[52:] = np.roll(np.arange(52, 102), 1)
    confused = choose_confused(nearest, labeled(tmp_path / "test", labels))
    assert [one.name for one in confused.worst] == ["kind 1", "kind 0", "kind 2"]
    assert [one.taken_for for one in confused.worst] == ["kind 2", "kind 1", ""]


# Charts


def test_the_best_epoch_is_that_of_the_phase_and_the_earliest_of_equals():
    history = {"train": [{"test_precision_at_1": v} for v in (0.2, 0.5, 0.5, 0.4)],
               "second": [{"loss": 1.0}, {"test_precision_at_1": 0.3}], "after": []}  # fmt: skip
    assert best_on_test(history, "train").epoch == 2
    assert best_on_test(history).precision_at_1 == 0.3
    assert best_on_test(history, "after") is None
    assert best_on_test({}) is None


def test_what_is_not_kept_is_removed_and_without_a_filter_nothing_is_drawn():
    found = filter_chart([{"kept": 0.75}, {"kept": 0.25, "removed": 0.7}])
    assert found.sentence == "At the end 25 % kept, 70 % removed."
    assert [line.label for line in found.lines] == ["kept", "removed"]
    assert filter_chart([{"loss": 1.0}]) is None


def test_only_the_phase_tested_last_has_the_epoch_that_counts():
    charts = dict(training_charts(HISTORY))
    marks = {name: [c.mark for c in drawn if c.title == "Test Precision@1"]
             for name, drawn in charts.items()}  # fmt: skip
    second = "Second training, on what was kept"
    assert marks == {"First training": [None], second: [(10.0, "counts")]}
    assert [c.title for c in charts[second]] == ["Training loss", "Test Precision@1"]
    assert list(dict(training_charts({"train": retrieval_epochs()}))) == ["Training"]
