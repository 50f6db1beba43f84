"""A network that was trained before: found in folders and files, and its rows made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import labelsieve as ls
from labelsieve.clustering.cluster import run_cluster
from labelsieve.errors import ConfigError
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.saved import save_network
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.records import Features
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, silent
from labelsieve.stages.makers import keep_network, raw_encoder
from labelsieve.stages.representation import run_features
from labelsieve.stages.trained import load_trained, trained_features
from made_digits import SIZE, digit_files, tiny_cluster, tiny_heads, tiny_pretrain


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    digit_files(root, {0: 20, 1: 20, 4: 20})
    return root


@pytest.fixture(scope="module", params=["head", "network", "joint"])
def features(request, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of a pretrained network, of each kind of rows."""
    out = tmp_path_factory.mktemp(request.param) / "photos.npy"
    settings = tiny_pretrain(request.param)
    run_features(Inputs(str(photos)), Dictionary(), settings, out, progress=silent)
    return out


def rows_again(folder: Path, photos: Path, scratch: Path) -> Features:
    with Run.open(scratch, "features", {}) as run:
        return trained_features(
            ls.read(photos), None, load_trained(folder), device="cpu", run=run, progress=silent
        )


def test_the_folder_of_features_gives_their_rows_again(
    features: Path, photos: Path, tmp_path: Path
):
    folder = features.with_suffix(".run")
    found = load_trained(folder)
    assert (found.image_size, found.view_size) == (SIZE, SIZE)
    assert found.rows == features.parent.name.rstrip("0123456789")
    assert (found.joint is not None) == (found.rows == "joint")
    theirs = Features.load(features)
    again = rows_again(folder, photos, tmp_path / "scratch")
    assert again.ids == theirs.ids
    np.testing.assert_array_equal(again.values, theirs.values)
    # and so does a copy, as clusterings keep it
    keep_network(tmp_path / "kept", found)
    kept = rows_again(tmp_path / "kept", photos, tmp_path / "scratch2")
    np.testing.assert_array_equal(kept.values, theirs.values)


def test_a_clustering_takes_the_rows_of_a_network(features: Path, photos: Path, tmp_path: Path):
    settings = Cluster(heads=tiny_heads(), n_neighbors=5, n_views=1)
    inputs = Inputs(str(photos), network=str(features.with_suffix(".run")))
    run_cluster(inputs, settings, 3, tmp_path / "run")
    np.testing.assert_array_equal(
        Features.load(tmp_path / "run" / "features.npy").values, Features.load(features).values
    )
    # the clustering's own folder names the same network
    found = load_trained(tmp_path / "run")
    assert found.rows == load_trained(features.with_suffix(".run")).rows
    theirs = ls.Clusters.load(tmp_path / "run" / "clusters.parquet")
    again = ls.predict(tmp_path / "run", photos)
    np.testing.assert_array_equal(again.probabilities, theirs.probabilities)


def test_weights_in_a_file_need_a_recipe_that_names_the_network(photos: Path, tmp_path: Path):
    network = ls.network("narrow-resnet18", seed=3)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="does not say of which network. Give the folder with"):
        load_trained(tmp_path / "weights.pt")
    found = load_trained(tmp_path / "weights.pt", tiny_pretrain())
    assert (found.rows, found.image_size, found.head) == ("network", SIZE, None)
    for a, b in zip(found.backbone.parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b)
    settings = tiny_cluster(scan=None, n_views=0)  # self-labels of heads, as on ImageNet
    inputs = Inputs(str(photos), network=str(tmp_path / "weights.pt"))
    assert list(run_cluster(inputs, settings, 3, tmp_path / "run").scores) == [
        "k-means", "heads", "self-label",
    ]  # fmt: skip
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "pretrain" not in facts["timings"]
    with pytest.raises(ConfigError, match="weights"):
        load_trained(tmp_path / "weights.pt", replace(tiny_pretrain(), network="resnet50"))


def test_what_is_no_network_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere: there is no such folder or file"):
        load_trained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"model\.json: there is no such file"):
        load_trained(tmp_path)
    save_network(tmp_path, ClusterHeads(4, 2), {})
    with pytest.raises(ConfigError, match="the model there has no backbone"):
        load_trained(tmp_path)


def test_damaged_folders_are_told(features: Path, tmp_path: Path):
    shutil.copytree(features.with_suffix(".run"), tmp_path / "run")
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    lacking = {name: value for name, value in about.items() if name != "normalization"}
    (tmp_path / "run" / "model.json").write_text(json.dumps(lacking))
    with pytest.raises(ConfigError, match=r"does not say how images are shown.*normalization"):
        load_trained(tmp_path / "run")
    (tmp_path / "run" / "model.json").write_text(json.dumps({**about, "rows": "joint"}))
    (tmp_path / "run" / "joint.safetensors").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"joint\.safetensors, which its rows need, is missing"):
        load_trained(tmp_path / "run")


def test_what_heads_stand_on_is_the_network_s_own_output(photos: Path, tmp_path: Path):
    torch.save(ls.network("narrow-resnet18", seed=3).state_dict(), tmp_path / "weights.pt")
    found = load_trained(tmp_path / "weights.pt", tiny_pretrain())
    encoder = raw_encoder(replaced(found, image_size=24), None, "cpu")
    assert (encoder.size, encoder.image_size) == (SIZE, 24)
    views = torch.randn(2, 3, SIZE, SIZE)
    rows = encoder.rows_of(views)
    assert torch.equal(rows, found.backbone.eval()(views))
    assert not torch.allclose(rows.norm(dim=1), torch.ones(2))


def replaced(trained, **changes):
    return trained._replace(**changes)
