from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from labelsieve.errors import DataError, RunError
from labelsieve.records.tag_findings import Pairs, Tagged, TagVerdict
from labelsieve.records.tag_set import TagSet, empty
from labelsieve.report.classifier_scores import wilson
from labelsieve.report.tag_breakdowns import Group
from labelsieve.report.tag_curves import bin_charts, parts, training_charts
from labelsieve.report.tag_galleries import (
    N_IN_STRIP,
    N_QUESTIONS,
    N_TAGS,
    Question,
    choose_tags,
    question_groups,
)
from labelsieve.report.tag_metrics import score_tags
from labelsieve.report.tag_page import (
    LEAST_PAIRS,
    N_DIAGRAMS,
    N_NEVER,
    N_RELATIONS,
    N_ROWS,
    QUESTIONS_FILE,
    ROWS_FILE,
    write_tag_page,
)
from labelsieve.report.tag_reliability import false_positive_share
from labelsieve.report.tag_rows import (
    BASES,
    CONTROL,
    METHODS,
    never_verified,
    rows_to_arrow,
    tag_rows,
    worst_tags,
    wrong_share,
)
from made_findings import made_findings
from made_pictures import encoded, photo
from made_tagged import (
    made_methods,
    made_probabilities,
    made_reliability,
    made_rows,
    made_tag_set,
    made_tagged,
    with_images,
)
from test_classifier_page import lede, sections, words
from test_page import EVIL, Elements, image_set

KEPT, REMOVED, ADDED, REVIEW = TagVerdict
ALWAYS = {"overview", "verify", "made"}
HISTORY = {
    "noisy": [{"epoch": i, "loss": 4.0 - 0.1 * i} for i in range(6)],
    "joint": [
        {"epoch": i, "loss": 1.0, "classifying": 0.9, "cleaning": 0.5 - 0.1 * i} for i in range(3)
    ],
}


class Related:
    """As a method gives it: the page only looks at these."""

    def __init__(self, tag, other, weight, n_images=5):
        self.tag, self.other, self.weight, self.n_images = tag, other, weight, n_images


def pictures(folder, tag_set, files=None):
    findings = made_findings([0] * len(tag_set), [0] * len(tag_set), image=list(tag_set.ids))
    return with_images(tag_set, image_set(folder, findings, pictures=files))


def page(folder, tagged, tag_set, **more):
    path = folder / "report.html"
    write_tag_page(tagged, tag_set, path, **more)
    return path.read_text(encoding="utf-8")


def part(text, section):
    return text.partition(f'<section id="{section}"')[2].partition("</section>")[0]


def by_hand(probabilities, given, verified, names=("cat", "dog"), **more):
    """Tags of dense lists, and what is found."""
    tag_set = TagSet(
        tuple(f"{i}.jpg" for i in range(len(given))), names, csr_array(np.array(given, float)),
        csr_array(np.array(verified, np.int8)), source="by/hand.csv",
    )  # fmt: skip
    keep = np.array(probabilities, np.float32)
    return tag_set, Tagged.of_probabilities(tag_set, keep, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tags with pictures, and what is found of them."""
    folder = tmp_path_factory.mktemp("pictures")
    tag_set = pictures(folder, made_tag_set(400, 8, understood=("400 images with 8 tags.",)))
    return tag_set, made_tagged(tag_set, warnings=("Few verified of tag 3.",))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A page with everything on it."""
    tag_set, tagged = made
    about = {
        "labelsieve": "0.1.0", "job": "tag", "recipe": "default", "run": "my run",
        "argv": ["tag", "my tags.csv", "--verified", "checked.csv"], "timings": {"train": 3.0},
        "settings": {"keep": {"target_precision": 0.9}},
        "next": [("labelsieve tag my.csv --verified all.csv", "Go on with the answers:")],
    }  # fmt: skip
    return page(
        tmp_path_factory.mktemp("page"), tagged, tag_set, about=about,
        scores=made_methods(tag_set), tag_rows=made_rows(tagged),
        reliability=made_reliability(tag_set),
        relations=[Related(0, 1, 0.5, 31), Related(2, 3, -1.0)],
        to_verify=[Question(i, i % 3, 0.5, "random" if i % 2 else "uncertain") for i in range(60)],
        history=HISTORY,
    )  # fmt: skip


def test_the_page_is_well_formed_and_its_links_lead_somewhere(whole):
    elements = Elements(whole)
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in elements.found if a.get("href", "").startswith("#")}
    assert targets <= set(ids)
    order = ["warnings", "overview", "scores", "tags", "reliability", "relations", "pictures",
             "verify", "training", "made"]  # fmt: skip
    assert [a["id"] for a in elements["section"]] == order
    assert re.findall(r'<li><a href="#(\w+)">', whole.partition("<main")[0]) == order


