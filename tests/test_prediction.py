"""New images in the clusters of a finished run: as the run itself would have put them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import labelsieve as ls
from labelsieve.cli import main
from labelsieve.clustering import answers as cluster_answers
from labelsieve.clustering.answers import clusters_of_set, network_probabilities
from labelsieve.clustering.cluster import run_cluster
from labelsieve.data.augment import CIFAR10
from labelsieve.data.batches import resident
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.resnets import ResNet, ResNetShape
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.records import Features
from labelsieve.records.clusters import Clusters, Part
from labelsieve.stages import new_images, sources
from labelsieve.stages.inputs import Inputs, Progress
from labelsieve.stages.makers import GLANCE, encoder_of, readable_pixels
from made_digits import FAST, SIZE, digit_files, table, tiny_cluster, tiny_heads, tiny_pretrain

COUNTS = {0: 30, 1: 30, 4: 30}


def run(*words: object) -> object:
    return CliRunner().invoke(main, [str(word) for word in words])


def refusal(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def same_as_in_the_run(run: Path, images: Path, **how: object) -> None:
    """Images of a run, put into its clusters once more, get what they had, bit for bit."""
    theirs = Clusters.load(run / "clusters.parquet")
    found = ls.predict(run, images, **how)
    assert found.image == theirs.image
    np.testing.assert_array_equal(found.choices, theirs.choices)
    np.testing.assert_array_equal(found.probabilities, theirs.probabilities)
    broken = theirs.part == Part.BROKEN
    assert (found.part == np.where(broken, Part.BROKEN, Part.NEW)).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    digit_files(root, COUNTS)
    (root / "1" / "cut.png").write_bytes((root / "1" / "010.png").read_bytes()[:90])
    return root


@pytest.fixture(scope="module")
def by_heads(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of heads on dictionary rows."""
    out = tmp_path_factory.mktemp("heads") / "run"
    assert run("cluster", photos, "--classes", 3, "--out", out, *FAST).exit_code == 0
    return out


