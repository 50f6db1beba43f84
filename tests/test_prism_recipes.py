"""Recipes and models of a retrieval: the published constants, and that any goes with any."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from labelsieve.config import from_dict, override, to_dict
from labelsieve.data.augment import IMAGENET, Contrastive, Weak
from labelsieve.data.sources import of_rows, resident
from labelsieve.errors import ConfigError
from labelsieve.features.backbones import network
from labelsieve.features.conv_net import ConvShape, SmallConvNet
from labelsieve.features.pooling import pooled_by
from labelsieve.features.rows import Rows
from labelsieve.features.shown import image_views, row_views
from labelsieve.methods.prism.embedding import Pairs, Proxies, train_embedding
from labelsieve.methods.prism.filter import Filter
from labelsieve.methods.prism.recipes import MODELS, OBJECTIVES, Retriever, fitted
from labelsieve.methods.prism.two_stage import SecondStage, second_stage

ALL = [(recipe, model) for recipe in OBJECTIVES for model in MODELS]
PUBLISHED = {  # network, numbers of a row
    "cars": ("bn-inception", 512),
    "cub": ("bn-inception", 512),
    "cars-98n": ("bn-inception", 512),
    "sop": ("resnet50", 128),
    "food-101n": ("resnet50", 128),
}


# what is learned


@pytest.mark.parametrize(
    ("recipe", "loss", "filtered", "second"),
    [
        ("prism", Pairs(), True, None),
        ("two-stage", Pairs(), True, SecondStage()),
        ("unfiltered", Pairs(), False, None),
        ("soft-triple", Proxies(), True, None),
        ("soft-triple-unfiltered", Proxies(), False, None),
        ("batch", Pairs(memory_weight=0.0), True, None),
    ],
)
def test_each_recipe_has_its_loss_and_says_whether_labels_are_filtered(
    recipe, loss, filtered, second
):
    made = fitted(recipe, "small")
    assert made.embed.loss == loss
    assert made.embed.filter == (Filter() if filtered else None)
    assert made.second == second


def test_every_recipe_is_told_of_above():
    assert len(OBJECTIVES) == 6
    assert next(iter(OBJECTIVES)) == "prism"
    assert next(iter(MODELS)) == "features"


def test_losses_have_the_authors_constants():
    pairs, proxies = Pairs(), Proxies()
    assert (pairs.margin, pairs.over, pairs.memory_weight) == (0.5, "sum", 1.0)
    assert (proxies.scale, proxies.gamma, proxies.margin) == (20, 0.1, 0.01)
    assert (proxies.learning_rate, proxies.n_centers) == (0.1, 0)
    assert SecondStage().loss.over == "mean"


# what learns


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_models_are_the_authors(model):
    made = MODELS[model]()
    assert (made.network, made.embed.dim) == PUBLISHED[model]
    assert (made.rows, made.start, made.pooling) == ("images", "pretrained", "max")
    embed = made.embed
    assert (embed.classes_per_batch, embed.images_per_class) == (16, 4)
    assert made.image_size == 256
    assert embed.weak == Weak(size=224, padding=0)
    assert embed.crops == Contrastive(
        size=224, smallest_crop=0.2, aspect=4 / 3, flip_rate=0.5, jitter_rate=0, gray_rate=0,
        blur_rate=0,
    )  # fmt: skip
    optimizer = embed.training.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.decay_all) == ("adam", 5e-4, True)
    rates = [embed.training.learning_rate.at(share) for share in (0, 0.5, 1)]
    assert rates == pytest.approx([3e-5, 1.5e-5, 0])
    assert embed.training.batch_size == 64
    assert embed.filter.window == 30
    assert embed.filter.score == "average"
    assert not embed.filter.published
    with torch.no_grad():
        assert made.normalized(network(made.network)) == IMAGENET


def test_of_the_web_cars_all_is_published():
    embed = fitted("prism", "cars-98n").embed
    assert embed.filter == Filter(noise_rate=0.5, window=30, memory_size=9500)
    assert embed.updates == 4000
    without = fitted("unfiltered", "cars-98n").embed
    assert without.filter is None
    assert without.loss == Pairs(memory_size=9500)


@pytest.mark.parametrize("model", ["cars", "cub", "sop", "food-101n"])
def test_where_no_rate_is_published_it_is_estimated(model):
    assert MODELS[model]().embed.filter == Filter(noise_rate="auto", window=30)


def test_a_rate_that_a_model_has_holds_for_both_stages():
    assert fitted("two-stage", "cars-98n").second.offline.noise_rate == 0.5
    assert fitted("two-stage", "cars").second.offline.noise_rate == "auto"


def test_large_sets_are_passed_over_thirty_times():
    for model in ("sop", "food-101n"):
        embed = MODELS[model]().for_images(60_000).embed
        assert (embed.updates, embed.training.epochs) == (0, 30)


@pytest.mark.parametrize("recipe", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
def test_recipes_share_a_models_data_path_and_budget(recipe, model):
    made, found = MODELS[model](), fitted(recipe, model)
    changed = replace(found.embed, loss=made.embed.loss, filter=made.embed.filter)
    assert replace(found, embed=changed, second=None) == made


def test_on_a_cpu_defaults_are_light():
    assert MODELS["features"]().rows == "features"
    assert MODELS["features"]().network is None
    net = network(MODELS["small"]().network)
    assert sum(each.numel() for each in net.parameters()) < 1e5
    assert MODELS["finetune"]().start == "pretrained"
    assert MODELS["finetune"]().pooling == "mean"  # as the network was trained


def test_drawings_are_not_mirrored():
    assert MODELS["small"]().embed.weak.flip_rate == 0


@pytest.mark.parametrize("name", [name for name, make in MODELS.items() if make().network])
def test_networks_are_there_and_take_their_views(name):
    made = MODELS[name]()
    backbone = pooled_by(network(made.network), made.pooling).eval()
    with torch.no_grad():
        found = backbone(torch.zeros(1, 3, made.view_size, made.view_size))
    assert found.shape == (1, backbone.n_features)


@pytest.mark.parametrize(
    ("model", "n_images", "updates"),
    [
        ("features", 100, 200),  # never fewer
        ("features", 64_000, 4000),  # four passes
        ("features", 64_001, 4004),
        ("small", 10_320, 600),
        ("small", 64_000, 3000),
        ("cars", 10**6, 4000),  # as published, whatever the number of images
        ("finetune", 64_000, 30_000),
    ],
)
def test_a_model_passes_over_large_sets_some_times_at_least(model, n_images, updates):
    made = MODELS[model]()
    found = made.for_images(n_images)
    assert found.embed.updates == updates
    assert replace(found, embed=replace(found.embed, updates=made.embed.updates)) == made


def test_a_network_trained_before_brings_its_sizes():
    made = MODELS["finetune"]().fitted_to(36, 32)
    assert (made.image_size, made.view_size) == (36, 32)
    assert made.embed.crops.size == 32
    small = MODELS["small"]().fitted_to(48, 48)
    assert (small.image_size, small.view_size, small.embed.crops) == (48, 48, None)


# together


@pytest.mark.parametrize("recipe", OBJECTIVES)
@pytest.mark.parametrize("model", ["features", "small", "cars"])
def test_every_recipe_trains_on_a_handful_of_images(recipe, model):
    n, n_classes, made = 96, 8, fitted(recipe, model)
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    training = replace(made.embed.training, epochs=2, batch_size=8)
    embed = replace(
        made.embed, dim=5, images_per_class=2, updates=6, training=training,
    )  # fmt: skip
    if model == "features":
        values = rng.standard_normal((n, 6)).astype(np.float32)
        values += 3 * rng.standard_normal((n_classes, 6)).astype(np.float32)[labels]
        module, source = Rows(6, turned=made.turned).fit(values), of_rows(values)
        views = row_views(0, made.noise)
    else:
        module = SmallConvNet(ConvShape(widths=(4, 8), size=8))
        source = resident(rng.integers(0, 256, (n, 3, 10, 10), dtype=np.uint8))
        weak = replace(embed.weak, size=8)
        crops = None if embed.crops is None else replace(embed.crops, size=8)
        embed = replace(embed, weak=weak, crops=crops)
        views = image_views(weak, crops, module.normalization, 0)
    found = train_embedding(
        source, module, labels, n_classes, embed, rows=np.arange(n), views=views
    )
    assert found.embedder.n_features == 5
    assert (found.filter is None) == recipe.endswith("unfiltered")
    if made.second is not None:
        second = replace(made.second, offline=replace(made.second.offline, noise_rate=0.1))
        stages = second_stage(
            source, module, found, labels, n_classes, embed, second, rows=np.arange(n),
            views=views, seed=0,
        )  # fmt: skip
        assert 0 < len(stages.kept) < n


@pytest.mark.parametrize(("recipe", "model"), ALL)
def test_settings_survive_json_and_can_be_changed(recipe, model):
    made = fitted(recipe, model)
    assert from_dict(made, json.loads(json.dumps(to_dict(made))), "run.json") == made
    assert override(made, "embed.training.epochs=7").embed.training.epochs == 7
    assert override(made, "pooling=mean").pooling == "mean"
    if made.embed.filter is not None:
        changed = override(made, "embed.filter.noise_rate=0.25")
        assert changed.embed.filter.noise_rate == 0.25
        assert override(changed, "embed.filter.noise_rate=auto").embed.filter.noise_rate == "auto"


def test_every_recipe_and_model_says_how_it_is_run_and_what_was_measured():
    for name, make in {**OBJECTIVES, **MODELS}.items():
        text = make.__doc__
        assert text.splitlines()[0].endswith("."), name
        assert "Run:      labelsieve retrieve" in text, name
        assert "Measured: " in text, name
        command = text.split("Run:")[1].split("Paper:")[0].split("Measured:")[0]
        option = "--model" if name in MODELS else "--recipe"
        assert f"{option} {name}" in command or name in {"prism", "features"}, name
    for name in PUBLISHED:
        assert "Paper:    " in MODELS[name].__doc__, name
        assert "Measured: not yet." in MODELS[name].__doc__, name


def test_wrong_names_get_near_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'prismm'\. Did you mean 'prism'"):
        fitted("prismm", "cars")
    with pytest.raises(
        ConfigError, match=r"--model: there is no 'cars98n'\. Did you mean 'cars-98"
    ):
        fitted("prism", "cars98n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "pixels"}, r"rows is 'pixels'; expected one of features, images"),
        ({"start": "warm"}, r"start is 'warm'; expected one of scratch, pretrained"),
        ({"pooling": "median"}, r"pooling is 'median'; expected one of mean, max"),
        ({"noise": -0.1}, r"noise is -0\.1; expected 0 or more"),
        ({"n_hidden": -1}, r"n_hidden is -1; expected 0 or more"),
        ({"least_passes": -1}, r"least_passes is -1; expected 0 or more"),
        ({"image_size": 200}, r"image_size is 200, and views of 224 .* padding of 0; .* 224 are"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Retriever(**change)