def test_the_page_loads_nothing_from_anywhere(whole):
    elements = Elements(whole)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in whole
    assert "url(" not in whole
    assert len(elements["script"]) == 1


def test_every_picture_and_drawing_says_in_words_what_it_shows(whole):
    elements = Elements(whole)
    assert elements["img"]
    for attributes in elements["img"]:
        assert re.fullmatch(r"tag \d, (kept|removed|review|to verify): im\d{5}\.jpg",
                            attributes["alt"])  # fmt: skip
    drawings = [a for a in elements["svg"] if "viewbox" in a]
    assert all(a.get("aria-label") for a in drawings)


def test_the_top_says_how_many_there_are_and_how_many_are_wrong(whole, made):
    tag_set, tagged = made
    scores = made_methods(tag_set)["default"]
    n = int(scores.n_present.sum() + scores.n_absent.sum())
    before = 100 * int(scores.n_absent.sum()) / n
    after = 100 * (1 - scores.precision_kept)
    said = lede(whole)
    assert f"{tag_set.asserted.nnz:,} tags of 400 images, 8 different, recipe default." in said
    assert (
        f"people looked at, {before:.1f} % were wrong as given, and {after:.1f} % of what" in said
    )
    assert said.endswith("Read the warnings first.")
    text = words(whole, "overview")
    for verdict in (KEPT, REMOVED, REVIEW):
        share = 100 * tagged.count(verdict) / tag_set.asserted.nnz
        assert f"{tagged.count(verdict):,} {share:.1f} %" in text
    assert f"Of {n:,} verified given tags; " in text
    assert f"Right ones that stay {100 * scores.recall_kept:.1f} %" in text
    assert whole.index("Before you rely on this") < whole.index("<h2>Overview")


def test_methods_stand_side_by_side_with_their_gains_and_the_control(whole, made):
    scores = made_methods(made[0])
    text = words(whole, "scores")
    base, last = scores["noisy"], scores["default"]
    assert f"tags as given{100 * base.map:.1f} %{100 * base.ap_all:.1f} %" in text
    for method in ("biases", "default"):
        one = scores[method]
        gains = [100 * (one.map - base.map), 100 * (one.ap_all - base.ap_all)]
        mine = [f"{gain:+.1f}".replace("-", "\N{MINUS SIGN}") for gain in gains]
        shown = f"{100 * one.map:.1f} % {mine[0]}{100 * one.ap_all:.1f} % {mine[1]}"
        assert f"{METHODS[method]}{shown}" in text
    assert f"{100 * last.precision_kept:.1f} %{100 * last.recall_kept:.1f} %" in text
    assert CONTROL in text
    assert '<tr class="chosen"><th scope="row">gates</th>' in whole
    assert "MAP, all images" not in text


def test_full_truth_has_a_column(tmp_path, made):
    tag_set, tagged = made
    scores = made_methods(tag_set)
    scores["default"] = replace(scores["default"], ap_full=np.full(8, 0.25))
    text = words(page(tmp_path, tagged, tag_set, scores=scores), "scores")
    assert "MAP, all images" in text
    assert text.count("25.0 %") == 1


def test_the_table_of_tags_is_in_order_of_what_is_wrong_and_names_the_unverified(whole, made):
    rows = made_rows(made[1])
    text = part(whole, "tags")
    shown = re.findall(r'<th scope="row" role="rowheader" title="([^"]*)"', text)
    assert shown == [row.name for row in worst_tags(rows)]
    assert shown[0] != "tag 7"
    assert "Never verified: 1 tag" in words(whole, "tags")
    assert "tag 7" in text.partition("</ul>")[0]
    worst = worst_tags(rows)[0]
    low, high = (round(100 * end) for end in worst.interval)
    said = words(whole, "tags")
    assert f"{100 * worst.share:.1f} % {low}–{high}" in said
    assert f"All are in {ROWS_FILE}." in said


