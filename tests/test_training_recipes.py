"""Recipes and models of a training: the papers' constants, and that any goes with any."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from labelsieve.config import from_dict, override, to_dict
from labelsieve.data.augment import Contrastive, Weak
from labelsieve.data.sources import of_rows, resident
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import network
from labelsieve.features.resnets import PreActResNet, PreActShape
from labelsieve.features.rows import Rows
from labelsieve.features.shown import image_views, row_views
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import train_classifier
from labelsieve.methods.sncf.dividemix import DivideMix
from labelsieve.methods.sncf.paper_training import Paper
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.robust_training import Robust
from labelsieve.methods.sncf.training_recipes import MODELS, OBJECTIVES, Model, fitted

PUBLISHED = ("cifar", "cnwl", "webvision")
ALL = [(recipe, model) for recipe in OBJECTIVES for model in MODELS]


# what is learned


def test_each_recipe_has_its_objective():
    assert {name: make() for name, make in OBJECTIVES.items()} == {
        "robust": Robust(),
        "paper": Paper(),
        "plain": Plain(loss="ce", alpha=0.0, on="all"),
        "mixup": Plain(loss="ce", alpha=1.0, on="all"),
        "gce": Plain(loss="gce", alpha=0.0, on="all", q=0.7),
        "elr": Plain(loss="elr", alpha=0.0, on="all"),
        "dividemix": DivideMix(),
        "clean": Plain(loss="ce", alpha=0.0, on="clean"),
        "clean-mixup": Plain(loss="ce", alpha=1.0, on="clean"),
    }


def test_the_paper_on_cifar_is_stage_b():
    made = fitted("paper", "cifar")
    assert made.network == "preact-resnet18"
    assert (made.rows, made.start, made.image_size) == ("images", "scratch", 32)
    classify = made.classify
    assert classify.weak == Weak(size=32, padding=4, flip_rate=0.5)
    strong = classify.strong
    assert (strong.size, strong.smallest_crop, strong.flip_rate) == (32, 0.08, 0.5)
    assert (strong.jitter_rate, strong.gray_rate, strong.blur_rate) == (0.8, 0.2, 0.0)
    assert (strong.brightness, strong.contrast, strong.saturation, strong.hue) == (
        0.4,
        0.4,
        0.4,
        0.1,
    )
    assert classify.projection == "sncf"
    assert (classify.average, classify.clean_norms) == (0.0, 0)  # the network itself predicts
    training = classify.training
    assert (training.epochs, training.batch_size, training.precision) == (100, 256, "fastest")
    optimizer = training.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert (optimizer.weight_decay, optimizer.decay_all) == (5e-4, True)
    rates = [training.learning_rate.at(epoch / 100) for epoch in (0, 49, 50, 79, 80, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    objective = classify.objective
    assert (objective.warmup, objective.power, objective.alpha) == (0.3, 2.0, 1.0)
    assert (objective.temperature, objective.contrast_weight) == (0.2, 1.0)
    assert (objective.guess, objective.contrast_by_share) == ("train", False)


def test_the_papers_contrast_weighs_by_the_foreign_share_on_cnwl_alone():
    by_share = {
        model: fitted("paper", model).classify.objective.contrast_by_share for model in MODELS
    }
    assert [model for model, yes in by_share.items() if yes] == ["cnwl"]
    assert fitted("paper", "cnwl").normalization == "mini-imagenet"
    assert fitted("paper", "cnwl").classify.training == fitted("paper", "cifar").classify.training


def test_webvision_has_the_papers_network_and_sizes():
    made = fitted("paper", "webvision")
    assert made.network == "inception-resnet-v2"
    assert made.image_size == 256
    assert made.classify.weak == Weak(size=227, padding=4)
    assert made.classify.strong == Contrastive(size=227, smallest_crop=0.08)
    rate = made.classify.training.learning_rate
    assert (made.classify.training.epochs, rate.cuts) == (100, (0.5, 0.8))
    assert "not published" in MODELS["webvision"].__doc__.replace("\n    ", " ")


@pytest.mark.parametrize("model", PUBLISHED)
def test_robust_takes_a_cosine_and_averages_where_a_schedule_is_published(model):
    robust, paper = fitted("robust", model), fitted("paper", model)
    rate, published = (each.classify.training.learning_rate for each in (robust, paper))
    assert (rate.shape, published.shape) == ("cosine", "steps")
    assert rate.at(1.0) == 0
    assert rate.peak == published.peak
    assert (robust.classify.average, paper.classify.average) == (0.999, 0.0)
    same = replace(robust.classify.training, learning_rate=published)
    assert same == paper.classify.training  # and so the same budget


# what learns


@pytest.mark.parametrize("model", MODELS)
def test_recipes_share_a_models_data_path_and_but_for_labels_on_rows_its_epochs(model):
    made = MODELS[model]()
    for recipe in OBJECTIVES:
        found = fitted(recipe, model)
        assert found.classify.objective == replace(OBJECTIVES[recipe](), **_changed(recipe, model))
        for name in ("weak", "strong", "clean_norms", "test_every"):
            assert getattr(found.classify, name) == getattr(made.classify, name)
        for name in (
            "rows",
            "network",
            "start",
            "image_size",
            "normalization",
            "n_hidden",
            "noise",
        ):
            assert getattr(found, name) == getattr(made, name)
        learned = found.classify.objective
        half = isinstance(learned, Plain) and learned.on == "all" and model == "features"
        assert found.classify.training.epochs == made.classify.training.epochs // (1 + half)
        assert found.classify.training.batch_size == made.classify.training.batch_size


def _changed(recipe: str, model: str) -> dict[str, object]:
    """What a model changes of an objective."""
    if (recipe, model) == ("paper", "cnwl"):
        return {"contrast_by_share": True}
    if (recipe, model) == ("dividemix", "finetune"):
        return {"second": "copy"}  # a network with pretrained weights is not drawn anew
    return {}


@pytest.mark.parametrize(("recipe", "model"), ALL)
def test_a_projection_head_is_there_where_something_is_contrasted(recipe, model):
    wanted = recipe in ("robust", "paper") and model != "features"
    assert (fitted(recipe, model).classify.projection != "none") == wanted


@pytest.mark.parametrize("name", [name for name, make in MODELS.items() if make().network])
def test_networks_are_there_and_take_their_views(name):
    made = MODELS[name]()
    backbone = network(made.network).eval()
    size = made.classify.weak.size
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, size, size)).shape == (1, backbone.n_features)
    assert made.classify.strong.size == size


def test_on_a_cpu_defaults_are_light():
    assert MODELS["features"]().rows == "features"
    assert MODELS["features"]().network is None
    assert sum(p.numel() for p in network(MODELS["cpu"]().network).parameters()) < 1e6
    assert MODELS["finetune"]().start == "pretrained"
    assert MODELS["finetune"]().classify.weak.size == 224


# together


@pytest.mark.parametrize("recipe", OBJECTIVES)
@pytest.mark.parametrize("model", ["features", "cpu"])
def test_every_recipe_trains_with_the_models_for_cpus(recipe, model):
    """Some updates on a handful of images: settings fit each other, and losses are finite."""
    n, made = 96, fitted(recipe, model)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    kinds = rng.dirichlet((4, 1, 1), n).astype(np.float32)
    beliefs = replace(
        Beliefs.trusting(labels), kinds=kinds, suggestion=rng.integers(0, 3, n),
        suggestion_probability=np.full(n, 0.6, np.float32),
    )  # fmt: skip
    training = replace(made.classify.training, epochs=3, batch_size=32)
    classify = replace(
        made.classify, training=training, clean_norms=min(made.classify.clean_norms, 50)
    )
    if model == "features":
        values = rng.standard_normal((n, 6)).astype(np.float32)
        module, source = Rows(6, 8).fit(values), of_rows(values)
        views = row_views(0, made.noise)
    else:
        module = PreActResNet(PreActShape((4, 8), (1, 1), identity=True, stem_stride=2))
        source = resident(rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))
        strong = None if classify.projection == "none" else classify.strong
        views = image_views(classify.weak, strong, module.normalization, 0)
    found = train_classifier(source, module, beliefs, 3, classify, rows=np.arange(n), views=views)
    assert found.probabilities.shape == (n, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert (found.projection is not None) == (classify.projection != "none")


@pytest.mark.parametrize(("recipe", "model"), ALL)
def test_settings_survive_json_and_can_be_changed(recipe, model):
    made = fitted(recipe, model)
    assert from_dict(made, json.loads(json.dumps(to_dict(made))), "run.json") == made
    assert override(made, "classify.training.epochs=7").classify.training.epochs == 7
    assert override(made, "normalization=cifar100").normalization == "cifar100"


def test_every_recipe_and_model_says_how_it_is_run_and_what_was_measured():
    for name, make in {**OBJECTIVES, **MODELS}.items():
        text = make.__doc__
        assert text.splitlines()[0].endswith((".", "GPU.", "GPUs.")), name
        assert "Run:      labelsieve train" in text or "Run:      torchrun" in text, name
        assert "Measured: " in text, name
        command = text.split("Run:")[1].split("Paper:")[0].split("Measured:")[0]
        option = "--model" if name in MODELS else "--recipe"
        default = {"robust", "features"}
        assert f"{option} {name}" in command or name in default, name
    for name in ("paper", *PUBLISHED):
        assert "Paper:    " in {**OBJECTIVES, **MODELS}[name].__doc__, name


def test_wrong_names_get_near_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'robusd'\. Did you mean 'robust'"):
        fitted("robusd", "cpu")
    with pytest.raises(ConfigError, match=r"--model: there is no 'cifar10'\. Did you mean 'cifar'"):
        fitted("robust", "cifar10")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "pixels"}, r"rows is 'pixels'; expected one of features, images"),
        ({"start": "warm"}, r"start is 'warm'; expected one of scratch, pretrained"),
        ({"normalization": "mnist"}, r"normalization is 'mnist'; .* mini-imagenet"),
        ({"noise": -0.1}, r"noise is -0\.1; expected 0 or more"),
        ({"most_updates": 5, "least_updates": 6}, r"least_updates is 6 and most_updates 5"),
        ({"image_size": 20}, r"image_size is 20, and views of 32 .* padding of 4; at least 24"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Model(**change)
