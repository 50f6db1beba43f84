from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labelsieve.errors import DataError, RunError
from labelsieve.exports import read_names
from labelsieve.records import ImageSet, Places
from labelsieve.records.clusters import Clusters, Part
from labelsieve.report.cluster_galleries import (
    DOUBTFUL,
    N_CARDS,
    N_DOUBTFUL,
    N_RANDOM,
    N_SURE,
    Groups,
    choose_clusters,
)
from labelsieve.report.cluster_page import write_cluster_page
from labelsieve.report.cluster_scores import score_clusters, score_labels, score_parts
from labelsieve.report.confusion import N_CLASSES, N_CLUSTERS, class_map
from labelsieve.report.curves import HEIGHT, LEFT, RIGHT, TOP, charts_of, evidence_chart, scale
from test_page import EVIL, Elements

SECTIONS = {"warnings", "overview", "scores", "number", "clusters", "doubtful", "confusion",
            "training", "next", "made"}  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def made_clusters(n=200, n_clusters=4, seed=0, **columns):
    """Clusters by chance: most images are sure, some are torn; the last image is broken."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(n_clusters, 0.3), n)
    probabilities[-1:] = np.nan
    columns.setdefault("part", np.where(np.arange(n) % 5 == 0, Part.VALID, Part.TRAIN))
    ids = columns.pop("image", tuple(f"{i:05d}.png" for i in range(n)))
    return Clusters.of_probabilities(ids, probabilities, **columns)


def sure_clusters(cluster, probability=0.9, n_clusters=None, **columns):
    """Images that are in these clusters, each with that probability."""
    cluster = np.asarray(cluster)
    c = n_clusters or int(cluster.max()) + 1
    probabilities = np.full((len(cluster), c), 0.0)
    probabilities += ((1 - np.asarray(probability)) / max(1, c - 1))[..., None]
    probabilities[np.arange(len(cluster)), cluster] = probability
    ids = tuple(f"{i:05d}.png" for i in range(len(cluster)))
    return Clusters.of_probabilities(ids, probabilities, **columns)


def image_set(folder, clusters, size=(24, 20), source="photos/pets", n_files=5):
    """Images on disk: a few files of noise that all rows share."""
    rng = np.random.default_rng(0)
    files = tuple(str(folder / f"{i}.png") for i in range(n_files))
    for file in files:
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(file)
    n = len(clusters)
    zeros = np.zeros(n, np.int64)
    places = Places("file", files, (np.arange(n) % n_files).astype(np.int32), zeros, zeros)
    return ImageSet(source, clusters.image, places, (), None)


def page(folder, clusters, **more):
    path = folder / "report.html"
    write_cluster_page(clusters, image_set(folder, clusters), path, **more)
    return path.read_text(encoding="utf-8")


def words(text):
    """What a reader sees, without the markup."""
    body = text.partition("<main")[2].partition("<footer")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body).replace("\N{NO-BREAK SPACE}", " "))


def lede(text):
    found = re.search(r'<p class="lede">(.*?)</p>', text, re.DOTALL)[1]
    return " ".join(re.sub(r"<[^>]*>", "", found).replace("\N{NO-BREAK SPACE}", " ").split())


def evidence(chosen=4, is_clear=True, sentence="The images fall into 4 groups."):
    numbers = np.arange(2, 9)
    return SimpleNamespace(
        numbers=numbers,
        stability=np.linspace(0.9, 0.1, 7),
        support=np.linspace(0.2, 0.7, 7),
        crossing=np.linspace(0.0, 1.0, 7),
        chosen=chosen,
        plausible=(3, 5),
        is_clear=is_clear,
        sentence=sentence,
    )


def epochs(n=20, **more):
    return [
        {
            "phase": "heads", "epoch": i, "loss": 2.0 - i, "valid_loss": -1.0 - 0.01 * i,
            "valid_gap": 0.4 - 0.01 * i, "used_clusters": min(4.0, 1.0 + i),
            "confident_90": i / n, "confident_95": i / n / 2, "confident_99": 0.0, **more,
        }
        for i in range(n)
    ]  # fmt: skip


def truth_of(clusters, n_classes=4):
    return [f"class {i % n_classes}" for i in range(len(clusters))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with everything on it."""
    clusters = made_clusters(
        duplicate_of=np.where(np.arange(200) % 40 == 1, np.arange(200) - 1, -1),
        warnings=("Few images in cluster 3.",),
    )
    truth = truth_of(clusters)
    labels = np.arange(200) % 4
    about = {
        "labelsieve": "0.1.0", "job": "cluster", "kmeans": {"n_runs": 10, "inertia": 3.5},
        "argv": ["cluster", "my photos/", "--classes", "auto", "--out", "run"],
        "settings": {"heads": {"n_heads": 10}}, "run": "my run",
        "timings": {"read": {"seconds": 1.25, "cpu_seconds": 1.0}, "heads": 3.0},
        "next": [("labelsieve evaluate run", "Score it:")],
    }  # fmt: skip
    kmeans = score_labels(
        clusters.cluster,
        labels,
        4,
        [f"class {c}" for c in range(4)],
        choices=clusters.choices[:, :1],
    )
    return page(
        tmp_path_factory.mktemp("page"), clusters, about=about, evidence=evidence(),
        scores={"k-means": {"train": kmeans}, "heads": score_parts(clusters, truth)},
        history={"heads": epochs(), "self-label": epochs(9, learned=0.4, confident=0.5)},
    )  # fmt: skip