def test_the_table_says_where_thresholds_come_from_and_what_they_promise(tmp_path, made):
    tag_set, _ = made
    bounds = np.array([0.7, np.inf, 0, 0.5, 0.5, 0.5, 0.5, 0])
    tagged = made_tagged(tag_set, thresholds=bounds)
    bases = ["own", "unreached", "fixed", "shared", "shared", "shared", "shared", "never"]
    expected = np.array([0.95, np.nan, 0.6, 0.9, 0.9, 0.9, 0.9, np.nan])
    rows = made_rows(tagged, expected_precision=expected, basis=bases)
    text = part(page(tmp_path, tagged, tag_set, tag_rows=rows), "tags")
    lines = dict(re.findall(r'rowheader" title="([^"]*)">(.*?)</tr>', text, re.DOTALL))
    said = {
        name: re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", line)) for name, line in lines.items()
    }
    assert said["tag 0"].endswith(" .70 own 95.0 % ")
    assert said["tag 1"].endswith(" never – ")
    assert " keeps all 60.0" in said["tag 2"]
    assert "All that is asserted of it stays, as nothing is known of it." in text
    plain = part(page(tmp_path, tagged, tag_set, tag_rows=made_rows(tagged)), "tags")
    assert "Then right" in text
    assert "Then right" not in plain
    unsure = made_rows(made_tagged(tag_set))
    assert "Nothing is known of it." in page(tmp_path, tagged, tag_set, tag_rows=unsure)


def test_relations_say_which_tag_supports_and_which_contradicts(whole):
    text = words(whole, "relations")
    support, _, contradict = text.partition("Contradict")
    assert "tag 1 → tag 0+0.50 31 images" in support
    assert "tag 3 → tag 2\N{MINUS SIGN}1.00 5 images" in contradict
    assert 'aria-label="contradicts"' in part(whole, "relations")


def test_only_the_strongest_relations_are_shown(tmp_path, made):
    tag_set, tagged = made
    found = [Related(0, 1, 0.01 * (i + 1), n_images=1000 + i) for i in range(50)]
    text = words(page(tmp_path, tagged, tag_set, relations=found), "relations")
    assert re.findall(r"\d,0\d\d images", text) == [
        f"1,0{i} images" for i in range(49, 49 - N_RELATIONS, -1)
    ]
    assert "Contradict" not in text


def test_what_to_verify_is_grouped_by_tag_and_says_how_to_go_on(whole):
    text = words(whole, "verify")
    assert f"60 questions are in {QUESTIONS_FILE}" in text
    assert f"the {N_QUESTIONS} most useful are shown" in text
    assert "tag 0? 17" in text
    assert "Go on with the answers:" in text
    assert "labelsieve tag my.csv --verified all.csv" in text
    assert text.count("random") - 1 == N_QUESTIONS // 2  # once in the introduction


def test_tags_with_few_questions_share_one_wall(tmp_path, made):
    tag_set, tagged = made
    asked = [Question(i, min(i, 4), 0.5, "uncertain") for i in range(8)]
    text = words(page(tmp_path, tagged, tag_set, to_verify=asked), "verify")
    assert "tag 4? 4" in text
    assert "Other tags 4 " in text
    assert "tag 0?.50" in text.replace(" ", "").replace("tag0", "tag 0")


def test_the_page_says_how_it_was_made(whole):
    for text in (
        "labelsieve tag &#39;my tags.csv&#39; --verified checked.csv", "keep.target_precision",
        "labelsieve rerun &#39;my run&#39; --out again/", "400 images with 8 tags.",
        "<dt>recipe</dt><dd>default</dd>",
    ):  # fmt: skip
        assert text in whole, text
    training = words(whole, "training")
    assert "Tagger on tags as given" in training
    assert "At the end: 0.900 of the tagger, 0.300 of the cleaner." in training


