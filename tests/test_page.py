from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labelsieve.errors import DataError, RunError
from labelsieve.records import Features, ImageSet, NoiseRate, Places, Verdict
from labelsieve.report.figures import heat_map, rate_axis
from labelsieve.report.galleries import N_BROKEN, N_MISLABELED, choose
from labelsieve.report.metrics import score
from labelsieve.report.page import write_page
from labelsieve.report.projection import layout, sample_rows
from labelsieve.report.table import every_label_fits
from labelsieve.report.thumbnails import make_thumbnails
from made_findings import made_findings, random_findings

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict
VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}
EVIL = '<script>alert("x")</script>&\'"/><img src=x onerror=alert(1)>.png'


def image_set(folder, findings, size=(40, 30), pictures=None):
    """Images on disk for some findings: a few files of noise that all rows share."""
    files = []
    rng = np.random.default_rng(0)
    for i, data in enumerate(pictures or [None] * 5):
        path = folder / f"{i}.png"
        if data is None:
            Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)
        else:
            path.write_bytes(data)
        files.append(str(path))
    n = len(findings)
    places = Places(
        "file", tuple(files), (np.arange(n) % len(files)).astype(np.int32),
        np.zeros(n, np.int64), np.zeros(n, np.int64),
    )  # fmt: skip
    return ImageSet("photos/pets", findings.image, places, findings.class_names, findings.label)


class Elements(html.parser.HTMLParser):
    """The elements of a page; complains of one that is closed twice or never."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append(data)

    def __getitem__(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page(folder, findings, features=None, **more):
    path = folder / "report.html"
    if features is not None:
        more["features"] = Features(findings.image, np.asarray(features, np.float32), "test")
    write_page(findings, image_set(folder, findings), path, **more)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with everything on it."""
    findings = random_findings(
        300, 4, seed=0,
        neighbors=np.random.default_rng(0).integers(0, 300, (300, 5)),
        duplicate_of=np.where(np.arange(300) % 40 == 1, np.arange(300) - 1, -1),
        warnings=("Few images in class 3.",),
    )  # fmt: skip
    features = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    about = {
        "labelsieve": "0.1.0", "job": "audit", "argv": ["audit", "my photos/", "--out", "run"],
        "settings": {"recipe": "robust", "detect": {"xi": 0.02}},
        "timings": {"read": {"seconds": 1.25, "cpu_seconds": 1.0}, "detect": 3.0},
        "libraries": {"numpy": "2.0"}, "next": [("labelsieve evaluate run", "Score it:")],
    }  # fmt: skip
    truth = [f"class {i % 4}" for i in range(300)]
    folder = tmp_path_factory.mktemp("page")
    return page(folder, findings, features=features, about=about, scores=score(findings, truth))


def test_the_page_is_well_formed_and_its_ids_are_unique(whole):
    elements = Elements(whole)
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in elements.found if a.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_the_page_loads_nothing_from_anywhere(whole):
    for _, attributes in Elements(whole).found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert "@import" not in whole
    assert all(url.startswith("data:image/") for url in re.findall(r"url\(([^)]*)", whole))
    addresses = set(re.findall(r"https?://[^\s\"'<]+", whole))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace, not an address