def sections(text):
    return {attributes["id"] for attributes in Elements(text)["section"]}


def test_the_page_is_well_formed_and_its_links_lead_somewhere(whole):
    elements = Elements(whole)
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in elements.found if a.get("href", "").startswith("#")}
    assert targets <= set(ids)
    assert {a["list"] for a in elements["input"]} <= set(ids)


def test_the_page_loads_nothing_and_its_policy_names_the_only_script(whole):
    elements = Elements(whole)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in whole
    assert "url(" not in whole
    policy = next(a["content"] for a in elements["meta"] if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert len(elements["script"]) == 1
    script = re.search(r"<script>(.*?)</script>", whole, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_every_picture_and_drawing_says_in_words_what_it_shows(whole):
    elements = Elements(whole)
    said = [a["alt"] for a in elements["img"]]
    assert len(said) > 80
    kinds = r"(Shows cluster \d best|Cluster \d|Between cluster \d and cluster \d): \d{5}\.png"
    assert all(re.fullmatch(kinds, alt) for alt in said)
    drawings = [a["aria-label"] for a in elements["svg"] if a.get("role") == "img"]
    assert len(drawings) == 2 + 1 + 1 + 4 + 5  # overview, evidence, heat map, two phases
    assert all(text.strip() for text in drawings)
    silent = [a for a in elements["svg"] if a.get("role") != "img"]
    assert all(a.get("aria-hidden") == "true" for a in silent)


def test_each_cluster_has_a_labeled_box_for_its_name(whole):
    boxes = [a for a in Elements(whole)["input"] if a["type"] == "text"]
    assert sorted(a["data-cluster"] for a in boxes) == ["0", "1", "2", "3"]
    assert all(a["aria-label"] == f"Name of cluster {a['data-cluster']}" for a in boxes)
    assert all(a["placeholder"].startswith("such as class ") for a in boxes)


def test_a_page_with_everything_has_every_section(whole):
    assert sections(whole) == SECTIONS


def test_the_page_says_how_it_was_made_and_what_to_do(whole):
    for text in (
        "labelsieve cluster &#39;my photos/&#39; --classes auto --out run", "heads.n_heads",
        "labelsieve export &#39;my run&#39; --to links --names names.csv --out named/",
        "labelsieve predict &#39;my run&#39; IMAGES --out new.csv", "labelsieve evaluate run",
        "Few images in cluster 3.", "Read the warnings first.", "1.2", "3.0", "clusters.parquet",
    ):  # fmt: skip
        assert text in whole, text
    assert whole.index("Before you rely on this") < whole.index("<h2>Overview")


def test_every_measure_of_the_table_is_explained_and_so_is_the_baseline(whole):
    table = whole.partition('id="scores"')[2].partition("</section>")[0]
    headings = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert headings[3:] == re.findall(r"<dt>(.*?)</dt>", table)
    assert table.count("<td>–</td>") == 1  # k-means has no second choice
    assert "of 10 runs the one with the least spread" in table
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', table)
    assert rows == [("k-means", "trained on"), ("heads", "trained on"), ("heads", "held out")]


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({}, set()),
        ({"evidence": evidence()}, {"number"}),
        ({"history": {"heads": epochs()}}, {"training"}),
        ({"history": {"heads": []}}, set()),
        ({"history": {"heads": [{"images_per_second": 3.0}]}}, set()),
        ({"scores": {}}, set()),
        ({"scores": {"heads": {}}}, set()),
    ],
)
def test_a_section_is_there_only_where_there_is_something_to_say(tmp_path, given, more):
    text = page(tmp_path, made_clusters(40), **given)
    assert sections(text) == {"overview", "clusters", "doubtful", "next", "made"} | more
    linked = set(re.findall(r'<li><a href="#(\w+)">', text.partition("<main")[0]))
    assert linked == sections(text)