def test_without_any_verified_tag_the_page_says_so_and_still_shows_what_is_found(tmp_path):
    tag_set = made_tag_set(60, 4, verified=0)
    tagged = made_tagged(tag_set)
    text = page(tmp_path, tagged, tag_set, tag_rows=made_rows(tagged))
    assert "How many are wrong, nobody knows: none was verified." in lede(text)
    assert "No tag was verified: give --verified a table" in words(text, "overview")
    assert "Never verified: 4 tags" in words(text, "tags")
    assert "<table" not in part(text, "tags")
    assert sections(text) == ALWAYS | {"tags", "pictures"}


def test_nothing_at_all_is_a_page_too(tmp_path):
    tag_set = TagSet((), (), csr_array((0, 0), dtype=np.float32), empty(0, 0), source="none.csv")
    tagged = Tagged.of_probabilities(tag_set, np.empty(0))
    text = page(tmp_path, tagged, tag_set)
    assert sections(text) == ALWAYS
    assert "There is no tag to verify." in text
    Elements(text)


def test_verified_pairs_without_scores_leave_an_estimate(tmp_path):
    tag_set, tagged = by_hand([0.9, 0.1, 0.6, 0.6], [[1, 1], [1, 0], [1, 0]],
                              [[1, 0], [0, 0], [0, 0]])  # fmt: skip
    text = page(tmp_path, tagged, tag_set)
    # of cat: 0 (verified), .4, .4; of dog nobody looked
    assert "If the probabilities hold, 26.7 % are wrong as given, and 26.7 % of what stays." in (
        lede(text)
    )
    assert "leaves out tags that nobody ever verified" in words(text, "overview")
    assert "1 image keeps none" not in text


def test_images_that_keep_no_tag_are_counted(tmp_path):
    tag_set, tagged = by_hand([0.9, 0.1, 0.1], [[1, 0], [1, 1], [0, 0]], [[0, 0]] * 3)
    assert "1 image keeps none of its tags." in words(page(tmp_path, tagged, tag_set), "overview")


def test_without_images_their_names_are_shown(tmp_path):
    tag_set = made_tag_set(40, 4)
    text = page(tmp_path, made_tagged(tag_set), tag_set,
                to_verify=[Question(3, 1, 0.5, "random")])  # fmt: skip
    assert not Elements(text)["img"]
    assert "nopicture" not in text.partition("<main")[2]
    assert "im00003.jpg" in part(text, "verify")
    assert "im000" in part(text, "pictures")
    assert "pictures here" not in part(text, "made")


def test_broken_images_have_a_place_and_no_picture(tmp_path):
    tag_set = made_tag_set(30, 3)
    tag_set = pictures(tmp_path, tag_set, files=[encoded(photo()), b"no image", b""])
    keep = made_probabilities(tag_set)
    keep[:5] = np.nan
    text = page(tmp_path, Tagged.of_probabilities(tag_set, keep), tag_set)
    unread = np.isnan(keep).sum()
    shown = part(text, "pictures")
    assert "data:image" in shown
    assert ": no picture" in shown
    assert f"{unread} tags are left for review as the image cannot be read" in (
        words(text, "overview")
    )


def test_names_from_the_user_are_never_markup(tmp_path):
    names = tuple(f"{EVIL}{c}" for c in range(4))
    tag_set = made_tag_set(50, 4, tag_names=names, ids=tuple(f"{EVIL}{i}" for i in range(50)),
                           source=EVIL, understood=(EVIL, "{{ 7 * 7 }}"), verified=0.9)  # fmt: skip
    tagged = made_tagged(tag_set, warnings=(EVIL,))
    more = {
        "about": {"recipe": EVIL, "settings": {EVIL: EVIL}, "next": [(EVIL, EVIL)]},
        "scores": dict(zip((EVIL, EVIL + "2", EVIL + "3"), made_methods(tag_set).values(),
                           strict=True)),
        "tag_rows": made_rows(tagged, basis=[EVIL] * 4),
        "reliability": made_reliability(tag_set),
        "relations": [Related(0, 1, 0.5), Related(1, 2, -0.5)],
        "to_verify": [Question(0, 1, 0.5, EVIL)] * 3, "history": {EVIL: HISTORY["joint"]},
    }  # fmt: skip
    for given_set in (tag_set, pictures(tmp_path, tag_set)):
        text = page(tmp_path, tagged, given_set, **more)
        elements = Elements(text)
        assert len(elements["script"]) == 1
        assert not any("onerror" in a or a.get("src") == "x" for _, a in elements.found)
        assert "<script>alert" not in text
        assert "{{ 7 * 7 }}" in "".join(elements.texts)


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"history": HISTORY}, {"training"}),
        ({"history": {"noisy": []}}, set()),
        ({"relations": [Related(0, 1, 0.0)]}, set()),
    ],
)
def test_a_section_is_there_only_where_there_is_something_to_say(tmp_path, given, more):
    tag_set, tagged = by_hand([0.9], [[1, 0]], [[0, 0]])
    assert sections(page(tmp_path, tagged, tag_set, **given)) == ALWAYS | {"pictures"} | more