@pytest.fixture(scope="module")
def by_network(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last phase trains the network."""
    out = tmp_path_factory.mktemp("network") / "run"
    settings = tiny_cluster(heads=None, rows="features", self_labels=None, n_views=0)
    run_cluster(Inputs(str(photos)), settings, 3, out)
    return out


def views_have_the_rows_of_their_images(run: Path, photos: Path, tmp_path: Path) -> None:
    """Views without augmentation, encoded as heads see views, are the run's own features."""
    maker = json.loads((run / "model.json").read_text())["features"]
    encoder = encoder_of(run, maker, "cpu")
    theirs = Features.load(run / "features.npy")
    images = ls.read(photos)
    pixels = decode_images(images, encoder.image_size, path=tmp_path / "pixels.npy")
    shown = torch.from_numpy(np.array(pixels.values[pixels.usable]))
    rows = encoder.rows_of(ls.clean_view(shown, encoder.size, encoder.normalization))
    np.testing.assert_allclose(rows.detach().numpy(), theirs.values, atol=2e-3)


def test_rows_of_a_dictionary_are_made_again(by_heads: Path, photos: Path, tmp_path: Path):
    same_as_in_the_run(by_heads, photos)
    views_have_the_rows_of_their_images(by_heads, photos, tmp_path)


def test_a_trained_network_is_asked_again(by_network: Path, photos: Path):
    same_as_in_the_run(by_network, photos)


def test_large_images_are_not_kept_in_a_file(
    by_network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = []

    def seen(images: ls.ImageSet, size: int, folder: Path, progress: Progress) -> Pixels:
        sizes.append(size)
        return readable_pixels(images, size, folder, progress)

    monkeypatch.setattr(new_images, "readable_pixels", seen)
    for module in (sources, new_images):
        monkeypatch.setattr(module, "SMALL", SIZE - 1)
    same_as_in_the_run(by_network, photos)
    assert sizes == [GLANCE]


def test_heads_on_a_network_without_further_phases(photos: Path, tmp_path: Path):
    settings = tiny_cluster(scan=None, self_labels=None)
    run_cluster(Inputs(str(photos)), settings, 3, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    assert about["kind"] == "network"
    parts = [ls.load_network(tmp_path / "run" / place)[0] for place in ("", "pretext")]
    kept, before = (each["backbone"].state_dict() for each in parts)
    assert all(torch.equal(kept[name], each) for name, each in before.items())  # G23
    theirs = Clusters.load(tmp_path / "run" / "clusters.parquet")
    found = ls.predict(tmp_path / "run", photos)  # in other batches than when rows were kept
    np.testing.assert_array_equal(found.cluster, theirs.cluster)
    np.testing.assert_allclose(found.probabilities, theirs.probabilities, atol=1e-5)


@pytest.mark.parametrize("rows", ["head", "network", "joint"])
def test_rows_of_a_pretrained_network_are_made_again(rows: str, photos: Path, tmp_path: Path):
    settings = Cluster(heads=tiny_heads(), pretrain=tiny_pretrain(rows), n_neighbors=5, n_views=1)
    run_cluster(Inputs(str(photos)), settings, 3, tmp_path / "run")
    assert (tmp_path / "run" / "pretext" / "joint.safetensors").exists() == (rows == "joint")
    same_as_in_the_run(tmp_path / "run", photos)
    views_have_the_rows_of_their_images(tmp_path / "run", photos, tmp_path)


def test_features_of_ones_own_are_given_again(by_heads: Path, photos: Path, tmp_path: Path):
    features = by_heads / "features.npy"
    words = ("--classes", 3, "--features", features, *FAST)
    assert run("cluster", photos, "--out", tmp_path / "run", *words).exit_code == 0
    same_as_in_the_run(tmp_path / "run", photos, features=str(features))
    with pytest.raises(ConfigError, match="give those of the new images"):
        ls.predict(tmp_path / "run", photos)
    with pytest.raises(ConfigError, match="makes the rows of new images itself. Leave it out"):
        ls.predict(by_heads, photos, features=str(features))
    np.save(tmp_path / "wide.npy", np.ones((91, 3), np.float32))
    with pytest.raises(DataError, match="features of 3 columns"):
        ls.predict(tmp_path / "run", photos, features=str(tmp_path / "wide.npy"))


def test_images_never_seen_come_into_the_cluster_of_their_kind(by_heads: Path, tmp_path: Path):
    digit_files(tmp_path / "new", {0: 20, 1: 20, 4: 20}, first=60)
    out = tmp_path / "new.csv"
    result = run("predict", by_heads, tmp_path / "new", "--out", out)
    assert result.exit_code == 0, result.output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"new"}
    cluster = np.array([int(row["cluster"]) for row in rows])
    digit = np.array([int(row["image"][0]) for row in rows])
    assert ls.hungarian(cluster, np.searchsorted([0, 1, 4], digit), 3, 3)[cluster].size == 60
    scores = ls.score_clusters(
        Clusters.load(by_heads / "clusters.parquet"),
        [name[0] for name in Clusters.load(by_heads / "clusters.parquet").image],
    )
    right = scores.mapping[cluster] == np.searchsorted([0, 1, 4], digit)
    assert right.mean() > 0.8


def test_names_that_clusters_got_are_written(by_heads: Path, photos: Path, tmp_path: Path):
    names = tmp_path / "names.csv"
    names.write_text("cluster,name\n0,round\n2,round\n")
    out = tmp_path / "new.parquet"
    result = run("predict", by_heads, photos, "--names", names, "--out", out, "--json")
    assert json.loads(result.stdout)["names"] == ["round", "1"]
    found = Clusters.load(out)
    theirs = Clusters.load(by_heads / "clusters.parquet").cluster
    np.testing.assert_array_equal(found.cluster, np.array([0, 1, 0, -1])[theirs])
    names.write_text("cluster,name\n7,round\n")
    said = refusal("predict", by_heads, photos, "--names", names, "--out", tmp_path / "other.csv")
    assert "there is no cluster 7; they are 0 to 2" in said


def test_predictions_are_not_written_over_others(by_heads: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "new.csv"
    out.write_text("mine")
    assert "Add --overwrite to replace it" in refusal("predict", by_heads, photos, "--out", out)
    assert out.read_text() == "mine"
    assert run("predict", by_heads, photos, "--out", out, "--overwrite").exit_code == 0
    said = refusal("predict", by_heads, photos, "--out", tmp_path / "new.txt")
    assert "written as .csv or .parquet" in said
    said = refusal("predict", by_heads, photos, "--out", tmp_path / "no" / "new.csv")
    assert "there is no folder" in said


def test_runs_without_a_model_are_refused(by_heads: Path, photos: Path, tmp_path: Path):
    out = ("--out", tmp_path / "new.csv")
    assert "it has no run.json" in refusal("predict", tmp_path, photos, *out)
    shutil.copytree(by_heads, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    for job, status, message in (
        ("audit", "done", "made by `labelsieve audit`, which leaves no model that predicts"),
        ("cluster", "running", "this run has not finished"),
    ):
        (tmp_path / "run" / "run.json").write_text(
            json.dumps({**about, "job": job, "status": status})
        )
        assert message in refusal("predict", tmp_path / "run", photos, *out)
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    (tmp_path / "run" / "model.safetensors").unlink()
    assert "model.safetensors" in refusal("predict", tmp_path / "run", photos, *out)


def test_what_a_network_cannot_use_is_refused(by_network: Path, photos: Path, tmp_path: Path):
    out = ("--out", tmp_path / "new.csv")
    said = refusal("predict", by_network, photos, *out, "--features", "f.npy")
    assert "this run's network looks at images itself" in said
    assert "--device foo" in refusal("predict", by_network, photos, *out, "--device", "foo")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    said = refusal("predict", by_network, tmp_path / "broken", *out)
    assert "none of 1 images can be decoded, such as 'a.png'" in said


def test_images_of_a_table_are_predicted(by_network: Path, photos: Path, tmp_path: Path):
    rows = [f"{photos}/0/003.png", f"{photos}/4/001.png"]
    images = table(tmp_path / "new.csv", rows)
    theirs = Clusters.load(by_network / "clusters.parquet")
    place = {name: row for row, name in enumerate(theirs.image)}
    found = ls.predict(by_network, images)
    assert found.cluster.tolist() == [
        theirs.cluster[place["0/003.png"]], theirs.cluster[place["4/001.png"]]
    ]  # fmt: skip


def test_blocks_change_nothing_and_one_matrix_is_made(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    source = resident(rng.integers(0, 256, (40, 3, 8, 8), np.uint8))
    network = ResNet(ResNetShape(widths=(4, 4, 4, 4))).eval()
    heads = ClusterHeads(4, 6, 3)
    told = []

    def ask(rows: np.ndarray) -> np.ndarray:
        return network_probabilities(
            network, heads, source, rows, CIFAR10, 8, device="cpu",
            progress=lambda done, n: told.append((done, n)),
        )  # fmt: skip

    rows = np.array([3, 39, *range(20)])
    at_once = ask(rows)
    monkeypatch.setattr(cluster_answers, "BLOCK", 5)
    np.testing.assert_allclose(ask(rows), at_once, atol=1e-6)
    np.testing.assert_allclose(at_once.sum(axis=1), 1, atol=1e-6)
    assert told == [(22, 22), *((done, 22) for done in (5, 10, 15, 20, 22))]
    assert ask(rows[:0]).shape == (0, 6)


def test_images_that_cannot_be_read_have_no_cluster(photos: Path):
    images = ls.read(photos).take(np.arange(4))
    found = Clusters.of_probabilities(["b", "d"], [[0.1, 0.9], [0.8, 0.2]], Part.NEW)
    whole = clusters_of_set(images, np.array([3, 1]), found, Part.NEW)
    assert whole.cluster.tolist() == [-1, 0, -1, 1]
    assert whole.part.tolist() == [Part.BROKEN, Part.NEW, Part.BROKEN, Part.NEW]
    parts = np.array([Part.BROKEN, Part.TRAIN, Part.BROKEN, Part.VALID], np.int8)
    again = clusters_of_set(images, np.array([3, 1]), found, parts, warnings=("mind",))
    assert (again.part.tolist(), again.warnings) == (parts.tolist(), ("mind",))
    with pytest.raises(DataError):  # a part that says another image is broken
        clusters_of_set(images, np.array([3, 1]), found, parts[::-1].copy())