def test_scores_of_other_clusters_are_in_the_table_and_nowhere_else(tmp_path):
    clusters = made_clusters(60)
    other = score_labels(np.arange(60) % 7, np.arange(60) % 4)
    text = page(tmp_path, clusters, scores={"more heads": {"valid": other}})
    assert "scores" in sections(text)
    assert "confusion" not in sections(text)
    assert "Truly" not in text
    assert "whose class is known" not in lede(text)


def test_names_from_the_user_are_never_markup(tmp_path):
    clusters = made_clusters(
        12, 3, image=tuple(EVIL + str(i) for i in range(12)),
        names=(EVIL, "{{ 7 * 7 }}", "2"), warnings=(EVIL,),
    )  # fmt: skip
    truth = [EVIL + "b", "x"] * 6
    about = {
        "argv": [EVIL],
        "job": EVIL,
        "settings": {EVIL: EVIL},
        "run": EVIL,
        "next": [(EVIL,) * 2],
    }
    text = page(
        tmp_path, clusters, about=about, evidence=evidence(sentence=EVIL),
        scores={EVIL: {EVIL: score_clusters(clusters, truth)}}, history={EVIL: epochs()},
    )  # fmt: skip
    elements = Elements(text)
    assert len(elements["script"]) == 1
    assert not any("onerror" in a or a.get("src") == "x" for _, a in elements.found)
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}" in "".join(elements.texts)
    assert EVIL in [a["value"] for a in elements["input"]]


def test_the_first_words_say_what_was_found(tmp_path):
    clusters = made_clusters(200)
    assert lede(page(tmp_path, clusters)) == "200 images in 4 clusters. 1 cannot be read."
    empty = sure_clusters([0, 0, 2], n_clusters=4)
    assert "3 images in 2 clusters. 2 more clusters are empty." in lede(page(tmp_path, empty))
    said = lede(page(tmp_path, clusters, evidence=evidence(is_clear=False)))
    assert "200 images in 4 clusters, a number found from the images, but not clearly." in said


def test_accuracy_is_told_of_held_out_images_and_by_majority_when_over_clustered(tmp_path):
    part = [Part.TRAIN] * 8 + [Part.VALID] * 4
    clusters = sure_clusters([0, 1, 2, 3] * 3, part=part)
    two = ["a", "a", "b", "b"] * 2 + ["a", "a", "b", "a"]
    text = page(tmp_path, clusters, scores={"heads": score_parts(clusters, two)})
    assert (
        "75.0 % of the 4 held-out images whose class is known are in a cluster most of which is "
        "of their class." in lede(text)
    )
    four = ["a", "b", "c", "d"] * 2 + ["a", "b", "c", "a"]
    text = page(tmp_path, clusters, scores={"heads": score_parts(clusters, four)})
    assert "75.0 % of the 4 held-out images" in lede(text)
    assert "are in the cluster of their class." in lede(text)