def test_six_thousand_tags_keep_the_page_small_and_what_is_left_out_is_said(tmp_path):
    tag_set = made_tag_set(30_000, 6000, verified=0.0)
    # the first 5,900 tags are verified
    at, rng = tag_set.asserted.tocoo(), np.random.default_rng(0)
    looked = at.col < 5900
    said = np.where(rng.random(looked.sum()) < 0.4, -1, 1).astype(np.int8)
    seen = csr_array((said, (at.row[looked], at.col[looked])), shape=at.shape)
    tag_set = pictures(tmp_path, replace(tag_set, verified=seen))
    tagged = Tagged.of_probabilities(tag_set, rng.random(at.nnz))
    text = page(
        tmp_path, tagged, tag_set, scores=made_methods(tag_set), tag_rows=made_rows(tagged),
        reliability=made_reliability(tag_set),
        relations=[Related(i, i + 1, (-1) ** i) for i in range(5000)],
        to_verify=[Question(i, i % 6000, 0.5, "uncertain") for i in range(20_000)],
    )  # fmt: skip
    assert len(text) < 15 << 20
    tags = words(text, "tags")
    assert f"{N_ROWS} of 5,900 verified tags" in tags
    assert part(text, "tags").count('<tr role="row">') == N_ROWS + 1
    assert f"and {100 - N_NEVER} more" in tags
    assert f"{N_TAGS} of 5,9" in words(text, "pictures")  # nearly all of them
    assert part(text, "pictures").count("<article") == N_TAGS
    assert part(text, "reliability").count("<figure>") <= N_DIAGRAMS
    assert part(text, "verify").count("<img") == N_QUESTIONS
    assert part(text, "relations").count("<li>") == 2 * N_RELATIONS


def test_the_page_does_not_grow_with_the_images(tmp_path):
    sizes = []
    for n in (2_000, 40_000):
        tag_set = made_tag_set(n, 30, verified=0.02)
        tagged = made_tagged(tag_set)
        sizes.append(len(page(tmp_path, tagged, tag_set, tag_rows=made_rows(tagged))))
    assert sizes[1] < 1.1 * sizes[0]


def test_records_of_other_images_are_refused(tmp_path, made):
    tag_set, tagged = made
    other, path = made_tag_set(400, 7), tmp_path / "r.html"
    with pytest.raises(DataError, match=r"found of 400 images and 8 tags does not go with photos"):
        write_tag_page(tagged, other, path)
    with pytest.raises(DataError, match="1 rows of tags for 8 tags; expected one each"):
        write_tag_page(tagged, tag_set, path, tag_rows=made_rows(tagged)[:1])
    with pytest.raises(
        DataError, match="relations and questions name tags 0 to 8, and there are 8"
    ):
        write_tag_page(tagged, tag_set, path, relations=[Related(0, 8, 0.5)])
    with pytest.raises(DataError, match="questions name images 1 to 400, and there are 400"):
        write_tag_page(tagged, tag_set, path,
                       to_verify=[Question(400, 0, 0.5, ""), Question(1, 0, 0.5, "")])  # fmt: skip
    assert not path.exists()
    with pytest.raises(RunError):
        write_tag_page(tagged, replace(tag_set, images=None), tmp_path / "no" / "r.html")


def test_progress_counts_the_pictures_up_to_all(tmp_path, made):
    tag_set, tagged = made
    told = []
    page(tmp_path, tagged, tag_set, progress=lambda *at: told.append(at))
    n = len(choose_tags(tagged).rows())
    assert told == [(i + 1, n) for i in range(n)]


