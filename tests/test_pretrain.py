"""Pretraining as a whole: steps that learn, recipes that hold the papers' numbers, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from labelsieve.cli import main
from labelsieve.config import from_dict, overrides, to_dict
from labelsieve.data.augment import Contrastive
from labelsieve.data.batches import resident
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.contrast import Encoder
from labelsieve.features.dictionary import Dictionary, Patches, Views
from labelsieve.features.joint import Joint, JointModel, encode
from labelsieve.features.joint import fit as fit_joint
from labelsieve.features.pretrain import (
    Pretrain,
    Queue,
    build,
    normalization_of,
    pretrain,
)
from labelsieve.features.recipes import PRETRAINING
from labelsieve.features.saved import load_network
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.records import Features
from labelsieve.stages import representation

SIZE = 16  # pixels
TINY = Pretrain(
    network="narrow-resnet18",
    image_size=SIZE,
    views=Contrastive(size=12),
    training=Training(
        epochs=3, batch_size=16, learning_rate=LearningRate(peak=0.05), optimizer=Optimizer()
    ),
    queue=Queue(size=64, momentum=0.9, group_size=8),
)
QUICK = [
    "--set", "pretrain.training.epochs=1", "--set", "pretrain.training.batch_size=32",
    "--set", "pretrain.training.precision=float32",
    "--set", "pretrain.joint.dictionary.patches.n_atoms=32",
    "--set", "pretrain.joint.dictionary.n_components=64",
    "--set", "pretrain.joint.dictionary.views.most=2",
    "--set", "pretrain.joint.dictionary.views.least=2",
]  # fmt: skip


def some_pixels(n: int = 48, seed: int = 0) -> np.ndarray:
    """Images of one of four colors and a gradient, with noise."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 255, (4, 3, 1, 1))[np.arange(n) % 4]
    ramp = np.linspace(-40, 40, SIZE)[None, None, None, :] * random.choice([-1, 1], (n, 1, 1, 1))
    return (colors + ramp + random.normal(0, 15, (n, 3, SIZE, SIZE))).clip(0, 255).astype(np.uint8)


def trained(settings: Pretrain, folder: Path | None = None, seed: int = 0) -> Encoder:
    pixels = some_pixels()
    return pretrain(
        resident(pixels), np.arange(len(pixels)), settings, pixels=pixels, seed=seed, folder=folder
    )


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten().double() for each in module.state_dict().values()])