def test_how_the_images_were_used_is_counted(tmp_path):
    part = [Part.TRAIN] * 5 + [Part.VALID] * 3 + [Part.NEW] * 2
    clusters = sure_clusters([0, 1] * 5, part=part, duplicate_of=np.array([-1] * 9 + [1]))
    said = words(page(tmp_path, clusters))
    for text in ("Trained on 5 50.0 %", "Held out 3 30.0 %", "New 2 20.0 %", "Copies 1 10.0 %"):
        assert text in said, text
    assert "Broken" not in said


def test_names_that_were_given_are_in_their_boxes_and_numbers_are_not(tmp_path):
    clusters = sure_clusters([0, 0, 1], names=("cat", "1"))
    boxes = {a["data-cluster"]: a["value"] for a in Elements(page(tmp_path, clusters))["input"]}
    assert boxes == {"0": "cat", "1": ""}


def test_a_picture_that_cannot_be_read_is_shown_as_such(tmp_path):
    clusters = sure_clusters([0, 0])
    images = image_set(tmp_path, clusters, n_files=1)
    (tmp_path / "0.png").write_bytes(b"no image")
    write_cluster_page(clusters, images, tmp_path / "r.html")
    elements = Elements((tmp_path / "r.html").read_text(encoding="utf-8"))
    missing = [a["aria-label"] for a in elements["span"] if a.get("class") == "nopicture"]
    assert missing == [
        "Shows cluster 0 best: 00000.png: no picture",
        "Cluster 0: 00001.png: no picture",
    ]
    assert not elements["img"]


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("n_clusters", [1, 2])
def test_degenerate_sets_have_a_page(tmp_path, n, n_clusters):
    clusters = made_clusters(n, n_clusters)  # the last image is broken
    text = page(tmp_path, clusters, history={"heads": epochs(1)})
    Elements(text)
    assert ("No image is in a cluster." in text) == (n < 2)
    assert f"{n} image{'s' if n != 1 else ''} in" in lede(text)


def test_clusters_of_other_images_are_refused(tmp_path):
    clusters = made_clusters(4)
    images = image_set(tmp_path, made_clusters(5))
    with pytest.raises(DataError, match="clusters of 4 images do not go with photos/pets, which"):
        write_cluster_page(clusters, images, tmp_path / "r.html")


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    clusters = made_clusters(4)
    images = image_set(tmp_path, clusters)
    with pytest.raises(RunError, match=r"missing/r\.html: cannot be written"):
        write_cluster_page(clusters, images, tmp_path / "missing/r.html")


def test_progress_rises_to_the_end(tmp_path):
    clusters, seen = made_clusters(100), []
    page(tmp_path, clusters, progress=lambda *done: seen.append(done))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def chosen(clusters, **more):
    return choose_clusters(Groups(clusters), **more)


def test_cards_come_by_size_and_empty_clusters_have_none():
    galleries = chosen(sure_clusters([2, 2, 2, 0, 4, 4], n_clusters=5))
    assert [(card.cluster, card.n_images) for card in galleries.cards] == [(2, 3), (4, 2), (0, 1)]
    assert (galleries.n_clusters, galleries.n_empty) == (5, 2)