# Galleries


def random_tagged(seed, n=60, n_tags=5):
    rng = np.random.default_rng(seed)
    tag_set = made_tag_set(n, n_tags, seed=seed)
    keep = np.round(made_probabilities(tag_set, seed), 2)
    keep[rng.random(len(keep)) < 0.1] = np.nan
    dense = tag_set.asserted.toarray() + np.abs(tag_set.verified.toarray())
    free = np.argwhere(dense == 0)[:30]
    added = Pairs(free[:, 0], free[:, 1], rng.random(len(free)))
    return Tagged.of_probabilities(tag_set, keep, added=added)


@given(seed=st.integers(0, 200))
def test_each_strip_holds_what_says_most_of_its_verdict(seed):
    tagged = random_tagged(seed)
    found = choose_tags(tagged)
    distance = {
        REMOVED: lambda p, seen: p, KEPT: lambda p, seen: -p,
        REVIEW: lambda p, seen: abs(p - np.float32(0.5)),
        ADDED: lambda p, seen: seen - p,
    }  # fmt: skip
    for gallery in found.tags:
        c = tagged.tag_names.index(gallery.name)
        for strip in gallery.strips:
            mine = [
                (distance[strip.verdict](p, bool(v)), tagged.ids[r], bool(v))
                for r, t, p, v, verdict in zip(
                    tagged.rows, tagged.columns, tagged.probability, tagged.verified,
                    tagged.verdict, strict=True,
                ) if t == c and verdict == strip.verdict
            ]  # fmt: skip
            assert strip.n_pairs == len(mine)
            assert strip.n_by_people == sum(seen for *_, seen in mine)
            shown = [
                one for one in mine
                if one[0] == one[0] and (not one[2] or strip.verdict == ADDED)
            ]  # fmt: skip
            expected = [name for _, name, _ in sorted(shown, key=lambda one: one[0])][:N_IN_STRIP]
            assert [pair.picture.image for pair in strip.shown] == expected
    assert found.n_unread == np.isnan(tagged.probability).sum()


def test_tags_with_most_to_look_at_come_first():
    tagged = random_tagged(3, n=200)
    counts = tagged.counts()
    changed = {
        name: int(counts[c].sum() - counts[c, KEPT]) for c, name in enumerate(tagged.tag_names)
    }
    found = choose_tags(tagged)
    assert [changed[tag.name] for tag in found.tags] == sorted(changed.values(), reverse=True)
    assert found.n_tags == 5


def test_where_nothing_goes_what_is_kept_is_shown():
    _, tagged = by_hand([0.9, 0.95, 0.99], [[1, 1], [1, 0]], [[0, 0]] * 2)
    found = choose_tags(tagged)
    assert [tag.name for tag in found.tags] == ["cat", "dog"]
    assert [strip.verdict for tag in found.tags for strip in tag.strips] == [KEPT, KEPT]
    assert found.n_tags == 0


def test_what_people_added_has_no_probability_and_comes_last():
    added = Pairs(np.array([2]), np.array([1]), np.array([0.3]))
    _, tagged = by_hand(
        [0.9], [[1, 0], [0, 0], [0, 0]], [[0, 0], [0, 1], [0, 0]], added=added
    )  # fmt: skip
    strip = next(s for tag in choose_tags(tagged).tags for s in tag.strips if s.verdict == ADDED)
    assert [(one.picture.row, one.probability) for one in strip.shown] == [
        (2, pytest.approx(0.3)), (1, None),
    ]  # fmt: skip
    assert strip.n_by_people == 1


def test_questions_are_grouped_by_tag_in_their_order():
    asked = [Question(0, 1, 0.5, "uncertain"), Question(1, 0, float("nan"), "random"),
             Question(2, 1, 0.4, "random")]  # fmt: skip
    groups = question_groups(asked, ("a", "b", "c"), ("cat", "dog"))
    assert [group.name for group in groups] == ["dog", "cat"]
    assert [one.picture.image for one in groups[0].shown] == ["a", "c"]
    assert groups[1].shown[0].probability is None
    many = question_groups(asked * 100, ("a", "b", "c"), ("cat", "dog"))
    assert sum(len(group.shown) for group in many) == N_QUESTIONS


# Rows of tags