@pytest.mark.parametrize("objective", ["nt-xent", "imix", "moco"])
def test_the_same_seed_gives_the_same_network_and_another_seed_another(objective):
    settings = replace(TINY, objective=objective, training=replace(TINY.training, epochs=1))
    first, again, other = (trained(settings, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training


@pytest.mark.parametrize("objective", ["nt-xent", "imix", "moco"])
def test_views_of_an_image_come_nearer_than_other_images(objective):
    epochs = 60 if objective == "moco" else 12  # its queue fills first
    settings = replace(TINY, objective=objective, training=replace(TINY.training, epochs=epochs))
    pixels = torch.from_numpy(some_pixels()).float() / 255
    ratios = []
    for encoder in (build(settings, None, 0).eval(), trained(settings)):
        mean, deviation = normalization_of(settings, encoder.network)
        images = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[
            :, None, None
        ]
        with torch.inference_mode():
            rows, mirrored = encoder(images), encoder(images.flip(3).roll(1, 2))
        same = (rows * mirrored).sum(1).mean()
        different = (rows @ mirrored.T).mean()
        ratios.append(float(same - different))
    assert ratios[1] > ratios[0] + 0.1


@pytest.mark.parametrize("objective", ["imix", "moco"])
def test_pretraining_goes_on_after_an_interruption_as_if_there_had_been_none(objective, tmp_path):
    settings = replace(TINY, objective=objective)
    whole = trained(settings)

    class Stopped(Exception):
        pass

    calls = []

    def stop(encoder: Encoder) -> dict[str, float]:
        calls.append(encoder.training)
        if len(calls) == 2:
            raise Stopped
        return {}

    pixels = some_pixels()
    source, rows = resident(pixels), np.arange(len(pixels))
    watched = replace(settings, monitor_every=1)
    with pytest.raises(Stopped):
        pretrain(source, rows, watched, folder=tmp_path, monitor=stop)
    assert (tmp_path / "state.pt").is_file()
    assert calls == [False, False]  # evaluated in evaluation mode
    resumed = pretrain(source, rows, watched, folder=tmp_path)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(("most", "epochs"), [(0, 3), (7, 3), (6, 2), (4, 2), (3, 1), (1, 1)])
def test_large_sets_get_fewer_epochs_where_updates_are_limited(most, epochs, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "pretrain")
    pixels = some_pixels()  # three batches
    pretrain(resident(pixels), np.arange(48), replace(TINY, most_updates=most), log=log)
    assert len(log.path.read_text().splitlines()) == epochs


def test_a_batch_that_is_no_multiple_of_mocos_groups_is_refused():
    settings = replace(TINY, objective="moco", queue=Queue(size=64, group_size=10))
    with pytest.raises(ConfigError, match="batches of 16 images on 1 process cannot be nor"):
        trained(settings)


def test_recipes_have_the_constants_of_their_papers():
    simclr, imix, moco = (PRETRAINING[n]() for n in ("cifar-simclr", "cifar-imix", "imagenet-moco"))
    # SCAN 1.3
    assert (simclr.network, simclr.temperature, simclr.views.smallest_crop) == (
        "cifar-resnet18",
        0.1,
        0.2,
    )
    training = simclr.training
    assert (training.epochs, training.batch_size, training.learning_rate.peak) == (500, 512, 0.4)
    assert training.learning_rate.at(250 / 500) == pytest.approx(0.2002)
    assert training.optimizer == Optimizer("sgd", 0.9, weight_decay=1e-4, decay_all=True)
    assert simclr.views.blur_rate == 0
    # SNCF A1
    assert (imix.network, imix.head, imix.temperature) == ("preact-resnet18", "sncf", 0.2)
    training = imix.training
    assert (training.epochs, training.batch_size) == (2000, 256)
    rates = [training.learning_rate.at(epoch / 2000) for epoch in (0, 999, 1000, 1499, 1500)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    assert training.optimizer.weight_decay == 5e-4
    assert imix.views.smallest_crop == 0.08
    # MoCo v2
    assert (moco.network, moco.temperature, moco.queue.size) == ("resnet50", 0.2, 65_536)
    assert (moco.queue.momentum, moco.training.learning_rate.peak) == (0.999, 0.03)
    assert (moco.views.size, moco.views.blur_rate, moco.rows) == (224, 0.5, "network")


@pytest.mark.parametrize("name", PRETRAINING)
def test_recipes_survive_json(name):
    settings = PRETRAINING[name]()
    read_back = from_dict(Pretrain(), json.loads(json.dumps(to_dict(settings))), "run.json")
    assert read_back == settings


# Dictionary and network together


@pytest.fixture(scope="module")
def joint() -> tuple[np.ndarray, JointModel]:
    pixels = some_pixels(96)
    network = build(replace(TINY, network="dictionary-net", head="small"), pixels, 0).network
    settings = Joint(
        dictionary=Dictionary(
            image_size=SIZE, patches=Patches(n_atoms=16), views=Views(least=3, most=3),
            n_components=32, n_dimensions=24, agreement_power=0.0,
        ),
        n_dimensions=20,
    )  # fmt: skip
    return pixels, fit_joint(pixels, network, settings)


def test_joint_rows_are_the_map_of_the_mean_over_both_mirror_images(joint):
    pixels, model = joint
    rows = model.transform(pixels[:5])
    images = torch.from_numpy(pixels[:5]).float()
    for image, row in zip(images, rows, strict=True):
        with torch.inference_mode():
            codes = [
                encode(view[None], model.dictionary, model.network, 2)
                for view in (image, image.flip(2))
            ]
        mapped = ((sum(codes) / 2 - model.center) @ model.projection)[0]
        np.testing.assert_allclose(row, mapped / mapped.norm(), atol=2e-2)  # bfloat16 by batch size


def test_joint_codes_are_the_dictionarys_then_each_maps_mean_and_parts(joint):
    pixels, model = joint
    image = torch.from_numpy(pixels[:1]).float()
    with torch.inference_mode():
        code = encode(image, model.dictionary, model.network, 2)[0]
        first = model.dictionary.mapped(image)[0]
        last = model.network.maps(image)[0]
    assert torch.equal(code[: len(first)], first)
    whole, parts = code[-5 * len(last) : -4 * len(last)], code[-4 * len(last) :].view(-1, 4)
    torch.testing.assert_close(whole, last.mean((1, 2)), rtol=0.05, atol=0.02)
    half = last.shape[1] // 2
    if last.shape[1] % 2 == 0:
        torch.testing.assert_close(
            parts[:, 0], last[:, :half, :half].mean((1, 2)), rtol=0.05, atol=0.02
        )


def test_agreement_of_joint_directions_falls_and_lies_between_0_and_1(joint):
    _, model = joint
    assert (model.agreement.diff() <= 1e-6).all()
    assert model.agreement.min() >= 0
    assert model.agreement.max() <= 1


def test_a_joint_model_that_was_saved_gives_the_same_rows(joint, tmp_path):
    pixels, model = joint
    model.save(tmp_path / "joint.safetensors")
    again = JointModel.load(tmp_path / "joint.safetensors", model.network)
    assert again.settings == model.settings
    for few in (pixels, pixels[:1], pixels[:3]):
        np.testing.assert_array_equal(again.transform(few), model.transform(few))


def test_another_file_is_no_joint_model(joint, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"other.safetensors: cannot be read as a joint model"):
        JointModel.load(tmp_path / "other.safetensors", joint[1].network)


# The command


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    made = load_digits()
    for name in (0, 1):
        (root / str(name)).mkdir()
        for i, row in enumerate(np.flatnonzero(made.target == name)[:64]):
            pixels = (made.images[row] * 15).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(root / str(name) / f"{i}.png")
    (root / "0" / "broken.png").write_bytes(b"no picture")
    return root


def invoke(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stderr


def test_features_are_pretrained_and_the_network_is_kept(digits, tmp_path):
    out = tmp_path / "f.npy"
    said = invoke("features", digits, "--out", out, "--pretrain", "cpu", *QUICK)
    assert "1 images cannot be read and have no row: 0/broken.png: " in " ".join(said.split())
    assert "128 rows" in said
    features = Features.load(out)
    assert features.made_by.startswith("joint features")
    lines = [json.loads(line) for line in (tmp_path / "f.run/log.jsonl").read_text().splitlines()]
    (epoch,) = (line for line in lines if line.get("phase") == "pretrain")
    assert epoch["loss"] > 0
    parts, about = load_network(tmp_path / "f.run")
    assert set(parts) == {"backbone", "head"}
    assert about["rows"] == "joint"
    run = json.loads((tmp_path / "f.run/run.json").read_text())
    assert run["settings"]["inputs"]["pretrain"] == "cpu"
    assert run["status"] == "done"
    assert list(run["broken"]) == ["0/broken.png"]
    invoke("rerun", tmp_path / "f.run", "--out", tmp_path / "again.npy")
    assert (tmp_path / "again.npy").read_bytes() == out.read_bytes()
    refused = CliRunner().invoke(main, ["report", str(tmp_path / "f.run")])
    assert "f.run: a run that made features; an audit writes a report" in refused.stderr


def test_features_that_are_there_are_not_replaced_unless_asked(digits, tmp_path):
    out = tmp_path / "f.npy"
    words = ("features", digits, "--out", out, "--set", "dictionary.n_components=16",
             "--set", "dictionary.patches.n_atoms=16")  # fmt: skip
    invoke(*words)
    before = out.read_bytes()
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "f.npy: exists already. Add --overwrite" in " ".join(result.stderr.split())
    invoke(*words, "--resume")  # a finished one is only read
    invoke(*words, "--overwrite")
    assert out.read_bytes() == before


def test_an_audit_can_begin_with_pretraining(digits, tmp_path):
    out = tmp_path / "run"
    invoke("audit", digits, "--out", out, "--pretrain", "cpu", *QUICK)
    about = json.loads((out / "run.json").read_text())
    assert about["features"].startswith("joint features")
    assert about["settings"]["audit"]["pretrain"]["training"]["epochs"] == 1
    assert (out / "model.safetensors").is_file()
    again = tmp_path / "again"
    invoke("rerun", out, "--out", again)
    assert (again / "features.npy").read_bytes() == (out / "features.npy").read_bytes()


def test_settings_of_pretraining_without_a_recipe_say_what_is_missing(digits, tmp_path):
    words = ["features", str(digits), "--out", str(tmp_path / "f.npy"),
             "--set", "pretrain.temperature=0.2"]  # fmt: skip
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "pretrain is not in use, so that there is no pretrain.temperature. Name a recipe" in said


def test_one_image_is_not_told_apart_from_any(tmp_path):
    pixels = some_pixels(1)
    with pytest.raises(DataError, match="1 images in batches of 16; to tell"):
        pretrain(resident(pixels), np.arange(1), TINY)


def test_a_recipe_that_is_not_there_names_those_near(digits, tmp_path):
    words = ["features", str(digits), "--out", str(tmp_path / "f.npy"), "--pretrain", "cpuu"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "--pretrain: there is no recipe 'cpuu'. Did you mean 'cpu'?" in result.stderr


def test_the_score_by_neighbors_is_in_the_log_where_there_are_labels(digits, tmp_path):
    out = tmp_path / "f.npy"
    quick = [
        "--set", "pretrain.network=narrow-resnet18", "--set", "pretrain.training.epochs=2",
        "--set", "pretrain.training.batch_size=32", "--set", "pretrain.monitor_every=2",
        "--set", "pretrain.training.precision=float32", "--set", "pretrain.rows=network",
        "--set", "pretrain.training.tensorboard=true",
    ]  # fmt: skip
    invoke("features", digits, "--out", out, "--pretrain", "cifar-simclr", *quick)
    lines = [json.loads(line) for line in (tmp_path / "f.run/log.jsonl").read_text().splitlines()]
    scores = [line.get("knn_accuracy") for line in lines if line.get("phase") == "pretrain"]
    assert scores[0] is None
    assert 0.3 < scores[1] <= 1
    assert list((tmp_path / "f.run/tensorboard/pretrain").glob("events.*"))


def test_two_processes_make_the_features_of_one(digits, tmp_path):
    changes = [
        "pretrain.network=narrow-resnet18", "pretrain.training.epochs=1",
        "pretrain.training.batch_size=64", "pretrain.training.precision=float32",
        "pretrain.training.learning_rate.peak=0.01", "pretrain.monitor_every=0",
    ]  # fmt: skip
    words = ["labelsieve", "features", str(digits), "--pretrain", "cifar-simclr"]
    for change in changes:
        words += ["--set", change]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    # a finished one is only read, and the process that came to help is sent home
    for name, before, more in (("one", ["-m"], []), ("two", several, []),
                               ("two", several, ["--resume"])):  # fmt: skip
        done = subprocess.run(
            [sys.executable, *before, *words, "--out", str(tmp_path / f"{name}.npy"), *more],
            capture_output=True, text=True, env=environment, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (Features.load(tmp_path / f"{name}.npy") for name in ("one", "two"))
    assert one.ids == two.ids
    # In float32, batch norm of few images makes more of the last digits at each update: another
    # number of threads differs as much. tests/test_losses_on_two_processes.py is exact.
    assert (one.values * two.values).sum(1).min() > 0.998
    losses = [
        json.loads(line)["loss"]
        for name in ("one", "two")
        for line in (tmp_path / f"{name}.run/log.jsonl").read_text().splitlines()
        if "loss" in line
    ]
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)


def test_resuming_does_not_replace_a_file_of_no_run(digits, tmp_path):
    out = tmp_path / "f.npy"
    out.write_bytes(b"of the user's own")
    words = ["features", str(digits), "--out", str(out), "--resume"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "f.npy: exists already. Add --overwrite" in " ".join(result.stderr.split())
    assert out.read_bytes() == b"of the user's own"


def test_features_that_were_removed_are_made_again_by_their_finished_run(digits, tmp_path):
    out = tmp_path / "f.npy"
    words = ("features", digits, "--out", out, "--set", "dictionary.n_components=16",
             "--set", "dictionary.patches.n_atoms=16")  # fmt: skip
    invoke(*words)
    before = out.read_bytes()
    out.unlink()
    invoke(*words, "--resume")
    assert out.read_bytes() == before
    assert not (tmp_path / "f.run/checkpoint").exists()


def test_a_set_of_broken_images_alone_is_named_with_one_of_them(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/0.png").write_bytes(b"no picture")
    words = ["features", str(tmp_path / "bad"), "--out", str(tmp_path / "f.npy")]
    result = CliRunner().invoke(main, [*words, "--pretrain", "cifar-simclr"])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "bad: none of 1 images can be decoded, such as '0.png': not an image" in said
    assert not (tmp_path / "f.run").exists()


def test_the_score_of_a_large_set_is_that_of_a_part_of_it(digits, tmp_path, monkeypatch):
    scored = []
    original = representation.neighbor_accuracy

    def accuracy(neighbors, labels, **settings):
        scored.append(len(labels))
        return original(neighbors, labels, **settings)

    monkeypatch.setattr(representation, "neighbor_accuracy", accuracy)
    monkeypatch.setattr(representation, "MOST_SCORED", 20)
    quick = [
        "--set", "pretrain.network=narrow-resnet18", "--set", "pretrain.training.epochs=1",
        "--set", "pretrain.training.batch_size=64", "--set", "pretrain.monitor_every=1",
        "--set", "pretrain.training.precision=float32",
    ]  # fmt: skip
    invoke("features", digits, "--out", tmp_path / "f.npy", "--pretrain", "cifar-simclr", *quick)
    assert len(scored) == 1
    assert 19 <= scored[0] <= 20  # one image of the set is broken


def test_an_audit_whose_dictionary_has_another_size_pretrains_on_the_networks(digits, tmp_path):
    out = tmp_path / "run"
    words = ["--pretrain", "cpu", *QUICK, "--set", "dictionary.image_size=20"]
    invoke("audit", digits, "--out", out, *words)
    about = json.loads((out / "run.json").read_text())
    assert about["features"].startswith("joint features")


def test_several_processes_without_anything_to_share_are_refused(monkeypatch, digits, tmp_path):
    monkeypatch.setattr("labelsieve.auditing.audit.n_launched", lambda: 2)
    result = CliRunner().invoke(main, ["audit", str(digits), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "2 processes were begun; an audit runs in one" in result.stderr


def test_settings_of_pretraining_are_checked_by_name():
    with pytest.raises(
        ConfigError, match="has no setting 'temprature'. Did you mean 'temperature'"
    ):
        overrides(Pretrain(), ["temprature=0.2"])
    with pytest.raises(ConfigError, match="temperature is 0.0; it must be above 0"):
        overrides(Pretrain(), ["temperature=0"])
    with pytest.raises(ConfigError, match="image_size is 48 and joint.dictionary.image_size 32"):
        overrides(PRETRAINING["cpu"](), ["image_size=48"])


def test_a_runtime_of_another_precision_is_refused():
    pixels = some_pixels()
    with pytest.raises(ConfigError, match="precision"):
        pretrain(
            resident(pixels), np.arange(len(pixels)), TINY,
            runtime=Runtime.start(precision="bfloat16"),
        )  # fmt: skip
