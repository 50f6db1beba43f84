"""From noisy labels to an embedding, as a user runs it: what is written, kept and refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import labelsieve as ls
from labelsieve.data.held_out import read_gallery
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.features.shown import image_views
from labelsieve.methods.prism.recipes import OBJECTIVES
from labelsieve.records import Features, Findings, Verdict
from labelsieve.retrieval import job, nearest
from labelsieve.retrieval import retrieve as retrieving
from labelsieve.retrieval.settings import model_of, recipe_of, retrieve_recipe
from labelsieve.run.outputs import OUTPUTS
from made_digits import digit_files
from made_training import N_IMAGES, about, done, refusal, rows_of_csv, run, set_

QUICK = set_(
    "embed.updates=24", "embed.training.epochs=3", "embed.training.batch_size=16",
    "embed.dim=16", "least_passes=0",
)  # fmt: skip
ON_ROWS = (
    *QUICK,
    *set_(
        "dictionary.n_components=64", "dictionary.patches.n_atoms=48",
        "dictionary.views.in_all=1000", "dictionary.patches.n_patches=5000",
    ),
)  # fmt: skip
ON_IMAGES = ("--model", "small", *QUICK)
N_TEST = 46  # 15 of three digits that are not learned, and a broken one
MADE = ("embeddings.npy", "findings.parquet", "findings.csv", "retrieved.csv",
        "test-embeddings.npy", "model.safetensors", "model.json")  # fmt: skip


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of other classes than the photos, one file broken."""
    root = tmp_path_factory.mktemp("others")
    digit_files(root, {5: 15, 6: 15, 7: 15})
    (root / "5" / "torn.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def rows_run(photos: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished two-stage run on features."""
    out = tmp_path_factory.mktemp("retrieval") / "rows"
    done("retrieve", photos, "--test", others, "--recipe", "two-stage", "--out", out, *ON_ROWS)
    return out


@pytest.fixture(scope="module")
def images_run(photos: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small network."""
    out = tmp_path_factory.mktemp("retrieval") / "images"
    done("retrieve", photos, "--test", others, "--out", out, *ON_IMAGES)
    return out


def same_bytes(a: Path, b: Path) -> None:
    for name in MADE:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


# What is written


def test_a_run_leaves_what_is_promised(rows_run: Path):
    names = {path.name for path in rows_run.iterdir()}
    assert names == {
        "run.json", "log.jsonl", "report.html", "retrieved.parquet", "embeddings.json",
        "test-embeddings.json", "features.npy", "features.json", "dictionary.safetensors", *MADE,
    }  # fmt: skip
    assert names <= set(OUTPUTS)
    facts = about(rows_run)
    assert facts["status"] == "done"
    assert list(facts["timings"]) == [
        "decode", "features", "train", "test", "second", "embed", "duplicates", "report",
    ]  # fmt: skip
    assert list(facts["scores"]) == ["train", "second"]
    assert 0 <= facts["noise_rate"] < 1
    second = facts["second_stage"]
    assert second["n_images"] == N_IMAGES - 1  # one is broken
    assert 0 < second["n_kept"] <= second["n_images"]
    assert 0 <= second["noise_rate"] < 1


def test_scores_are_those_of_the_rows_that_are_written(rows_run: Path, others: Path):
    rows = Features.load(rows_run / "test-embeddings.npy")
    assert len(rows) == N_TEST - 1
    assert np.allclose(np.linalg.norm(rows.values, axis=1), 1, atol=1e-5)
    labels = np.array([int(name[0]) for name in rows.ids])
    near = np.asarray(rows.values) @ np.asarray(rows.values).T
    np.fill_diagonal(near, -2)
    right = (labels[near.argmax(1)] == labels).mean()
    scores = about(rows_run)["scores"]["second"]
    assert scores["precision_at_1"] == pytest.approx(right)
    assert scores["n_queries"] == N_TEST - 1


def test_what_is_retrieved_is_a_table_of_the_nearest(rows_run: Path):
    rows = rows_of_csv(rows_run / "retrieved.csv")
    assert len(rows) == 10 * (N_TEST - 1)
    first = [row for row in rows if row["rank"] == "1"]
    right = np.mean([row["right"] == "true" for row in first])
    assert right == pytest.approx(about(rows_run)["scores"]["second"]["precision_at_1"])
    for row in rows:
        assert row["image"] != row["retrieved"]
        assert (row["right"] == "true") == (row["label"] == row["retrieved_label"])
    similarities = [float(row["similarity"]) for row in rows[:10]]
    assert similarities == sorted(similarities, reverse=True)


def test_the_table_is_the_same_however_many_are_written_at_once(
    rows_run: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nearest, "_N_WRITTEN", 7)
    rows = Features.load(rows_run / "test-embeddings.npy")
    nearest.write_retrieved(read_gallery(str(others), None), rows, tmp_path)
    assert (tmp_path / "retrieved.csv").read_bytes() == (rows_run / "retrieved.csv").read_bytes()
    tables = [pq.read_table(path / "retrieved.parquet") for path in (tmp_path, rows_run)]
    assert tables[0].equals(tables[1])


def test_findings_name_broken_images_and_copies(rows_run: Path):
    found = Findings.load(rows_run / "findings.parquet")
    assert len(found) == N_IMAGES
    place = {name: row for row, name in enumerate(found.image)}
    assert found.verdict[place["1/cut.png"]] == Verdict.BROKEN
    assert {"0/010.png", "0/copy.png"} & {
        found.image[row] for row in found.duplicate_of if row >= 0
    }


def test_the_log_has_an_epoch_a_line_of_both_trainings(rows_run: Path):
    lines = [json.loads(line) for line in (rows_run / "log.jsonl").read_text().splitlines()]
    phases = [line["phase"] for line in lines if "phase" in line]
    assert phases == ["train"] * 3 + ["second"] * 3
    last = [line for line in lines if line.get("phase") == "train"][-1]
    assert {"loss", "kept", "test_precision_at_1", "test_map_at_r"} <= last.keys()


def test_the_page_shows_queries_of_the_test(rows_run: Path):
    page = (rows_run / "report.html").read_text()
    ids = {row["image"] for row in rows_of_csv(rows_run / "retrieved.csv")}
    assert sum(name in page for name in ids) >= 10  # of 45; pictures beside them have no ids
    precision = about(rows_run)["scores"]["second"]["precision_at_1"]
    assert f"{100 * precision:.1f} %" in page


# The same again


def test_a_killed_run_ends_like_an_unbroken_one(
    rows_run: Path, photos: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = (
        "retrieve", photos, "--test", others, "--recipe", "two-stage", "--out", tmp_path / "run",
        *ON_ROWS,
    )  # fmt: skip

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retrieving, "trained_again", cut)
    assert run(*words).exit_code == 130
    monkeypatch.undo()
    done(*words, "--resume")
    same_bytes(rows_run, tmp_path / "run")


def test_a_rerun_gives_the_same_bytes(rows_run: Path, tmp_path: Path):
    done("rerun", rows_run, "--out", tmp_path / "again")
    same_bytes(rows_run, tmp_path / "again")


def test_a_report_is_written_again(images_run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(images_run, copy)
    before = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    done("report", copy)
    assert len((copy / "report.html").read_text()) == pytest.approx(len(before), rel=0.01)


@pytest.mark.slow
def test_two_processes_train_like_one(images_run: Path, photos: Path, others: Path, tmp_path: Path):
    out = tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["retrieve", photos, "--test", others, "--out", out, *ON_IMAGES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launcher, "-m", "labelsieve", *map(str, words)],
        check=True, capture_output=True, env=environment, timeout=300,
    )  # fmt: skip
    one, two = (Features.load(each / "embeddings.npy").values for each in (images_run, out))
    # batch norms are synchronized, and the filter judges whole batches: only sums are rounded
    # otherwise, which training magnifies
    assert (one * two).sum(1).min() > 0.995


# Afterwards


@pytest.mark.parametrize("made", ["rows_run", "images_run"])
def test_new_images_get_rows_as_the_test_images_did(
    made: str, others: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    folder = request.getfixturevalue(made)
    done("predict", folder, others, "--out", tmp_path / "new.npy")
    again, before = (
        Features.load(path) for path in (tmp_path / "new.npy", folder / "test-embeddings.npy")
    )
    assert again.ids == before.ids
    np.testing.assert_array_equal(again.values, before.values)


def test_the_network_makes_the_same_features(images_run: Path, others: Path, tmp_path: Path):
    done("features", others, "--network", images_run, "--out", tmp_path / "rows.npy")
    found = Features.load(tmp_path / "rows.npy").values
    np.testing.assert_allclose(
        found, Features.load(images_run / "test-embeddings.npy").values, atol=1e-5
    )


def test_runs_are_compared_by_their_test_scores(rows_run: Path, images_run: Path):
    said = json.loads(done("evaluate", rows_run, images_run, "--json").stdout)
    assert len(said["runs"]) == 2
    assert "precision_at_1" in said["over_runs"]


def test_a_model_embeds_and_searches(rows_run: Path, others: Path, tmp_path: Path):
    model = ls.EmbeddingModel.load(rows_run)
    assert model.scores is not None
    assert model.scores.precision_at_1 == about(rows_run)["scores"]["second"]["precision_at_1"]
    rows = model.embed(others)
    found, similarities = model.search(rows, rows, n_nearest=3)
    assert (found != np.arange(len(rows))[:, None]).all()  # itself is not among them
    own, _ = model.search(rows, Features(rows.ids, rows.values.copy(), "others"), n_nearest=1)
    assert (own[:, 0] == np.arange(len(rows))).mean() > 0.9  # of another gallery, it is
    assert (np.diff(similarities, axis=1) <= 1e-6).all()
    model.save(tmp_path / "kept")
    assert ls.EmbeddingModel.load(tmp_path / "kept").embed(others).ids == rows.ids


def test_python_gives_what_the_command_gives(images_run: Path, photos: Path, others: Path):
    from labelsieve.config import overrides

    settings = overrides(retrieve_recipe("prism", "small"), QUICK[1::2])
    model = ls.retrieve(photos, settings, test=others)
    rows = Features.load(model.folder / "embeddings.npy").values
    np.testing.assert_array_equal(rows, Features.load(images_run / "embeddings.npy").values)
    folder = model.folder
    del model
    assert not folder.exists()  # it goes with the model


def test_features_of_the_users_own_are_trained_on(photos: Path, others: Path):
    rng = np.random.default_rng(0)
    images, test = ls.read(photos), ls.read(others)

    def made(ids: tuple[str, ...], shift: int) -> Features:
        rows = rng.normal(size=(len(ids), 8)).astype(np.float32)
        rows[np.arange(len(ids)), [int(name[0]) % 8 for name in ids]] += 4
        return Features(ids, rows / np.linalg.norm(rows, axis=1, keepdims=True), f"made {shift}")

    from labelsieve.config import overrides

    settings = overrides(retrieve_recipe(), QUICK[1::2])
    model = ls.retrieve(
        images, settings, features=made(images.ids, 0), test=test,
        test_features=made(test.ids, 1),
    )  # fmt: skip
    assert model.scores is not None
    assert model.scores.precision_at_1 is not None
    with pytest.raises(ConfigError, match="features of your own"):
        model.embed(others)


def test_what_python_trained_is_called_by_the_recipe_that_it_is(photos: Path, tmp_path: Path):
    from labelsieve.config import overrides

    settings = overrides(retrieve_recipe("soft-triple", "small"), QUICK[1::2])
    ls.retrieve(photos, settings).save(tmp_path / "kept")
    facts = about(tmp_path / "kept")
    assert (facts["recipe"], facts["model"]) == ("soft-triple", "small")
    done("report", tmp_path / "kept")  # whose settings are read as those of that recipe


@pytest.mark.parametrize("recipe", OBJECTIVES)
@pytest.mark.parametrize("model", ["features", "small", "cars", "sop", "finetune"])
def test_settings_know_their_names(recipe: str, model: str):
    settings = retrieve_recipe(recipe, model)
    assert (recipe_of(settings), model_of(settings)) == (recipe, model)


def test_the_second_training_is_shown_other_draws(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seeds = []

    def views(weak, strong, normalization, seed):
        seeds.append(seed)
        return image_views(weak, strong, normalization, seed)

    monkeypatch.setattr(job, "image_views", views)
    done(
        "retrieve", photos, "--recipe", "two-stage", "--seed", 7, "--out", tmp_path / "run",
        *ON_IMAGES,
    )  # fmt: skip
    assert set(seeds) == {7, 1007}
    assert seeds.index(7) < seeds.index(1007)


# What is refused


def test_a_noise_rate_holds_for_all_stages():
    settings = retrieve_recipe("two-stage").with_noise_rate(0.3)
    rates = (
        settings.embed.filter.noise_rate, settings.second.offline.noise_rate,
        settings.suspects.offline.noise_rate,
    )  # fmt: skip
    assert rates == (0.3, 0.3, 0.3)
    with pytest.raises(ConfigError, match="this recipe filters nothing"):
        retrieve_recipe("unfiltered").with_noise_rate(0.3)


def test_mistakes_are_said_before_the_work(photos: Path, others: Path, tmp_path: Path):
    out = tmp_path / "run"
    assert "there is no 'smal'" in refusal("retrieve", photos, "--out", out, "--model", "smal")
    assert "lies among the images" in refusal("retrieve", photos, "--out", photos / "run")
    assert "there is no network to begin with" in refusal(
        "retrieve", photos, "--out", out, "--model", "finetune"
    )
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos / "0" / "010.png", flat / "a.png")
    said = refusal("retrieve", flat, "--out", out)
    assert "a retrieval training needs one an image" in said
    assert "test images need one label each" in refusal(
        "retrieve", photos, "--test", flat, "--out", out
    )
    rows = tmp_path / "rows.npy"
    np.save(rows, np.eye(3))
    for option, value, why in (
        ("--network", flat, "this model begins with new weights"),
        ("--backbone", "timm:resnet18", "this model begins with new weights"),
        ("--pretrain", "cpu", "this model begins with new weights"),
        ("--features", rows, "a network looks at the images itself"),
    ):
        said = refusal("retrieve", photos, "--out", out, "--model", "small", option, value)
        assert f"{option} {value}: {why}" in said
    assert run("retrieve", photos, "--out", out, "--noise-rate", "half").exit_code == 2
    assert not out.exists()


def test_a_test_set_of_one_image_that_can_be_read_is_refused_before_the_training(
    photos: Path, others: Path, tmp_path: Path
):
    pair = tmp_path / "pair" / "5"
    pair.mkdir(parents=True)
    shutil.copy(next((others / "5").glob("0*.png")), pair / "a.png")
    (pair / "torn.png").write_bytes(b"no picture")
    out = tmp_path / "run"
    said = refusal("retrieve", photos, "--test", pair.parent, "--out", out, *ON_IMAGES)
    assert "of 2 images 1 can be read; expected at least two" in said
    assert not (out / "checkpoint" / "train").exists()


def test_embeddings_are_written_as_npy(rows_run: Path, others: Path, tmp_path: Path):
    said = refusal("predict", rows_run, others, "--out", tmp_path / "new.csv")
    assert "embeddings are written as .npy" in said


def test_a_run_of_another_kind_is_no_embedding(photos: Path, row_run: Path):
    with pytest.raises(RunError, match="expected a run of `retrieve`"):
        ls.EmbeddingModel.load(row_run)


def test_unlabeled_sets_are_refused(tmp_path: Path, photos: Path):
    flat = tmp_path / "flat"
    shutil.copytree(photos / "0", flat)
    with pytest.raises(DataError, match="a retrieval training"):
        ls.retrieve(flat)