@given(seed=st.integers(0, 100))
def test_a_row_counts_what_is_found_of_its_tag(seed):
    tagged = random_tagged(seed)
    rows = made_rows(tagged)
    for c, row in enumerate(rows):
        mine = tagged.columns == c
        assert row.n_asserted == int((tagged.given & mine).sum())
        assert row.n_verified == int((tagged.given & mine & (tagged.verified != 0)).sum())
        n = [int((tagged.verdict[mine] == verdict).sum()) for verdict in TagVerdict]
        assert [row.n_kept, row.n_removed, row.n_added, row.n_review] == n
        wrong = int((tagged.given & mine & (tagged.verified < 0)).sum())
        assert row.share == (wrong / row.n_verified if row.n_verified else None)
        assert row.is_never_verified == (row.n_asserted > 0 and row.n_verified == 0)


def test_a_tag_of_which_two_were_looked_at_does_not_come_first_by_chance():
    columns = np.array([0, 0] + [1] * 50 + [2] * 50)
    present = np.array([False] * 2 + [False] * 40 + [True] * 10 + [True] * 50)
    tag_set = made_tag_set(50, 4)
    rows = tag_rows(made_tagged(tag_set), false_positive_share(columns, present, 4))
    assert [row.name for row in worst_tags(rows)] == ["tag 1", "tag 0", "tag 2"]
    assert rows[0].share == 1.0
    assert rows[3].share is None
    assert [row.name for row in never_verified(rows)] == ["tag 3"]


def test_a_tag_that_nobody_asserts_is_not_called_unverified():
    _, tagged = by_hand([0.9], [[1, 0]], [[1, 0]])
    assert never_verified(made_rows(tagged)) == []


def test_all_tags_go_into_a_table():
    tagged = made_tagged(made_tag_set(80, 4))
    expected = np.array([0.9, 0.8, 0.7, np.nan])
    rows = made_rows(tagged, expected_precision=expected, basis=["own"] * 3 + ["never"])
    table = rows_to_arrow(rows).to_pydict()
    assert table["tag"] == list(tagged.tag_names)
    assert table["asserted"] == [row.n_asserted for row in rows]
    assert table["expected_precision"] == [0.9, 0.8, 0.7, None]
    assert table["wrong_share"][3] is None
    assert table["basis"][3] == "never"
    assert set(table["basis"]) <= set(BASES)
    with pytest.raises(DataError, match="4 shares of false positives, 1 precisions and 4 bases"):
        made_rows(tagged, expected_precision=expected[:1])


def test_the_share_that_is_wrong_is_counted_where_pairs_were_scored():
    _, tagged = by_hand([0.9, 0.8, 0.3, 0.6], [[1, 1], [1, 1]], [[1, 1], [1, 1]])
    # three more pairs that nobody gave, one of them right, say nothing of the tags as given
    given = np.array([True] * 4 + [False] * 3)
    present = np.array([True, False, False, True, True, False, False])
    stay = np.array([True, True, False, True, False, False, False])
    values, tags = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.2, 0.1]), np.array([0, 1, 0, 1, 0, 1, 1])
    before, after = (
        score_tags(values, tags, present, ("cat", "dog"), kept=kept) for kept in (given, stay)
    )
    found = wrong_share(tagged, {"noisy": before, "default": after})
    assert (found.before, found.after, found.n_pairs, found.is_checked) == (0.5, 1 / 3, 4, True)
    assert (found.recall_before, found.recall_after) == (2 / 3, 2 / 3)
    low, high = wilson(np.array([1]), np.array([3]))
    assert found.after_interval == (low[0], high[0])
    low, high = wilson(np.array([2]), np.array([4]))
    assert found.before_interval == (low[0], high[0])
    alone = wrong_share(tagged, {"noisy": before})
    assert (alone.before, alone.after) == (0.5, 0.5)