@given(seed=st.integers(0, 999), n=st.integers(1, 120), n_clusters=st.integers(1, 4))
def test_members_are_the_surest_and_others_of_the_cluster(seed, n, n_clusters):
    rng = np.random.default_rng(seed)
    copies = np.where((np.arange(n) > 0) & (rng.random(n) < 0.2), 0, -1)
    clusters = made_clusters(n, n_clusters, seed=seed, duplicate_of=copies)
    for card in chosen(clusters).cards:
        own = [i for i in range(n) if clusters.cluster[i] == card.cluster]
        by_probability = sorted(own, key=lambda i: -clusters.probabilities[i, 0])
        assert card.n_images == len(own)
        assert card.prototype.row == by_probability[0]
        values = [float(clusters.probabilities[i, 0]) for i in own]
        assert card.mean_probability == pytest.approx(np.mean(values), rel=1e-4)
        assert card.confident_share == pytest.approx(np.mean([v > 0.9 for v in values]))
        others = [i for i in by_probability[1:] if copies[i] < 0]
        assert [m.row for m in card.sure] == others[:N_SURE]
        drawn = [m.row for m in card.random]
        assert set(drawn) <= set(others[N_SURE:])
        assert len(drawn) == len(set(drawn)) == min(N_RANDOM, len(others[N_SURE:]))


def test_a_prototype_that_is_given_is_taken_and_not_shown_twice():
    clusters = sure_clusters([0] * 5, probability=np.linspace(0.9, 0.5, 5), prototypes=[3],
                             n_clusters=1)  # fmt: skip
    card = chosen(clusters).cards[0]
    assert card.prototype.row == 3
    assert [member.row for member in card.sure] == [0, 1, 2, 4]


def test_random_members_are_not_only_sure_ones():
    clusters = sure_clusters([0] * 400 + [1], probability=np.linspace(0.99, 0.51, 401))
    rows = [member.row for member in chosen(clusters).cards[0].random]
    assert len(rows) == N_RANDOM
    assert min(rows) < 200 < max(rows)
    assert rows == [member.row for member in chosen(clusters).cards[0].random]  # no new draw


def test_true_classes_of_a_cluster_are_shares_of_its_scored_images():
    clusters = sure_clusters([0, 0, 0, 0, 1])
    card = chosen(clusters, scores=score_clusters(clusters, ["a", "b", "a", None, "b"])).cards[0]
    assert card.true == (("a", pytest.approx(2 / 3)), ("b", pytest.approx(1 / 3)))
    assert card.n_true == 3


def test_doubtful_images_are_those_with_a_small_margin_the_closest_first():
    probabilities = [[0.5, 0.4, 0.1], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05], [0.4, 0.05, 0.55]]
    clusters = Clusters.of_probabilities(tuple("abcd"), probabilities)
    galleries = chosen(clusters)
    assert galleries.n_doubtful == len(galleries.doubts) == 3
    assert [(d.member.image, d.first, d.second) for d in galleries.doubts] == [
        ("b", 0, 1), ("a", 0, 1), ("d", 2, 0),
    ]  # fmt: skip


def test_all_pairs_of_doubtful_clusters_are_shown_before_many_of_one():
    n = 300
    probabilities = np.full((n, 4), 0.05)
    probabilities[:, :2] = [0.451, 0.449]
    probabilities[-1] = [0.05, 0.05, 0.5, 0.4]  # the least doubtful of all
    galleries = chosen(Clusters.of_probabilities(tuple(map(str, range(n))), probabilities))
    assert galleries.n_doubtful == n
    assert len(galleries.doubts) == N_DOUBTFUL
    assert galleries.doubts[-1].member.row == n - 1


def test_the_page_counts_doubtful_images_as_a_loop_does(tmp_path):
    clusters = made_clusters(300)
    margins = clusters.probabilities[:, 0] - clusters.probabilities[:, 1]
    n = sum(1 for margin in margins if margin < DOUBTFUL)
    text = page(tmp_path, clusters)
    assert f"{n} images have a second choice nearly as probable" in words(text)
    sure = words(page(tmp_path, sure_clusters([0, 1])))
    assert "In no image is the second choice nearly as probable as the first." in sure