def test_the_policy_forbids_loading_and_names_the_only_script(whole):
    elements = Elements(whole)
    policy = next(a["content"] for a in elements["meta"] if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    script = re.search(r"<script>(.*?)</script>", whole, re.DOTALL)[1]
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{expected}'" in policy
    assert not any(name.startswith("on") for _, a in elements.found for name in a)


def test_every_picture_says_in_words_what_it_shows(whole):
    elements = Elements(whole)
    assert len(elements["img"]) > 100
    assert all(re.match(r"\d{4}\.png, labeled class \d$", a["alt"]) for a in elements["img"])
    drawings = [a for a in elements["svg"] if a.get("role") == "img"]
    assert drawings
    assert all(a["aria-label"].strip() for a in drawings)
    others = [a for a in elements["svg"] if a.get("role") != "img"]
    assert sum(a.get("aria-hidden") != "true" for a in others) <= sum("x" in a for a in others)


def test_the_page_says_how_it_was_made_and_what_to_do(whole):
    for text in (
        "labelsieve audit &#39;my photos/&#39; --out run", "detect.xi", "0.02", "robust",
        "numpy 2.0", "labelsieve evaluate run", "Few images in class 3.", "1.2", "3.0",
        "findings.parquet",
    ):  # fmt: skip
        assert text in whole, text


def test_the_map_knows_each_of_its_points(whole):
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', whole, re.DOTALL)[1])
    n = len(data["x"])
    assert {
        len(data[key]) for key in ("x", "y", "id", "label", "suggestion", "verdict", "sure")
    } == {n}
    assert all(0 <= x <= 1000 for x in data["x"])
    assert set(data["classes"]) == {f"class {c}" for c in range(4)}
    assert all(-1 <= label < 4 for label in data["label"])
    assert all(0 <= sure <= 100 for sure in data["sure"])
    drawn = sum(
        len(re.findall("M", path)) for path in re.findall(r'class="dots \w+" d="(.*?)"', whole)
    )
    assert drawn == n


def test_the_command_of_a_host_program_is_not_taken_for_ours(tmp_path):
    text = page(tmp_path, made_findings([CLEAN], [0]), about={"argv": ["-q"], "job": "audit"})
    assert "labelsieve -q" not in text


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("photos/pets", "pets"),
        ("demo-run/images/", "demo-run/images"),
        ("a/b.parquet", "b.parquet"),
    ],
)
def test_the_title_names_the_images(tmp_path, source, title):
    findings = made_findings([CLEAN], [0])
    images = replace(image_set(tmp_path, findings), source=source)
    write_page(findings, images, tmp_path / "r.html")
    assert f"<h1>{title}</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_names_from_the_user_are_never_markup(tmp_path):
    findings = made_findings(
        [MISLABELED, FOREIGN, BROKEN, CLEAN],
        [0, 0, 0, 1],
        class_names=(EVIL + "a", EVIL + "b"),
        image=[EVIL, "{{ 7 * 7 }}.png", EVIL + "2", "</script><b>.png"],
        suggestion=[1, -1, -1, -1],
        neighbors=np.array([[1], [0], [-1], [0]]),
        duplicate_of=np.array([-1, -1, -1, 1]),
        reason=(EVIL,) * 4,
        noise_rates=(NoiseRate(EVIL + "a", 3, 0.3, (0.1, 0.5), 0.1, (0.0, 0.2)),),
        warnings=(EVIL,),
    )
    about = {"argv": [EVIL], "job": EVIL, "settings": {EVIL: EVIL}, "timings": {EVIL: 1.0}}
    text = page(tmp_path, findings, features=np.eye(4, 3), about=about,
                scores=score(findings, [EVIL + "b", "x", "broken", EVIL + "b"]))  # fmt: skip
    elements = Elements(text)
    assert len(elements["script"]) == 2  # ours, and the map's data
    assert not any("onerror" in a or a.get("src") == "x" for _, a in elements.found)
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}.png" in "".join(elements.texts)
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.DOTALL)[1])
    assert sorted(data["id"]) == sorted([EVIL, "{{ 7 * 7 }}.png", "</script><b>.png"])


