"""Features refined by their neighbors: the step, the training, and rounds within a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import labelsieve as ls
from labelsieve.clustering import refine as cluster_refine
from labelsieve.clustering.cluster import history, run_cluster
from labelsieve.data.augment import Contrastive, clean_view, contrastive_view
from labelsieve.data.batches import Batch, resident
from labelsieve.data.draws import Draws
from labelsieve.errors import ConfigError
from labelsieve.features.contrast import Encoder, random_views
from labelsieve.features.heads import small_head
from labelsieve.features.objectives import nt_xent
from labelsieve.features.refine import Refine, neighbor_step, refine
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.records import Features
from labelsieve.stages.inputs import Inputs
from made_colors import NORMALIZATION, SIZE, colors, states, tiny_network
from made_digits import SIZE as DIGIT_SIZE
from made_digits import digit_files, table, tiny_cluster, tiny_pretrain
from test_scan_network import Stopped, stop_at

TRAINING = Training(
    epochs=3, batch_size=60, learning_rate=LearningRate(3e-3, shape="constant"),
    optimizer=Optimizer("adam"),
)  # fmt: skip
QUICK = Refine(rounds=1, n_neighbors=3, views=Contrastive(size=SIZE), training=TRAINING)


def encoder() -> Encoder:
    network = tiny_network()
    with drawn_from(1):
        return Encoder(network, small_head(16))


def test_a_step_is_nt_xent_between_views_of_images_and_of_their_neighbors():
    made = colors(24, 4)
    images, rows = torch.from_numpy(made.pixels[:12].reshape(6, 2, 3, SIZE, SIZE)), torch.arange(12)
    batch = Batch(images, rows.view(6, 2), epoch=2, step=0)
    model = encoder().eval()
    settings = Contrastive(size=SIZE)
    step = neighbor_step(model, random_views(settings, NORMALIZATION, 5), 0.3, Runtime.start())
    first, second = (
        model(contrastive_view(images[:, k], settings, Draws(5, 2, rows[k::2], k), NORMALIZATION))
        for k in (0, 1)
    )
    torch.testing.assert_close(step(batch)["loss"], nt_xent(first, second, 0.3))


def refined(made, settings=QUICK, **where) -> Encoder:
    return refine(
        resident(made.pixels), encoder(), made.neighbors, settings, rows=made.rows,
        normalization=NORMALIZATION, **where,
    )  # fmt: skip


def test_neighbors_come_closer_than_they_were():
    made = colors()
    pixels = clean_view(torch.from_numpy(made.pixels[made.rows]), SIZE, NORMALIZATION)
    longer = replace(TRAINING, epochs=12, learning_rate=LearningRate(1e-2))

    def closeness(model: Encoder) -> float:
        """Mean similarity of neighbors less that of all pairs."""
        with torch.no_grad():
            rows = model(pixels)
        near = (rows[:, None] * rows[torch.from_numpy(made.neighbors.indices)]).sum(2).mean()
        return float(near - (rows @ rows.T).mean())

    before, after = encoder().eval(), refined(made, replace(QUICK, training=longer))
    assert closeness(after) > closeness(before) + 0.2


@pytest.mark.parametrize("at", [2, 5])
def test_refining_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path: Path, at: int):
    made = colors()
    settings = replace(QUICK, training=replace(TRAINING, checkpoint_minutes=1e-9))
    whole = refined(made, settings)
    with pytest.raises(Stopped):
        refined(made, settings, folder=tmp_path, progress=stop_at(at))
    again = refined(made, settings, folder=tmp_path)
    assert torch.equal(states(whole.network, whole.head), states(again.network, again.head))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "refine.rounds is 0"),
        ({"n_neighbors": 0}, "refine.n_neighbors is 0"),
        ({"temperature": 0.0}, "refine.temperature is 0.0; it must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Refine(**changes)


# Within a run


def settings(rows: str):
    """Two rounds on the rows of a tiny network, and heads on those."""
    training = replace(TRAINING, batch_size=32, epochs=1)
    return tiny_cluster(
        scan=None, self_labels=None, rows="features", n_views=0, pretrain=tiny_pretrain(rows),
        refine=Refine(
            rounds=2, n_neighbors=3, views=Contrastive(size=DIGIT_SIZE), training=training
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refine")
    return table(root / "images.csv", digit_files(root, {0: 30, 1: 30, 4: 30}), "label")


@pytest.fixture(scope="module", params=["joint", "head"])
def finished(request, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / request.param
    run_cluster(Inputs(str(photos)), settings(request.param), 3, out)
    return out


def about(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def test_clusters_are_of_refined_rows_and_new_images_get_such(photos: Path, finished: Path):
    facts = about(finished)
    assert list(facts["scores"]) == ["k-means", "k-means refined", "heads"]
    assert {"refine 1", "refine 2"} <= facts["timings"].keys()
    assert {"refine-1", "refine-2"} <= history(finished / "log.jsonl").keys()
    clusters = ls.Clusters.load(finished / "clusters.parquet")
    again = ls.predict(finished, photos)
    assert np.array_equal(again.cluster, clusters.cluster)
    np.testing.assert_allclose(again.probabilities, clusters.probabilities, atol=1e-5)


def test_a_run_stopped_between_rounds_ends_with_the_same_bytes(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def cluster(resume: bool) -> None:
        inputs = Inputs(str(photos))
        run_cluster(inputs, settings(finished.name), 3, tmp_path / "run", resume=resume)

    write = EpochLog.write

    def stop_second(log: EpochLog, epoch: int, values) -> None:
        if log.phase == "refine-2":
            raise KeyboardInterrupt
        write(log, epoch, values)

    for i, place in enumerate([
        (cluster_refine, "refine", stop), (EpochLog, "write", stop_second),
        (cluster_refine, "keep_network", stop), (cluster_refine, "load_trained", stop),
    ]):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(*place)
            with pytest.raises(KeyboardInterrupt):
                cluster(resume=i > 0)
    cluster(resume=True)
    for name in ("clusters.parquet", "model.safetensors", "features.npy",
                 "pretext/model.safetensors"):  # fmt: skip
        assert (finished / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert about(finished)["scores"] == about(tmp_path / "run")["scores"]


def test_rows_of_ones_own_are_not_refined(photos: Path, finished: Path, tmp_path: Path):
    Features.load(finished / "features.npy").save(tmp_path / "own.npy")
    inputs = Inputs(str(photos), features=str(tmp_path / "own.npy"))
    with pytest.raises(ConfigError, match=r"refine is set with --features.*Set refine=none"):
        run_cluster(inputs, settings("head"), 3, tmp_path / "run")