def test_what_is_shown_is_bounded_and_the_page_says_of_how_many(tmp_path):
    n, c = 30_000, 1200
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, c, n)
    choices = (cluster[:, None] + np.arange(3)) % c
    clusters = Clusters(
        image=tuple(f"{i}/{'x' * 60}.png" for i in range(n)),
        names=tuple(map(str, range(c))), choices=choices,
        probabilities=np.tile(np.float32([0.4, 0.3, 0.2]), (n, 1)),
        part=np.zeros(n, np.int8), duplicate_of=np.full(n, -1), prototypes=(-1,) * c,
    )  # fmt: skip
    scores = {"heads": score_parts(clusters, [f"class {k:04d}" for k in cluster])}
    images = image_set(tmp_path, clusters, size=(96, 96))  # noise: the largest pictures there are
    write_cluster_page(clusters, images, tmp_path / "r.html", scores=scores,
                       history={"heads": epochs(5000)})  # fmt: skip
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 15 << 20
    assert f"{N_CARDS:,} of 1,200" in text
    assert f"{N_DOUBTFUL} of them are shown" in text
    assert f"The {N_CLASSES} of 1,200 classes that were found worst are shown." in text
    assert "left out to keep the page small" not in text  # members are chosen by what fits
    assert text.count('data-cluster="') == N_CARDS