def test_a_picture_that_cannot_be_read_is_shown_as_such(tmp_path):
    findings = made_findings([MISLABELED, CLEAN], [0, 1], suggestion=[1, -1],
                             neighbors=np.array([[1], [0]]))  # fmt: skip
    images = image_set(tmp_path, findings, pictures=[b"no image", b""])
    write_page(findings, images, tmp_path / "report.html")
    elements = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    placeholders = [a for a in elements["span"] if a.get("class") == "nopicture"]
    assert [a["aria-label"] for a in placeholders] == [
        "0000.png, labeled cat: no picture",
        "0001.png, labeled dog: no picture",
    ]
    assert not elements["img"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_set_of_one_verdict_has_a_page(tmp_path, verdict):
    findings = made_findings([verdict] * 3, [0, 1, -1])
    text = page(tmp_path, findings, features=np.zeros((3, 2)))
    Elements(text)
    assert "Every label fits its image." not in text  # no noise rate says so
    nothing = verdict in (CLEAN, BROKEN)
    assert ("No image was called mislabeled or foreign" in text) == nothing


def rate_of(mislabeled, foreign=0.0, interval=(0.0, 0.03), name="cat"):
    return NoiseRate(name, 9, mislabeled, interval, foreign, (0.0, 0.03))


@pytest.mark.parametrize(
    ("verdicts", "rates", "warnings", "fits"),
    [
        ([CLEAN, CLEAN], [rate_of(0.01, 0.009)], (), True),
        ([CLEAN, BROKEN], [rate_of(0.01)], (), True),
        ([CLEAN, CLEAN], [rate_of(0.01, 0.01)], (), False),
        ([CLEAN, CLEAN], [rate_of(0.0), rate_of(0.3)], (), False),
        ([CLEAN, CLEAN], [rate_of(0.0, interval=(0.0, 1.0))], (), False),
        ([CLEAN, CLEAN], [rate_of(0.0)], ("The labels look like chance.",), False),
        ([CLEAN, MISLABELED], [rate_of(0.0)], (), False),
        ([CLEAN, FOREIGN], [rate_of(0.0)], (), False),
        ([BROKEN, BROKEN], [rate_of(0.0)], (), False),
        ([CLEAN, CLEAN], [], (), False),
    ],
)
def test_every_label_is_said_to_fit_only_where_all_speaks_for_it(
    tmp_path, verdicts, rates, warnings, fits
):
    findings = made_findings(verdicts, [0, 1], noise_rates=tuple(rates), warnings=warnings)
    text = page(tmp_path, findings)
    assert every_label_fits(findings) == fits
    assert ("Every label fits its image" in text) == fits
    assert ("Read the warnings first." in text) == bool(warnings)
    nothing = not {MISLABELED, FOREIGN} & set(verdicts)
    assert ("No image was called mislabeled or foreign" in text) == (nothing and not fits)


def test_the_first_words_know_one_from_several(tmp_path):
    one = page(tmp_path, made_findings([MISLABELED, FOREIGN, BROKEN], [0] * 3))
    assert (
        "<b>1</b> looks mislabeled, <b>1</b> fits none of the classes and <b>1</b> cannot be read."
        in one
    )
    two = page(tmp_path, made_findings([MISLABELED, FOREIGN] * 2, [0] * 4))
    assert "<b>2</b> look mislabeled and <b>2</b> fit none of the classes." in two


def test_the_date_has_a_time_zone(whole):
    assert re.search(r"<time [^>]*>\d+ \w+ \d{4}, \d\d:\d\d UTC([+-]\d\d:\d\d)?</time>", whole)


def test_a_card_tells_its_probabilities_and_its_whole_reason(tmp_path):
    probabilities = [[0.03, 0.97, 0], [0.2, 0.8, 0], [0.1, 0, 0.9], [0.4, 0, 0.6]]
    findings = made_findings(
        [MISLABELED, MISLABELED, FOREIGN, FOREIGN], [0] * 4, probabilities=probabilities,
        suggestion=[1, 2, -1, -1], suggestion_probability=np.array([0.97, 0.7, np.nan, np.nan]),
    )  # fmt: skip
    text = page(tmp_path, findings)
    words = re.sub(r"<[^>]*>", "", text.partition("<body>")[2].partition("<script>")[0])
    assert "probability .97 of being mislabeled\n" in words  # the suggestion's is the same
    assert "probability .80 of being mislabeled; suggestion: owl (.70)" in words
    assert "about 2 of these 2 are truly mislabeled" in words
    assert "about 2 of these 2 are truly foreign" in words
    assert words.count("Probabilities are estimates: look before you act.") == 2
    assert " sure" not in words
    reason = re.search(r"\.reason \{(.*?)\}", text)[1]
    assert "clamp" not in reason
    assert "hidden" not in reason


def test_the_expected_numbers_are_sums_of_probabilities():
    findings = random_findings(500, 4, seed=5)
    galleries = choose(findings)
    for verdict, expected in (
        (MISLABELED, galleries.n_expected_suspects), (FOREIGN, galleries.n_expected_foreign),
    ):  # fmt: skip
        total = sum(p[verdict] for p, v in zip(findings.probabilities, findings.verdict,
                                               strict=True) if v == verdict)  # fmt: skip
        assert abs(expected - total) <= 0.5 + 1e-3


def test_long_labels_below_small_pictures_are_there_in_full(tmp_path):
    findings = made_findings(
        [MISLABELED, CLEAN], [0, 1], class_names=["a", "ice_hockey<b>"], suggestion=[1, -1],
        neighbors=np.array([[1], [0]]),
    )  # fmt: skip
    text = page(tmp_path, findings)
    tag = re.search(r'<span class="tag agrees" title="(.*?)">(.*?)</span>', text)
    assert tag[1] == "ice_hockey&lt;b&gt;"
    assert tag[2] == "ice_<wbr>hockey&lt;b&gt;"
    assert "nowrap" not in re.search(r"\.tag \{(.*?)\}", text)[1]


def test_images_without_a_label_are_counted(tmp_path, whole):
    assert "no label; <code>" not in whole
    one = page(tmp_path, made_findings([CLEAN] * 3, [0, 1, -1]))
    assert "1 image has no label; <code>clean</code> says of it only that it fits one" in one
    two = page(tmp_path, made_findings([CLEAN] * 3, [0, -1, -1]))
    assert "2 images have no label; <code>clean</code> says of them only that they fit one" in two


def test_a_rate_that_is_not_known_is_said_so_and_does_not_stretch_the_chart(tmp_path):
    rates = (rate_of(0.3, interval=(0.0, 1.0)), rate_of(0.01, 0.02, name="dog"))
    text = page(tmp_path, made_findings([CLEAN] * 2, [0, 1], noise_rates=rates))
    noise = text[text.index('id="noise"') :]
    assert noise.count("not known") == 1
    assert "30.0" not in noise
    assert "0.0–100.0" not in noise
    assert noise.count('class="whisker') == 3
    assert rate_axis(rates).high == pytest.approx(0.03)


def test_the_noise_section_explains_its_order_and_its_rates(whole):
    assert "The class with the most noise comes first, sorted by both together" in whole
    assert "A rate counts also doubt that is too small for a verdict" in whole


def test_a_path_may_be_text(tmp_path):
    findings = made_findings([CLEAN], [0])
    write_page(findings, image_set(tmp_path, findings), str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").exists()


def test_no_images_and_no_features_have_a_page(tmp_path):
    text = page(tmp_path, made_findings([], []))
    assert "0 images in 3 classes." in text
    assert 'id="world"' not in text


def test_what_is_shown_is_bounded_and_the_page_says_of_how_many(tmp_path):
    findings = random_findings(20_000, 1000, seed=1, neighbors=np.zeros((20_000, 5), np.int64))
    galleries = choose(findings)
    assert len(galleries.suspects) == N_MISLABELED
    assert galleries.n_suspects == findings.count(MISLABELED)
    assert len(galleries.broken) == N_BROKEN
    text = page(tmp_path, findings)
    assert f"96 of {galleries.n_suspects:,}" in text
    assert f"{N_BROKEN} of {galleries.n_broken:,} are shown" in text
    assert "30 of 1,000 classes are shown" in text
    assert len(text) < 4 << 20


def test_pictures_stop_where_the_page_is_full(tmp_path):
    findings = made_findings([MISLABELED] * 50, [0] * 50)
    images = image_set(tmp_path, findings, size=(200, 200))
    made = make_thumbnails(images, large=range(50), small=range(50), budget=100_000)
    taken = [*made.large.values(), *made.small.values()]
    assert sum(map(len, taken)) <= 100_000
    assert made.n_left_out == 100 - len(taken) > 0


def test_thumbnails_are_small_whole_pictures_and_small_ones_are_not_blown_up(tmp_path):
    findings = made_findings([CLEAN] * 2, [0] * 2)
    images = image_set(tmp_path, findings, size=(600, 300))
    made = make_thumbnails(images, large=[0], small=[0, 1], tiles=[1, 0], hashed=[0, 1])
    shapes = {name: Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size
              for name, uri in (("large", made.large[0]), ("small", made.small[1]),
                                ("sheet", made.sheet))}  # fmt: skip
    assert shapes == {"large": (160, 80), "small": (96, 48), "sheet": (80, 40)}
    assert made.hashes[0] != made.hashes[1]
    tiny = image_set(tmp_path, findings, size=(20, 10))
    uri = make_thumbnails(tiny, large=[0], small=[]).large[0]
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (20, 10)


def test_thumbnails_report_progress_to_the_end(tmp_path):
    findings = made_findings([CLEAN] * 7, [0] * 7)
    seen = []
    make_thumbnails(image_set(tmp_path, findings), [0, 3], [3, 6],
                    progress=lambda *done: seen.append(done))  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_copies_with_the_same_pixels_are_told_from_near_copies(tmp_path):
    findings = made_findings(
        [CLEAN] * 7, [0] * 7, duplicate_of=np.array([-1, -1, -1, -1, -1, 0, 0])
    )  # rows 0 and 5 share a file, row 6 has another
    assert "Nearly the same" in page(tmp_path, findings)
    findings = replace(findings, duplicate_of=np.array([-1, -1, -1, -1, -1, 0, -1]))
    text = page(tmp_path, findings)
    assert "Identical pixels" in text
    assert "Nearly the same" not in text


def test_groups_of_copies_with_different_labels_come_first():
    findings = made_findings([CLEAN] * 5, [0, 0, 0, 1, 2], duplicate_of=np.array([-1, 0, 0, -1, 3]))
    galleries = choose(findings)
    assert [group.n_images for group in galleries.duplicates] == [2, 3]
    assert galleries.n_label_conflicts == 1


def test_the_gallery_shows_the_surest_of_every_class_before_many_from_one():
    n = 3 * N_MISLABELED
    probabilities = np.zeros((n, 3))
    probabilities[:, 1] = np.linspace(1, 0.6, n)
    probabilities[:, 0] = 1 - probabilities[:, 1]
    label = [0] * (n - 2) + [1, 2]  # the two least sure are alone in their classes
    galleries = choose(made_findings([MISLABELED] * n, label, probabilities=probabilities))
    shown = [suspect.picture.row for suspect in galleries.suspects]
    assert {n - 2, n - 1} <= set(shown)
    sure = [suspect.probability for suspect in galleries.suspects]
    assert sure == sorted(sure, reverse=True)
    assert shown[0] == 0


def test_findings_of_other_images_are_refused(tmp_path):
    findings = made_findings([CLEAN] * 2, [0, 0])
    images = image_set(tmp_path, findings)
    with pytest.raises(DataError, match="do not go with photos/pets, which has 2: ids or their"):
        write_page(replace(findings, image=("a", "b")), images, tmp_path / "r.html")
    with pytest.raises(RunError, match="cannot be written"):
        write_page(findings, images, tmp_path / "missing" / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_features_are_matched_by_id_and_an_image_without_them_is_not_on_the_map(tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    findings = made_findings([CLEAN] * 12, [0] * 12)
    path, images = tmp_path / "report.html", image_set(tmp_path, findings)
    keep = [row for row in range(12) if row != 3]
    some = Features(tuple(findings.image[row] for row in keep), values[keep], "test")
    write_page(findings, images, path, features=some)
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.DOTALL)[1])
    assert "0003.png" not in data["id"]
    assert len(data["id"]) == 11


def test_the_map_holds_rare_verdicts_and_no_broken_image():
    verdicts = [CLEAN] * 9000 + [MISLABELED] * 900 + [FOREIGN] * 90 + [BROKEN] * 10
    findings = made_findings(verdicts, [0] * 10_000)
    rows = sample_rows(findings, n_points=1000, n_rare=250)
    counts = np.bincount(findings.verdict[rows], minlength=4)
    assert counts.tolist() == [901, 250, 90, 0]
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, sample_rows(findings, n_points=1000, n_rare=250))


def test_the_layout_is_repeatable_and_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    centers = np.repeat(4 * np.eye(3, 10), 40, axis=0)
    features = centers + 0.3 * rng.normal(size=centers.shape)
    points = layout(features)
    assert np.array_equal(points, layout(features))
    assert points.min() == 0
    assert points.max() == 1
    within = max(np.ptp(points[i : i + 40], axis=0).max() for i in (0, 40, 80))
    middles = np.array([points[i : i + 40].mean(axis=0) for i in (0, 40, 80)])
    between = min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert between > within


@given(st.integers(0, 14), st.integers(1, 4), st.booleans())
def test_the_layout_of_few_or_equal_rows_stays_in_the_square(n, d, equal):
    features = np.random.default_rng(n).normal(size=(1 if equal else n, d))
    features = np.repeat(features, n, axis=0) if equal else features
    points = layout(features)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()
    assert ((points >= 0) & (points <= 1)).all()


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5))
def test_the_axis_holds_every_interval_and_starts_at_zero(highs):
    axis = rate_axis([NoiseRate("x", 1, h / 2, (0, h), 0, (0, 0)) for h in highs])
    assert axis.high >= max(highs) - 1e-9
    assert axis.ticks[0] == 0
    assert axis.ticks[-1] == pytest.approx(axis.high)
    assert 2 <= len(axis.ticks) <= 6
    assert axis.place(0) == 0
    assert axis.place(axis.high) == 100


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 50))
def test_the_heat_map_counts_every_confusion_once(n, n_classes, seed):
    findings = random_findings(n, 40, seed)
    heat = heat_map(findings, n_classes)
    called = (findings.verdict == MISLABELED) & (findings.suggestion >= 0)
    assert sum(cell.n_images for cell in heat.cells) == called.sum()
    assert len(heat.names) <= n_classes + 1
    n_own = len(heat.names) - (heat.n_others > 0)
    own = [cell for cell in heat.cells if max(cell.row, cell.column) < n_own]
    most = max((cell.n_images for cell in own), default=0)
    assert all((cell.level == 5) == (cell.n_images > 0.64 * most) for cell in own)
    assert all((cell.level > 0) == (cell in own) for cell in heat.cells)


def style_colors(text, media):
    """The custom colors of the style sheet, as {name: (r, g, b)}."""
    style = text.split("@media screen and (prefers-color-scheme: dark)")
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style[0]))
    dark = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style[1].partition("*, ::before")[0]))
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}[media]


def contrast(one, two):
    """Contrast ratio as WCAG 2 defines it."""

    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("media", ["light", "dark"])
def test_text_stands_out_from_its_ground_as_wcag_aa_asks(whole, media):
    color = style_colors(whole, media)
    for ground in ("paper", "card", "sunk"):
        for ink in ("ink", "muted", "accent", "clean", "mislabeled", "foreign", "broken"):
            assert contrast(color[ink], color[ground]) >= 4.5, (ink, ground)
    inks = ["heat-low"] * 3 + ["heat4-ink", "heat-high"]
    for level, ink in enumerate(inks, start=1):
        assert contrast(color[ink], color[f"heat{level}"]) >= 4.5, level
