"""From images to clusters, as a user runs it: every phase, what is written, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import labelsieve as ls
from labelsieve.cli import main
from labelsieve.clustering import cluster as clustering
from labelsieve.clustering import phases as cluster_phases
from labelsieve.clustering import rows as cluster_rows
from labelsieve.clustering.cluster import run_cluster
from labelsieve.clustering.rows import first_of_each
from labelsieve.config import from_dict, to_dict
from labelsieve.data.augment import Contrastive
from labelsieve.errors import ConfigError
from labelsieve.features.refine import Refine
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.train import Training
from labelsieve.methods.scan.recipes import RECIPES, Cluster
from labelsieve.methods.scan.self_labels import SelfLabels
from labelsieve.records import Features
from labelsieve.records.clusters import Clusters, Part
from labelsieve.run.outputs import OUTPUTS
from labelsieve.stages import representation
from labelsieve.stages.inputs import Inputs
from made_digits import FAST, digit_files, table, tiny_cluster, tiny_heads
from made_sets import parquet, png

COUNTS = {0: 40, 1: 40, 4: 40}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refusal(*words: object) -> str:
    """What a command that exits with 1 says, on one line."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def loaded(run: Path) -> Clusters:
    return Clusters.load(run / "clusters.parquet")


def about(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def same_bytes(a: Path, b: Path, *names: str) -> None:
    for name in ("clusters.parquet", "clusters.csv", "prototypes.csv", "model.safetensors", *names):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0, 1 and 4 in class folders; one copied, one broken."""
    root = tmp_path_factory.mktemp("photos")
    digit_files(root, COUNTS)
    shutil.copy(root / "0" / "010.png", root / "0" / "copy.png")
    (root / "1" / "cut.png").write_bytes((root / "1" / "010.png").read_bytes()[:90])
    return root


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done("cluster", photos, "--classes", 3, "--out", out, *FAST)
    return out


@pytest.fixture(scope="module")
def own(finished: Path) -> tuple[object, ...]:
    """Features that are there already, and heads of a second."""
    return ("--features", finished / "features.npy", *FAST)


def test_a_run_holds_what_is_promised(finished: Path):
    assert {path.name for path in finished.iterdir()} == {
        "run.json", "log.jsonl", "clusters.parquet", "clusters.csv", "prototypes.csv",
        "features.npy", "features.json", "report.html", "model.safetensors", "model.json",
        "dictionary.safetensors",
    }  # fmt: skip
    assert {path.name for path in finished.iterdir()} <= set(OUTPUTS)
    facts = about(finished)
    assert facts["status"] == "done"
    assert facts["summary"]["n_images"] == 122
    assert facts["summary"]["parts"] == {"train": 91, "valid": 30, "new": 0, "broken": 1}
    assert sum(facts["summary"]["sizes"]) == 121
    assert list(facts["timings"]) == [
        "decode", "features", "neighbors", "duplicates", "k-means", "heads", "report",
    ]  # fmt: skip


def test_clusters_are_the_classes_and_the_prototypes_show_them(finished: Path):
    clusters = loaded(finished)
    truth = [name.split("/")[0] for name in clusters.image]
    scores = ls.score_clusters(clusters, truth)
    assert scores.accuracy > 0.8
    shown = {truth[row] for row in clusters.prototypes}
    assert shown == {"0", "1", "4"}
    with (finished / "prototypes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [clusters.image[row] for row in clusters.prototypes]
    assert [int(row["n_images"]) for row in rows] == clusters.counts().tolist()


def test_broken_and_repeated_images_are_told(finished: Path):
    clusters = loaded(finished)
    row = {name: i for i, name in enumerate(clusters.image)}
    assert clusters.part[row["1/cut.png"]] == Part.BROKEN
    assert (clusters.part == Part.BROKEN).sum() == 1
    pair = row["0/010.png"], row["0/copy.png"]
    assert clusters.duplicate_of[max(pair)] == min(pair)
    assert clusters.cluster[pair[0]] == clusters.cluster[pair[1]]


def test_k_means_is_in_the_table_without_a_top_5(finished: Path):
    scores = about(finished)["scores"]
    assert list(scores) == ["k-means", "heads"]
    assert scores["k-means"]["valid"]["top5"] is None
    assert scores["k-means"]["valid"]["accuracy"] > 0.5
    assert scores["heads"]["valid"]["top5"] == 1  # of three clusters
    assert scores["heads"]["valid"]["majority_train_accuracy"] is not None


def test_a_run_is_repeated_by_its_run_json(finished: Path, tmp_path: Path):
    done("rerun", finished, "--out", tmp_path / "again")
    same_bytes(finished, tmp_path / "again", "features.npy", "dictionary.safetensors")


def test_resuming_a_finished_run_only_shows_it(photos: Path, finished: Path):
    before = (finished / "run.json").read_bytes()
    result = done("cluster", photos, "--classes", 3, "--out", finished, "--resume", "--json", *FAST)
    assert json.loads(result.stdout)["summary"]["n_clusters"] == 3
    assert (finished / "run.json").read_bytes() == before
    said = refusal("cluster", photos, "--classes", 4, "--out", finished, "--resume", *FAST)
    assert "n_clusters changed (n_clusters was 3 and is 4)" in said


def test_the_report_is_written_again(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    first = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    done("report", tmp_path / "run")
    again = (tmp_path / "run" / "report.html").read_text()
    assert len(again) > 20_000
    assert abs(len(again) - len(first)) < 2_000  # the time it took is not in the first


def test_one_or_several_runs_are_scored(photos: Path, finished: Path, own, tmp_path: Path):
    other = tmp_path / "seed1"
    done("cluster", photos, "--classes", 3, "--seed", 1, "--out", other, *own)
    ids = [name for name in loaded(finished).image if "cut" not in name]
    truth = table(tmp_path / "truth.csv", ids, "truth")
    alone = json.loads(done("evaluate", finished, "--truth", truth, "--json").stdout)
    assert alone["agreement"] is None
    assert next(iter(alone["runs"].values()))["valid"]["n_scored"] == 30
    both = json.loads(done("evaluate", finished, other, "--truth", truth, "--json").stdout)
    assert 0 < both["agreement"] <= 1
    assert set(both["over_runs"]) == {"train", "valid"}
    assert "agreement of the runs" in done("evaluate", finished, other, "--truth", truth).stdout
    assert "named twice" in refusal("evaluate", finished, finished, "--truth", truth)


def test_recipes_of_clusterings_are_listed_and_shown():
    listed = done("recipes").stdout
    assert "of a clustering, --recipe NAME" in listed
    assert all(f"  {name}\n" in listed for name in RECIPES)
    assert '"n_views": 10' in done("recipes", "scan-imagenet50").stdout


@pytest.mark.parametrize("name", RECIPES)
def test_settings_of_every_recipe_come_back_from_json(name: str):
    settings = RECIPES[name]()
    kept = json.loads(json.dumps(to_dict(settings)))
    assert from_dict(RECIPES[name](), kept, "run.json") == settings


# All phases, with a network


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in tables with labels, with truth, and with neither."""
    root = tmp_path_factory.mktemp("tables")
    ids = digit_files(root, COUNTS)
    table(root / "labels.csv", ids, "label")
    table(root / "truth.csv", ids, "truth")
    table(root / "images.csv", ids)
    return root


@pytest.fixture(scope="module")
def whole(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all phases, on images with labels."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_cluster(Inputs(str(tables / "labels.csv")), tiny_cluster(), 3, out)
    return out


def test_all_phases_are_scored_logged_and_noted(whole: Path):
    facts = about(whole)
    assert list(facts["scores"]) == ["k-means", "heads", "scan", "self-label"]
    assert list(facts["timings"]) == [
        "decode", "features", "neighbors", "duplicates", "k-means", "heads", "scan", "self-label",
        "report",
    ]  # fmt: skip
    found = clustering.history(whole / "log.jsonl")
    assert {phase: len(lines) for phase, lines in found.items()} == {
        "pretrain": 2, "heads": 2, "scan": 2, "self-label": 2,
    }  # fmt: skip
    assert {"loss", "used_clusters", "confident_99"} <= set(found["scan"][0])
    assert "knn_accuracy" in found["pretrain"][0]  # labels are watched
    assert json.loads((whole / "model.json").read_text())["kind"] == "network"
    assert (whole / "pretext" / "model.safetensors").is_file()


@pytest.mark.parametrize(("name", "truth"), [("images.csv", None), ("truth.csv", "truth")])
def test_labels_change_neither_weights_nor_clusters(  # G25
    name: str, truth: str | None, tables: Path, whole: Path, tmp_path: Path
):
    found = run_cluster(
        Inputs(str(tables / name), truth=truth), tiny_cluster(), 3, tmp_path / "run"
    )
    same_bytes(whole, tmp_path / "run", "features.npy", "pretext/model.safetensors")
    if truth is None:
        assert found.scores == {}
        assert about(tmp_path / "run")["scores"] is None
    else:
        assert about(tmp_path / "run")["scores"] == about(whole)["scores"]


def test_a_run_stopped_in_every_phase_ends_with_the_same_bytes(
    tables: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def cluster(resume: bool) -> None:
        out = tmp_path / "run"
        run_cluster(Inputs(str(tables / "labels.csv")), tiny_cluster(), 3, out, resume=resume)

    write = EpochLog.write
    places = [
        (representation, "extract"), (cluster_rows, "neighbors_of"),
        (cluster_rows, "near_duplicates"), (cluster_rows, "kmeans"),
        (cluster_phases, "train_heads"), (cluster_phases, "train_scan"),
        (cluster_phases, "train_self_labels"), (cluster_phases, "prototypes"),
        (clustering, "write_cluster_page"),
    ]  # fmt: skip
    for i, place in enumerate(places):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            with pytest.raises(KeyboardInterrupt):
                cluster(resume=i > 0)
        phase = {"train_heads": "heads", "train_scan": "scan", "train_self_labels": "self-label"}
        if place[1] in phase:  # and in the middle of it

            def stop_there(log: EpochLog, epoch: int, values, phase=phase[place[1]]) -> None:
                if log.phase == phase and epoch == 1:
                    raise KeyboardInterrupt
                write(log, epoch, values)

            with monkeypatch.context() as patch:
                patch.setattr(EpochLog, "write", stop_there)
                with pytest.raises(KeyboardInterrupt):
                    cluster(resume=True)
        assert not (tmp_path / "run" / "report.html").exists()
    cluster(resume=True)
    same_bytes(whole, tmp_path / "run", "features.npy", "pretext/model.safetensors")
    assert about(tmp_path / "run")["scores"] == about(whole)["scores"]
    assert clustering.history(tmp_path / "run" / "log.jsonl").keys() == {
        "pretrain", "heads", "scan", "self-label",
    }  # fmt: skip


def test_a_run_killed_while_it_wrote_the_refined_network_ends_with_the_same_bytes(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = Training(epochs=1, batch_size=32)
    settings = tiny_cluster(
        scan=None, self_labels=None, rows="features", n_views=0,
        refine=Refine(rounds=1, n_neighbors=5, views=Contrastive(size=16), training=step),
    )  # fmt: skip
    inputs = Inputs(str(tables / "labels.csv"))
    run_cluster(inputs, settings, 3, tmp_path / "unbroken")
    assert list(about(tmp_path / "unbroken")["scores"]) == ["k-means", "k-means refined", "heads"]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster_phases, "train_heads", stop)
        with pytest.raises(KeyboardInterrupt):
            run_cluster(inputs, settings, 3, tmp_path / "run")
    model = tmp_path / "run" / "pretext" / "model.json"
    model.write_text(model.read_text().replace('"digest": "', '"digest": "of other weights '))
    run_cluster(inputs, settings, 3, tmp_path / "run", resume=True)
    same_bytes(tmp_path / "unbroken", tmp_path / "run", "features.npy", "pretext/model.safetensors")
    assert about(tmp_path / "run")["scores"] == about(tmp_path / "unbroken")["scores"]


def test_features_that_no_network_made_are_not_refined(finished: Path, tables: Path):
    features = Features.load(finished / "features.npy")
    with pytest.raises(ConfigError, match="refine is set with --features"):
        ls.cluster(tables / "images.csv", 3, ls.cluster_recipe("cpu"), features=features)


def test_overwriting_leaves_nothing_of_the_run_before(
    tables: Path, whole: Path, own, photos: Path, tmp_path: Path
):
    shutil.copytree(whole, tmp_path / "run")
    done("cluster", photos, "--classes", 3, "--out", tmp_path / "run", "--overwrite", *own)
    assert not (tmp_path / "run" / "pretext").exists()
    shutil.copytree(whole, tmp_path / "kept")
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    said = refusal(
        "cluster", photos, "--classes", 500, "--out", tmp_path / "kept", "--overwrite", *own
    )
    assert "Ask for fewer clusters" in said
    same_bytes(tmp_path / "kept", whole)  # what was there is put back
    assert (tmp_path / "kept" / "mine.txt").exists()


def test_a_clustering_s_network_is_the_beginning_of_another(
    tables: Path, whole: Path, tmp_path: Path
):
    settings = tiny_cluster(self_labels=None, pretrain=None, heads=None, rows="features")
    inputs = Inputs(str(tables / "labels.csv"), network=str(whole))
    found = run_cluster(inputs, settings, 3, tmp_path / "run")
    assert list(found.scores) == ["k-means", "scan"]
    kept = ls.load_network(tmp_path / "run" / "pretext")[0]["backbone"]
    given = ls.load_network(whole)[0]["backbone"]
    assert all((a == b).all() for a, b in zip(kept.parameters(), given.parameters(), strict=True))


def test_a_network_is_trained_beside_features_of_ones_own(
    tables: Path, whole: Path, tmp_path: Path
):
    features = Features.load(whole / "features.npy")
    np.save(tmp_path / "f.npy", features.values[:, :40])  # no ids: in the set's order
    settings = tiny_cluster(heads=None, self_labels=None, rows="features", n_views=0)
    inputs = Inputs(str(tables / "images.csv"), features=str(tmp_path / "f.npy"))
    run_cluster(inputs, settings, 3, tmp_path / "run")
    assert "pretrain" in about(tmp_path / "run")["timings"]
    assert Features.load(tmp_path / "run" / "features.npy").values.shape == (120, 40)
    assert ls.predict(tmp_path / "run", tables / "images.csv").image == features.ids


# Other ways


def test_temi_and_views_of_dictionary_rows(photos: Path, tmp_path: Path):
    words = ("--recipe", "temi", "--set", "n_views=2", "--set", "n_kmeans_runs=0")
    done("cluster", photos, "--classes", 3, "--out", tmp_path / "run", *words, *FAST)
    assert list(about(tmp_path / "run")["scores"]) == ["heads"]
    assert (loaded(tmp_path / "run").counts() > 0).sum() >= 2


def test_views_of_the_rows_of_a_pretrained_network(tables: Path, tmp_path: Path):
    settings = tiny_cluster(scan=None, self_labels=None, rows="features")
    run_cluster(Inputs(str(tables / "images.csv")), settings, 3, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "model.json").read_text())["features"] == {
        "maker": "network"
    }


def groups(sizes: list[int], folder: Path, noise: float = 1.0) -> tuple[Path, Path]:
    """A table of one-colored images, and features of theirs that lie in groups."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(8)[group] * 6 + noise * rng.standard_normal((len(group), 8))
    np.save(folder / "f.npy", rows.astype(np.float32))
    data = [png(i % 250, 8) for i in range(len(group))]
    return parquet(folder / "set.parquet", image=data, truth=group.astype(str)), folder / "f.npy"


def test_the_number_of_clusters_is_found_where_it_is_clear(tmp_path: Path):
    images, features = groups([90] * 4, tmp_path)
    words = ("--classes", "auto", "--features", features, "--truth", "truth", *FAST)
    result = done("cluster", images, "--out", tmp_path / "run", *words)
    facts = about(tmp_path / "run")
    assert facts["evidence"]["chosen"] == 4 == facts["summary"]["n_clusters"]
    assert facts["evidence"]["is_clear"]
    assert facts["evidence"]["sentence"] not in facts["summary"]["warnings"]
    assert "4" in result.stdout
    again = done("rerun", tmp_path / "run", "--out", tmp_path / "again")
    assert again.exit_code == 0
    same_bytes(tmp_path / "run", tmp_path / "again")
    shown = done("cluster", images, "--out", tmp_path / "run", "--resume", *words, "--json")
    assert json.loads(shown.stdout)["evidence"]["chosen"] == 4


def test_an_unclear_number_is_warned_of(tmp_path: Path):
    images, features = groups([300], tmp_path)
    words = ("--classes", "auto", "--features", features, *FAST)
    done("cluster", images, "--out", tmp_path / "run", *words)
    evidence = about(tmp_path / "run")["evidence"]
    assert not evidence["is_clear"]
    assert loaded(tmp_path / "run").warnings[0] == evidence["sentence"]


def test_an_estimated_prior_keeps_clusters_of_different_sizes_apart(tmp_path: Path):
    sizes = [320, 60, 40]
    images, features = groups(sizes, tmp_path, noise=1.5)
    words = (
        "--classes", 3, "--features", features, "--truth", "truth", *FAST,
        "--set", "heads.least_updates=300",
    )  # fmt: skip
    done("cluster", images, "--out", tmp_path / "equal", *words)
    done("cluster", images, "--out", tmp_path / "prior", *words, "--set", "prior=estimated")
    found = np.sort(loaded(tmp_path / "prior").counts())[::-1]
    equal = np.sort(loaded(tmp_path / "equal").counts())[::-1]
    assert np.abs(found - sizes).sum() <= np.abs(equal - sizes).sum()
    assert np.abs(found - sizes).max() < 30
    np.testing.assert_allclose(about(tmp_path / "prior")["prior"], np.array(sizes) / 420, atol=0.05)


def test_what_k_means_found_is_not_looked_for_again_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, features = groups([90, 60, 40], tmp_path)
    inputs = Inputs(str(images), features=str(features), truth="truth")
    settings = Cluster(heads=tiny_heads(), n_kmeans_runs=2, prior="estimated")
    run_cluster(inputs, settings, "auto", tmp_path / "unbroken")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster_phases, "train_heads", stop)
        with pytest.raises(KeyboardInterrupt):
            run_cluster(inputs, settings, "auto", tmp_path / "run")
    # on several threads each would give other last digits, and the heads' checkpoint be refused
    for module, name in (
        (cluster_rows, "number_of_classes"), (cluster_rows, "kmeans"),
        (cluster_phases, "class_shares"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, stop)
    run_cluster(inputs, settings, "auto", tmp_path / "run", resume=True)
    same_bytes(tmp_path / "unbroken", tmp_path / "run")
    for fact in ("scores", "evidence", "prior", "kmeans"):
        assert about(tmp_path / "run")[fact] == about(tmp_path / "unbroken")[fact], fact


def test_a_line_of_the_log_that_was_cut_off_is_passed_over(tmp_path: Path):
    lines = ['{"phase": "scan", "epoch": 0}', '{"phase": "sc{"stage": "decode"}', '{"stage": "x"}']
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"phase": "heads", "epo']))
    assert clustering.history(tmp_path / "log.jsonl") == {"scan": [{"phase": "scan", "epoch": 0}]}


def test_images_to_choose_by_are_given_and_nothing_is_learned_from_them(
    photos: Path, tmp_path: Path
):
    ids = digit_files(tmp_path / "valid", {0: 10, 1: 10, 4: 10}, first=60)
    shutil.copy(photos / "4" / "005.png", tmp_path / "valid" / "4" / "005.png")
    words = ("--classes", 3, "--valid", tmp_path / "valid", *FAST)
    done("cluster", photos, "--out", tmp_path / "run", *words)
    clusters = loaded(tmp_path / "run")
    row = {name: i for i, name in enumerate(clusters.image)}
    assert {clusters.image[i] for i in np.flatnonzero(clusters.part == Part.VALID)} == {
        *ids, "valid/4/005.png",
    }  # fmt: skip
    # a copy in another part, pixel for pixel
    assert clusters.duplicate_of[row["valid/4/005.png"]] == row["4/005.png"]
    done("report", tmp_path / "run")
    result = done("export", tmp_path / "run", "--to", "links", "--out", tmp_path / "links")
    assert "152 images under 3 labels" in result.stdout
    done("rerun", tmp_path / "run", "--out", tmp_path / "again")
    same_bytes(tmp_path / "run", tmp_path / "again")


def test_valid_images_of_another_kind_are_refused(photos: Path, tmp_path: Path):
    other = parquet(tmp_path / "valid.parquet", image=[png(i) for i in range(9)])
    words = ("--classes", 3, "--out", tmp_path / "run", "--valid", other)
    assert "both must be alike" in refusal("cluster", photos, *words)


def test_clusters_from_python_are_those_of_the_command(photos: Path, finished: Path, own):
    settings = from_dict(Cluster(), about(finished)["settings"]["cluster"], "run.json")
    features = Features.load(finished / "features.npy")
    clusters = ls.cluster(photos, 3, settings, features=features)
    theirs = loaded(finished)
    np.testing.assert_array_equal(clusters.cluster, theirs.cluster)
    np.testing.assert_array_equal(clusters.probabilities, theirs.probabilities)
    assert clusters.prototypes == theirs.prototypes


def test_clusters_from_python_with_a_network(tables: Path, whole: Path):
    settings = tiny_cluster(heads=None, self_labels=None, rows="features", pretrain=None)
    clusters = ls.cluster(tables / "images.csv", 3, settings, network=whole)
    assert len(clusters) == 120
    features = Features.load(whole / "features.npy")
    both = ls.cluster(tables / "images.csv", 3, settings, network=whole, features=features)
    assert both.image == clusters.image
    with pytest.raises(ConfigError, match="none says where it comes from"):
        ls.cluster(tables / "images.csv", 3, settings)
    for wrong in ("atuo", 3.5):
        with pytest.raises(ConfigError, match=r"give a whole number, or 'auto'"):
            ls.cluster(tables / "images.csv", wrong)


def test_what_is_repeated_twice_over_leads_to_the_first():
    chain = np.array([-1, 0, 1, 2, -1, 4])
    assert first_of_each(chain).tolist() == [-1, 0, 0, 0, -1, 4]
    assert first_of_each(np.full(3, -1)).tolist() == [-1, -1, -1]


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", 1), "1 clusters are asked for; at least 2 are needed, or auto"),
        (("--classes", 0), "0 clusters are asked for"),
        (
            ("--classes", 40),
            "91 readable images to learn from and 30 held out to choose by, for 40 clusters; "
            "at least 40 and 40 are needed",
        ),
        (("--classes", 3, "--recipe", "scan-cifar1"), "Did you mean 'scan-cifar10'"),
        (("--classes", 3, "--pretrain", "cup"), "--pretrain: there is no recipe 'cup'"),
        (("--classes", 3, "--set", "rows=network"), "Add --pretrain RECIPE or --network PATH"),
        (("--classes", 3, "--set", "scan.n_heads=2"), "--recipe RECIPE"),
        (("--classes", 3, "--network", "nowhere"), "--network nowhere: there is no such folder"),
        (("--classes", 3, "--device", "foo"), "--device foo cannot be used here"),
        (("--classes", 3, "--features", "nowhere.npy"), "there is no such file"),
        (("--classes", 3, "--backbone", "resnet18"), "expected timm:NAME"),
        (("--classes", 3, "--set", "n_neighbors=9"), "heads.n_neighbors is 20 of n_neighbors=9"),
        (
            ("--classes", 3, "--recipe", "temi", "--set", "prior=estimated"),
            "prior goes with scan only",
        ),
        (
            ("--classes", 3, "--recipe", "scan-cifar10", "--set", "pretrain.image_size=16"),
            "scan.strong.size is 32 pixels, and the network's images have 16",
        ),
    ],
)
def test_what_cannot_work_is_said_at_once(words, message: str, photos: Path, tmp_path: Path):
    said = refusal("cluster", photos, "--out", tmp_path / "run", *words)
    assert message in said
    assert "features ..." not in said
    assert not (tmp_path / "run").exists()


def test_a_number_that_is_none_is_a_usage_error(photos: Path, tmp_path: Path):
    result = run("cluster", photos, "--classes", "many", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "'many' is no whole number; expected one, or auto" in result.stderr


def test_a_run_among_the_images_is_refused(photos: Path, tmp_path: Path):
    said = refusal("cluster", photos, "--classes", 3, "--out", photos / "run")
    assert "lies among the images" in said
    (tmp_path / "valid").mkdir()
    words = ("--classes", 3, "--valid", tmp_path / "valid", "--out", tmp_path / "valid" / "run")
    assert "lies among the images" in refusal("cluster", photos, *words)


def test_features_that_are_not_finite_are_refused(photos: Path, finished: Path, tmp_path: Path):
    values = np.array(np.load(finished / "features.npy"))
    values[3, 0] = np.nan
    np.save(tmp_path / "f.npy", values)
    shutil.copy(finished / "features.json", tmp_path / "f.json")
    words = ("--classes", 3, "--features", tmp_path / "f.npy", "--out", tmp_path / "run")
    assert "are NaN or infinite, first row 3" in refusal("cluster", photos, *words)


def test_views_of_rows_from_a_file_are_refused(photos: Path, own, tmp_path: Path):
    words = ("--classes", 3, "--set", "n_views=2", "--out", tmp_path / "run")
    said = refusal("cluster", photos, *words, *own)
    assert "n_views is above 0 with --features" in said
    assert "decode ..." not in said


def test_batches_too_small_for_self_labels_are_refused_before_any_work(tmp_path: Path):
    settings = tiny_cluster()  # batches of 32, of which 0.6 are learned
    with pytest.raises(ConfigError, match="Take batches of at least 167"):
        run_cluster(Inputs("nowhere"), settings, 100, tmp_path / "run")


def test_too_few_images_to_find_a_number_are_refused_before_their_features(tmp_path: Path):
    (tmp_path / "set").mkdir()
    for i in range(45):
        (tmp_path / "set" / f"{i}.png").write_bytes(png(i, 8))
    words = ("--classes", "auto", "--out", tmp_path / "run", *FAST)
    said = refusal("cluster", tmp_path / "set", *words)
    assert "34 readable images to learn from and 11 held out to choose by, for auto" in said
    assert "at least 40 and 2 are needed" in said
    assert "Say how many clusters, or give more images" in said
    assert "features ..." not in said


@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_too_few_images_are_refused(n: int, tmp_path: Path):
    (tmp_path / "set").mkdir()
    for i in range(n):
        (tmp_path / "set" / f"{i}.png").write_bytes(png(i, 8))
    said = refusal("cluster", tmp_path / "set", "--classes", 2, "--out", tmp_path / "run", *FAST)
    assert ("no images" in said) if n == 0 else ("Ask for fewer clusters, or" in said)


def test_a_few_images_are_clustered(photos: Path, tmp_path: Path):
    for name in ("0", "4"):
        shutil.copytree(photos / name, tmp_path / "set" / name)
        for path in sorted((tmp_path / "set" / name).glob("*.png"))[5:]:
            path.unlink()
    done("cluster", tmp_path / "set", "--classes", 2, "--out", tmp_path / "run", *FAST)
    assert loaded(tmp_path / "run").count(Part.VALID) == 2


def test_a_set_of_broken_images_is_told(tmp_path: Path):
    (tmp_path / "set").mkdir()
    for i in range(20):
        (tmp_path / "set" / f"{i:02d}.png").write_bytes(b"no picture")
    said = refusal("cluster", tmp_path / "set", "--classes", 2, "--out", tmp_path / "run")
    assert "none of 20 images can be decoded, such as '00.png': " in said
    assert "Give a set with images that can be read." in said


def test_settings_that_leave_a_network_without_heads_are_refused():
    with pytest.raises(ConfigError, match=r"Set rows=network, or take a --recipe with scan"):
        Cluster(heads=tiny_heads(), self_labels=SelfLabels())
    with pytest.raises(ConfigError, match="nothing that makes clusters"):
        Cluster(heads=None)