def test_of_many_clusters_as_many_members_are_shown_as_there_is_room_for(tmp_path):
    clusters = sure_clusters(np.repeat(np.arange(350), 8))
    images = image_set(tmp_path, clusters, size=(96, 96))  # 9,000 characters each
    write_cluster_page(clusters, images, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "the image that shows it best, 1 of its surest members and 1 drawn by chance" in text
    assert "left out to keep the page small" not in text
    assert 8 << 20 < len(text) < 15 << 20


def test_of_few_clusters_all_members_are_shown_where_there_is_room(tmp_path):
    text = page(tmp_path, made_clusters(400, 4))
    assert f"{N_SURE} of its surest members and {N_RANDOM} drawn by chance" in text
    n_pictures = len(Elements(text)["img"])
    n_doubts = text.partition('id="doubtful"')[2].count("<img")
    assert n_pictures == 4 * (1 + N_SURE + N_RANDOM) + n_doubts


floats = st.floats(-1e6, 1e6)


@given(values=st.lists(floats, min_size=1, max_size=5))
def test_a_scale_holds_its_values_between_round_even_ticks(values):
    found = scale(values)
    slack = 1e-6 * (found.high - found.low)
    assert found.low <= min(values) + slack
    assert found.high >= max(values) - slack
    assert max(values) - min(values) >= 0.3 * (found.high - found.low) or found.high - found.low < 2
    steps = np.diff(found.ticks)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert 2 <= len(found.ticks) <= 8
    assert len({found.text(tick) for tick in found.ticks}) == len(found.ticks)


def test_ticks_are_told_with_as_few_digits_as_they_need():
    assert [scale([3.9, 5.0]).text(t) for t in scale([3.9, 5.0]).ticks] == [
        "3.75", "4.00", "4.25", "4.50", "4.75", "5.00",
    ]  # fmt: skip
    assert scale([-12, 0]).text(scale([-12, 0]).low) == "\N{MINUS SIGN}12.5"


def points(line):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", line.path)]


def test_a_curve_goes_from_end_to_end_and_up_where_values_rise():
    loss, validation, confident, used = charts_of(epochs(20), 4)
    assert points(loss.lines[0])[0] == (LEFT, loss.down(2.0))
    across = [x for x, _ in points(loss.lines[0])]
    assert across == sorted(across)
    assert (across[0], across[-1]) == (LEFT, loss.width - RIGHT)
    down = [y for _, y in points(loss.lines[0])]
    assert down == sorted(down)  # a falling loss goes down
    assert all(TOP <= y <= HEIGHT for y in down)
    up = [y for _, y in points(confident.lines[0])]
    assert up == sorted(up, reverse=True)
    assert loss.sentence == "From 2.000 to \N{MINUS SIGN}17.000 in 20 epochs."
    assert "at epoch 20 of 20. The least there can be is \N{MINUS SIGN}1.400" in validation.sentence
    assert confident.sentence.endswith("at the end 95 % above .90, 48 % above .95, 0 % above .99.")
    assert used.sentence == "At the end 4 of 4 have held-out images; fewest, 1, at epoch 1."


def test_values_that_are_missing_are_left_out_of_a_curve():
    lines = [{"epoch": 0, "loss": None}, {"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": math.nan},
             {"epoch": 3, "loss": 1.0}]  # fmt: skip
    (loss,) = charts_of(lines, 4)
    assert len(points(loss.lines[0])) == 2
    assert loss.sentence == "From 3.000 to 1.000 in 4 epochs."
    assert charts_of([{"loss": None}], 4) == ()


def test_a_long_curve_is_thinned_but_keeps_its_ends():
    loss = charts_of([{"loss": 1.0 / (i + 1)} for i in range(100_000)], 4)[0]
    drawn = points(loss.lines[0])
    assert len(drawn) <= 400
    assert (drawn[0][0], drawn[-1][0]) == (LEFT, loss.width - RIGHT)


def test_the_evidence_marks_the_number_and_shades_the_plausible(tmp_path):
    chart = evidence_chart(evidence())
    tried = [x for x, _ in points(chart.lines[0])]
    assert chart.right(chart.mark[0]) == tried[2]  # 2, 3, 4
    assert [chart.right(n) for n in chart.band] == [tried[1], tried[3]]
    assert chart.table[0] == ("Classes", "Stability", "Support", "Crossing")
    assert chart.table[1] == ("2", "0.900", "0.200", "0.000")
    text = page(tmp_path, made_clusters(40), evidence=evidence())
    assert "The images fall into 4 groups." in text
    assert "3 to 5. Used: 4." in words(text)
    assert 'aria-label="Evidence. The images fall into 4 groups."' in text


def test_numbers_of_different_sizes_are_shown_by_their_logarithm():
    many = evidence(chosen=20)
    many.numbers, many.plausible = np.array([2, 5, 10, 20, 50, 100, 200]), (10, 50)
    chart = evidence_chart(many)
    assert chart.x.is_log
    tried = [x for x, _ in points(chart.lines[0])]
    assert tried[2] - tried[0] == pytest.approx(tried[6] - tried[4], rel=0.5)
    assert tried[0] < chart.right(20) < tried[-1]


def test_the_heat_map_puts_right_clusters_on_its_diagonal():
    truth = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    clusters = sure_clusters([2, 2, 2, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    found = class_map(score_clusters(clusters, truth))
    assert found.classes == ("a", "b", "c")
    assert found.clusters == (2, 0, 1)
    right = {(c.row, c.column): c.share for c in found.cells if c.is_right}
    assert right == {(0, 0): 0.75, (1, 1): 1.0, (2, 2): 0.5}
    strayed = {(c.row, c.column): c.n_images for c in found.cells if not c.is_right}
    assert strayed == {(0, 1): 1, (2, 0): 2}
    worst = found.worst[0]
    assert (worst.name, worst.share, worst.strayed_to, worst.strayed_share) == ("c", 0.5, 2, 0.5)


def test_several_clusters_of_a_class_are_all_right():
    found = class_map(score_clusters(sure_clusters([0, 1, 2, 3]), ["a", "a", "b", "b"]))
    assert all(cell.is_right for cell in found.cells)
    assert [one.share for one in found.worst] == [1.0, 1.0]


def test_of_many_classes_those_found_worst_are_shown():
    labels = np.repeat(np.arange(50), 4)
    cluster = labels.copy()
    cluster[np.isin(labels, [7, 33]) & (np.arange(200) % 4 == 0)] = 20
    found = class_map(score_labels(cluster, labels, 50, [f"class {g}" for g in range(50)]))
    assert len(found.classes) == N_CLASSES
    assert {"class 7", "class 33"} <= set(found.classes)
    assert [one.name for one in found.worst[:3]] == ["class 7", "class 33", "class 0"]
    assert {20} <= set(found.clusters)  # it took what strayed


@given(seed=st.integers(0, 999), n_classes=st.integers(1, 60), n_clusters=st.integers(1, 60))
def test_rows_of_the_heat_map_count_every_image_once(seed, n_classes, n_clusters):
    rng = np.random.default_rng(seed)
    labels, cluster = rng.integers(0, n_classes, 400), rng.integers(0, n_clusters, 400)
    scores = score_labels(cluster, labels, n_clusters, list(map(str, range(n_classes))))
    found = class_map(scores)
    assert len(found.classes) <= N_CLASSES
    assert len(found.clusters) <= N_CLUSTERS
    assert found.n_classes == len(set(labels.tolist()))
    for row, name in enumerate(found.classes):
        held = [cell for cell in found.cells if cell.row == row]
        assert sum(cell.n_images for cell in held) == int((labels == int(name)).sum())
        assert sum(cell.share for cell in held) == pytest.approx(1)
    columns = {cell.column for cell in found.cells}
    assert (len(found.clusters) in columns) == (found.n_other_clusters > 0)


DRIVER = """
(async () => {
  const boxes = [...document.querySelectorAll("input[data-cluster]")];
  const type = (i, text) => { boxes[i].value = text; boxes[i].dispatchEvent(new Event("input")); };
  if (!sessionStorage.getItem("typed")) {
    ["cat", 'a "b", c', " cat ", "=1+1", "\\u00fc"].forEach((text, i) => type(i, text));
    const enter = { key: "Enter", cancelable: true };
    boxes[3].dispatchEvent(new KeyboardEvent("keydown", enter));
    const after = boxes.indexOf(document.activeElement);
    boxes[3].dispatchEvent(new KeyboardEvent("keydown", { ...enter, shiftKey: true }));
    sessionStorage.setItem("typed", [after, boxes.indexOf(document.activeElement)]);
    location.reload();
    return;
  }
  let blob, saved;
  URL.createObjectURL = (given) => { blob = given; return "blob:0"; };
  HTMLAnchorElement.prototype.click = function () { saved = this.download; };
  document.querySelector("#save").click();
  const result = {
    csv: await blob.text(), saved, focused: sessionStorage.getItem("typed"),
    bar: document.querySelector("#naming p").textContent,
    next: !document.querySelector("#then").hidden,
    called: [...document.querySelectorAll(`[data-of="${boxes[0].dataset.cluster}"]`)]
      .map((place) => place.textContent),
  };
  const out = document.createElement("pre");
  out.id = "driven";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
})();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to run the page's script")
def test_names_typed_survive_a_reload_and_are_saved_as_a_table_the_export_reads(tmp_path):
    clusters = made_clusters(120, 6)
    text = page(tmp_path, clusters)
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    driven = text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    driven = driven.replace("</body>", f"<script>{DRIVER}</script></body>")
    (tmp_path / "driven.html").write_text(driven, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "driven.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="driven">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    result = json.loads(found[1].replace("&amp;", "&"))
    order = [card.cluster for card in chosen(clusters).cards]
    names = dict(zip(order, ["cat", 'a "b", c', "cat", "=1+1", "ü"], strict=False))
    (tmp_path / "names.csv").write_text(result["csv"], encoding="utf-8")
    assert read_names(tmp_path / "names.csv", 6) == names
    assert result["csv"].startswith("cluster,name\n")
    assert "'=1+1" in result["csv"]  # not a formula in a spreadsheet
    assert result["saved"] == "names.csv"
    assert result["focused"] == "4,2"  # Enter goes on, Shift+Enter back
    assert result["bar"] == "5 of 6 named, 4 different names"
    assert result["next"]
    assert set(result["called"]) <= {"cat"}
    assert named_is_what_the_export_sees(clusters, names)


def named_is_what_the_export_sees(clusters, names):
    named = clusters.named(names)
    return "cat" in named.names and len(named.names) == len(clusters.names) - 1