def test_without_a_test_the_truth_says_how_many_are_wrong(tmp_path):
    tag_set, tagged = by_hand([0.9, 0.8, 0.3, 0.6], [[1, 1], [1, 1]], [[0, 0], [0, 0]])
    nothing = score_tags(np.empty(0), np.empty(0, int), np.empty(0, bool), ("cat", "dog"))
    truth = csr_array(np.array([[1, 0], [0, 1]], np.int8))
    kept = csr_array(np.array([[1, 1], [0, 1]], np.float32))
    scores = {"noisy": nothing.against_truth(None, truth, tag_set.asserted),
              "default": nothing.against_truth(None, truth, kept)}  # fmt: skip
    found = wrong_share(tagged, scores)
    assert (found.before, found.after, found.n_pairs) == (0.5, 1 / 3, 4)
    assert (found.recall_before, found.recall_after, found.by_truth) == (1.0, 1.0, True)
    assert found.before_interval is None
    text = page(tmp_path, tagged, tag_set, scores=scores)
    assert "By the truth, 50.0 % were wrong as given, and 33.3 % of what stays." in lede(text)
    assert "Of 4 given tags." in words(text, "overview")
    assert "scores" not in sections(text)  # nothing is ranked without a test


def test_the_estimate_counts_verified_pairs_as_people_said_and_leaves_unknown_ones_out():
    nan = np.nan
    _, tagged = by_hand(
        [0.1, 0.9, 0.7, 0.1, nan], [[1, 1], [1, 0], [1, 0], [1, 0]],
        [[1, 0], [0, 0], [0, 0], [0, 0]],
    )  # fmt: skip
    # of cat: right by people, .7 and .1 by probability, unknown; nobody looked at a dog
    found = wrong_share(tagged, {})
    assert not found.is_checked
    assert found.n_pairs == 3
    assert found.before == pytest.approx((0 + 0.3 + 0.9) / 3)
    assert found.after == pytest.approx((0 + 0.3) / 2)


def test_where_all_goes_nothing_is_said_of_what_stays(tmp_path):
    tag_set, tagged = by_hand([0.1], [[1, 0]], [[-1, 0]])
    found = wrong_share(tagged, {})
    assert (found.before, found.after) == (1.0, None)
    text = page(tmp_path, tagged, tag_set)
    assert lede(text).endswith("100.0 % are wrong as given.")
    assert "Nothing stays." in text


# Charts


def test_the_charts_of_bins_say_where_most_was_gained():
    one = made_methods(made_tag_set(60, 4))["default"]
    bins = tuple(Group(str(b), 2, 0.5, 0.0, 1.0) for b in range(4))
    better = tuple(replace(one, map=0.5 + gain)
                   for one, gain in zip(bins, (0.1, 0.3, 0, 0.2), strict=True))  # fmt: skip
    base = replace(one, by_frequency=bins, by_noise=bins[:2])
    best = replace(one, by_frequency=better, by_noise=better[:2])
    found = bin_charts({"noisy": base, "other": base, "default": best})
    assert [chart.title for chart in found] == ["Rare and common tags"]  # two bins are no line
    assert found[0].sentence == ("Gained most in bin 2, +30.0 points of MAP; least in bin 3, +0.0.")
    assert [line.label for line in found[0].lines] == ["gates", "tags as given"]
    alone = bin_charts({"default": best})
    assert alone[0].sentence == "MAP from 60.0 % to 70.0 %."
    assert bin_charts({}) == ()


def test_a_loss_of_one_part_has_no_chart_of_parts():
    assert parts([{"cleaning": 1.0}]) is None
    assert parts([{"cleaning": 1.0, "classifying": 2.0}]).sentence == (
        "At the end: 2.000 of the tagger, 1.000 of the cleaner."
    )
    named = [name for name, _ in training_charts({"gates": HISTORY["noisy"], "x-y": []})]
    assert named == ["Gates, on verified images"]


def test_small_diagrams_are_only_of_tags_with_enough_verified_pairs(tmp_path):
    tag_set = made_tag_set(80, 6, verified=0.7)
    found = made_reliability(tag_set)
    sizes = [sum(part.n_images for part in one.bins) for one in found.tags]
    text = page(tmp_path, made_tagged(tag_set), tag_set, reliability=found)
    shown = re.findall(r"<span>(\d+) pairs, error", part(text, "reliability"))
    assert 0 < len(shown) < len(sizes) - 1
    assert [int(n) for n in shown] == sorted((n for n in sizes if n >= LEAST_PAIRS), reverse=True)
    assert f"Calibration error {found.overall.expected_error:.3f}" in words(text, "reliability")
