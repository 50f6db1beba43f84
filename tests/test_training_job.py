"""Training by every kind of material: networks, features of ones own, networks trained before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import labelsieve as ls
from labelsieve.features.twins import Twins
from labelsieve.loop.train import Training
from labelsieve.methods.sncf.training_recipes import OBJECTIVES
from labelsieve.records import Features, Findings, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.stages.inputs import Inputs
from labelsieve.training import job as training_job
from labelsieve.training import train as training
from labelsieve.training.settings import Train, train_recipe
from labelsieve.training.train import run_train
from made_digits import SIZE, tiny_pretrain
from made_training import (
    N_TEST,
    ON_IMAGES,
    ON_ROWS,
    WITH_AUDIT,
    about,
    done,
    refusal,
    same_bytes,
    set_,
)

BASELINES = [name for name in OBJECTIVES if name not in ("robust", "paper")]
FEW = set_("classify.training.epochs=2")


def same_predictions(run: Path, checked: Path, **how: object) -> None:
    """What the model says of the test images is what the run says, bit for bit."""
    theirs = Predictions.load(run / "predictions.parquet")
    said = ls.predict(run, checked, **how)
    assert said.image == theirs.image
    np.testing.assert_array_equal(said.choices, theirs.choices)
    np.testing.assert_array_equal(said.probabilities, theirs.probabilities)


# Recipes


@pytest.mark.parametrize("recipe", BASELINES)
def test_every_recipe_trains_on_features(
    recipe: str, audit_run: Path, checked: Path, tmp_path: Path
):
    words = ("--recipe", recipe, "--test", checked, *ON_ROWS)
    done("train", audit_run, "--out", tmp_path / "run", *words)
    assert about(tmp_path / "run")["scores"]["accuracy"] > 0.6
    same_predictions(tmp_path / "run", checked)
    before = Findings.load(tmp_path / "run" / "audit.parquet")
    after = Findings.load(tmp_path / "run" / "findings.parquet")
    # who learns wrong labels has nothing to say of them
    unchanged = np.array_equal(before.probabilities, after.probabilities, equal_nan=True)
    assert unchanged == (recipe != "dividemix")


@pytest.mark.parametrize("recipe", ["paper", "elr", "dividemix"])
def test_networks_train_by_every_kind_of_recipe(
    recipe: str, audit_run: Path, checked: Path, tmp_path: Path
):
    words = ("--recipe", recipe, "--test", checked, *ON_IMAGES)
    done("train", audit_run, "--out", tmp_path / "run", *words)
    same_predictions(tmp_path / "run", checked)
    if recipe == "dividemix":
        assert isinstance(ls.load_network(tmp_path / "run")[0]["backbone"], Twins)


@pytest.mark.parametrize("recipe", ["plain", "clean", "clean-mixup"])
def test_a_recipe_makes_the_updates_of_the_model_whatever_it_learns_from(
    recipe: str, audit_run: Path, tmp_path: Path
):
    out, size, least = tmp_path / "run", 8, 300
    before = Findings.load(audit_run / "findings.parquet")
    rows = np.flatnonzero(before.verdict == Verdict.CLEAN)[:40]  # decided to be no use
    lines = [json.dumps({"image": before.image[row], "verdict": "foreign"}) for row in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    settings = (f"least_updates={least}", f"classify.training.batch_size={size}")
    words = ("--recipe", recipe, "--decisions", tmp_path / "d.jsonl", *ON_ROWS, *set_(*settings))
    done("train", audit_run, "--out", out, *words, *set_("classify.training.epochs=1"))
    n = before.count(Verdict.CLEAN) - 40 if recipe != "plain" else len(before) - 41  # one is broken
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    n_epochs = sum(line.get("phase") == "train" for line in log)
    assert n_epochs == -(-least // (n // size)) > -(-least // ((len(before) - 1) // size))


# Networks


def test_a_network_s_run_says_what_it_is(network_run: Path):
    facts = about(network_run)
    assert (facts["model"], facts["network"]) == ("cpu", "small-preact")
    assert list(facts["timings"]) == ["images", "train", "refine", "test", "report"]
    module, told = ls.load_network(network_run)
    assert {"backbone", "classifier"} <= set(dict(module.named_children()))
    assert (told["kind"], told["image_size"], told["view_size"]) == ("classifier", SIZE, SIZE)
    assert told["class_names"] == ["0", "1", "4"]
    log = [json.loads(line) for line in (network_run / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if "phase" in line]
    assert "test_accuracy" in epochs[-1]  # tested at the end, though never before
    assert sum("test_accuracy" in line for line in epochs) == 1


def test_the_network_makes_features_for_another_audit(
    network_run: Path, photos: Path, checked: Path, tmp_path: Path
):
    words = ("--network", network_run, "--set", "detection.n_repeats=1")
    done("audit", photos, "--out", tmp_path / "again", *words)
    features = Features.load(tmp_path / "again" / "features.npy")
    network = ls.load_network(network_run)[0]["backbone"]
    assert features.values.shape[1] == network.n_features
    # which is trained on in turn, without the first run
    words = ("--test", checked, *ON_ROWS)
    done("train", tmp_path / "again", "--out", tmp_path / "run", *words)
    assert (tmp_path / "run" / "pretext" / "model.safetensors").is_file()
    same_predictions(tmp_path / "run", checked)


def test_a_classifier_of_features_is_no_network_to_audit_by(
    row_run: Path, photos: Path, tmp_path: Path
):
    said = refusal("audit", photos, "--network", row_run, "--out", tmp_path / "run")
    assert "the model there has no backbone: no network was trained in that run" in said
    assert "decode ..." not in said


def test_a_network_begins_with_another_one_s_weights(
    network_run: Path, audit_run: Path, checked: Path, tmp_path: Path
):
    words = ("--network", network_run, "--test", checked, *ON_IMAGES, *set_("start=pretrained"))
    slow = set_("classify.training.learning_rate.peak=1e-9", "classify.training.epochs=1")
    done("train", audit_run, "--out", tmp_path / "run", *words, *slow)
    given, kept = (ls.load_network(run)[0]["backbone"] for run in (network_run, tmp_path / "run"))
    pairs = list(zip(given.parameters(), kept.parameters(), strict=True))
    alike = [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs]
    assert all(each > 0.98 for each in alike)
    assert any(not torch.equal(a, b) for a, b in pairs)
    # the sizes are those that it was trained with, whatever the recipe's
    done("train", audit_run, "--out", tmp_path / "other", *words, *slow, *set_("image_size=24"))
    assert ls.load_network(tmp_path / "other")[1]["image_size"] == SIZE


def tiny_train(recipe: str = "robust", **changes: object) -> Train:
    """A network pretrained on the images, which then learns on."""
    settings = train_recipe(recipe, "finetune")
    classify = replace(
        settings.classify, projection="none", average=0.0, training=Training(1, batch_size=32)
    )
    pretrain = replace(
        tiny_pretrain(), network="small-preact", training=Training(1, 64), monitor_every=0
    )
    detection = replace(settings.audit.detection, n_repeats=1)
    audit = replace(settings.audit, pretrain=pretrain, detection=detection)
    return replace(settings, classify=classify, audit=audit, least_updates=0, **changes)


def test_a_network_is_pretrained_on_the_images_and_learns_on(
    photos: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inputs = Inputs(str(photos), test=str(checked), model="finetune")
    found = run_train(inputs, tiny_train(), tmp_path / "run")
    assert found.scores.n_scored == N_TEST - 1
    assert (tmp_path / "run" / "pretext" / "model.json").is_file()
    same_predictions(tmp_path / "run", checked)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for i, place in enumerate([(training_job, "train_classifier"), (training, "keep_classifier")]):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            with pytest.raises(KeyboardInterrupt):
                run_train(inputs, tiny_train(), tmp_path / "other", resume=i > 0)
    run_train(inputs, tiny_train(), tmp_path / "other", resume=True)
    same_bytes(tmp_path / "run", tmp_path / "other", "pretext/model.safetensors")
    # a classifier of the first network's features, trained on that run
    settings = replace(train_recipe("plain"), n_hidden=0, least_updates=0)
    again = Inputs(str(photos), test=str(checked), audited=str(tmp_path / "run"), recipe="plain")
    run_train(again, settings, tmp_path / "rows")
    same_predictions(tmp_path / "rows", checked)
    kept, first = (
        ls.load_network(tmp_path / run / "pretext")[0]["backbone"].state_dict()
        for run in ("rows", "run")
    )
    assert all(torch.equal(kept[name], value) for name, value in first.items())


def test_an_audit_without_a_network_cannot_begin_with_it(audit_run: Path, tmp_path: Path):
    words = (*ON_IMAGES, *set_("start=pretrained"))
    said = refusal("train", audit_run, "--out", tmp_path / "run", *words)
    assert f"{audit_run} has no network to begin with. Add --network PATH" in said
    assert not (tmp_path / "run").exists()


def test_a_network_beside_an_audit_s_features_is_refused(
    audit_run: Path, network_run: Path, tmp_path: Path
):
    said = refusal("train", audit_run, "--network", network_run, "--out", tmp_path / "run")
    assert "--network: the features are those of the audit" in said


# Features of ones own


@pytest.fixture(scope="module")
def own(photos: Path, checked: Path, row_run: Path, tmp_path_factory) -> tuple[Path, Path]:
    """Files of features of the training images, and of the test images."""
    root = tmp_path_factory.mktemp("own")
    for suffix in (".npy", ".json"):
        shutil.copy((row_run / "features.npy").with_suffix(suffix), root / f"train{suffix}")
    rng = np.random.default_rng(0)
    n_columns = np.load(root / "train.npy").shape[1]
    images = ls.read(checked)
    values = rng.standard_normal((len(images), n_columns)).astype(np.float32)
    np.save(root / "test.npy", values)
    return root / "train.npy", root / "test.npy"


def test_features_of_ones_own_are_given_for_both_sets(
    own: tuple[Path, Path], photos: Path, checked: Path, row_run: Path, tmp_path: Path
):
    words = ("--features", own[0], "--test", checked, *WITH_AUDIT, *ON_ROWS)
    done("train", photos, "--test-features", own[1], "--out", tmp_path / "run", *words)
    # the rows are those that the first run made, and so are weights and findings
    for name in ("model.safetensors", "findings.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (row_run / name).read_bytes()
    same_predictions(tmp_path / "run", checked, features=str(own[1]))
    done("rerun", tmp_path / "run", "--out", tmp_path / "again")
    same_bytes(tmp_path / "run", tmp_path / "again")


def test_features_of_ones_own_are_missed_before_any_work(
    own: tuple[Path, Path], photos: Path, checked: Path, audit_run: Path, tmp_path: Path
):
    out, test = ("--out", tmp_path / "run"), ("--test", checked)
    features = ("--features", own[0])
    for words, message in (
        ((photos, *features, *test), "it is trained on features of your own"),
        ((photos, *test, "--test-features", own[1]), "are made here, and so are those of the te"),
        ((audit_run, *test, "--test-features", own[1]), "are made here, and so are those of the"),
        (
            (photos, *features, *test, "--test-features", own[1], *ON_IMAGES),
            "a network looks at the test images itself. Leave it out.",
        ),
        (
            (photos, *features, *test, "--test-features", "no.npy"),
            "--test-features no.npy: there is no such file",
        ),
    ):
        said = refusal("train", *words, *out)
        assert message in said
        assert "decode ..." not in said
        assert not (tmp_path / "run").exists()
    audit = tmp_path / "audit"
    done("audit", photos, "--out", audit, *features, "--set", "detection.n_repeats=1")
    said = refusal("train", audit, *test, *out)
    assert "Add --test-features FILE." in said
    words = (*test, "--test-features", own[1], *ON_ROWS)
    done("train", audit, "--out", tmp_path / "run", *words)
    same_predictions(tmp_path / "run", checked, features=str(own[1]))


def test_features_of_other_columns_are_told(
    own: tuple[Path, Path], photos: Path, checked: Path, tmp_path: Path
):
    np.save(tmp_path / "wide.npy", np.ones((N_TEST, 3), np.float32))
    words = ("--features", own[0], "--test", checked, "--test-features", tmp_path / "wide.npy")
    said = refusal("train", photos, "--out", tmp_path / "run", *words, *WITH_AUDIT, *ON_ROWS)
    assert "features of 3 columns" in said
    assert "Give features that were made in the same way." in said
    assert "train ..." not in said


def test_a_network_is_trained_after_an_audit_by_ones_own_features(
    own: tuple[Path, Path], photos: Path, checked: Path, tmp_path: Path
):
    words = ("--features", own[0], "--test", checked, *WITH_AUDIT, *ON_IMAGES, *FEW)
    done("train", photos, "--out", tmp_path / "run", *words)
    same_predictions(tmp_path / "run", checked)


# Exports


def test_a_training_is_exported_as_labels(row_run: Path, tmp_path: Path):
    result = done("export", row_run, "--to", "links", "--out", tmp_path / "links", "--json")
    facts = json.loads(result.stdout)
    found = Findings.load(row_run / "findings.parquet")
    assert facts["n_broken"] == 1
    assert sum(facts["labels"].values()) == len(found) - 1 - facts["n_foreign"]
    assert len(list((tmp_path / "links").rglob("*.png"))) == sum(facts["labels"].values())
    said = refusal("export", row_run, "--to", "csv", "--out", tmp_path / "t", "--names", "n.csv")
    assert "--names is for runs of `cluster`" in said


def test_predictions_need_no_names_and_no_features(
    row_run: Path, network_run: Path, checked: Path, tmp_path: Path
):
    out = ("--out", tmp_path / "new.csv")
    said = refusal("predict", row_run, checked, *out, "--names", "n.csv")
    assert f"the classes of {row_run} have names. Leave it out." in said
    said = refusal("predict", row_run, checked, *out, "--features", "f.npy")
    assert "makes the rows of new images itself. Leave it out." in said
    said = refusal("predict", network_run, checked, *out, "--features", "f.npy")
    assert "this run's network looks at images itself. Leave it out." in said
    assert not (tmp_path / "new.csv").exists()
