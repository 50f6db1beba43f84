"""Training taggers and cleaners: what learns from what, and that it helps on made data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from labelsieve.data.augment import Normalization, Weak
from labelsieve.data.batches import Batch, Batches, of_rows, resident
from labelsieve.data.samplers import in_order
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.rows import Rows
from labelsieve.features.shown import image_views, row_views
from labelsieve.features.tag_heads import CleanerShape, LabelCleaner
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.objectives import joint as joint_module
from labelsieve.methods.veit.objectives.biases import Biases
from labelsieve.methods.veit.objectives.gated import Gated, sharpened
from labelsieve.methods.veit.objectives.joint import Joint, joint_step
from labelsieve.methods.veit.objectives.plain import Clean, tagger_step
from labelsieve.methods.veit.recipes import OBJECTIVES, tag_recipe
from labelsieve.methods.veit.relations import relations
from labelsieve.methods.veit.stopping import average_precision
from labelsieve.methods.veit.targets import overruled
from labelsieve.methods.veit.training import VeitTraining, prepared_work, train_tagger
from made_colors import states, tiny_network
from made_tags import recall, score, tagged

QUICK_GATES = Gated(n_members=2, n_label=16, n_hidden=16, passes=4, n_folds=2, n_taggers=2)


@cache
def made(**options):
    return tagged(**options)


def quick(name, **changes):
    settings = replace(tag_recipe(name), updates=30, **changes)
    if isinstance(settings.objective, Gated):
        return replace(settings, objective=QUICK_GATES)
    if isinstance(settings.objective, Clean):
        return replace(settings, objective=Clean(stop_among=(5, 10)))
    if isinstance(settings.objective, Joint):
        objective = replace(settings.objective, pretraining_updates=10)
        return replace(settings, objective=objective)
    return settings


def trained(name_or_settings, data=None, **options):
    data = data or made()
    settings = quick(name_or_settings) if isinstance(name_or_settings, str) else name_or_settings
    return train_tagger(
        data.features, data, settings, rows=data.learned, asked=np.arange(len(data.features)),
        **options,
    )  # fmt: skip


def work(name="paper", **changes):
    data = made()
    return prepared_work(
        of_rows(data.features), data, quick(name, **changes), data.learned, None,
        Rows(data.features.shape[1]).fit(data.features), row_views(0), Runtime.start(),
    )  # fmt: skip


def batch_of(n_verified=3, n_noisy=27, first_noisy=300) -> Batch:
    rows = np.r_[0:n_verified, first_noisy : first_noisy + n_noisy]
    return next(Batches(of_rows(made().features), in_order(rows, len(rows))).epoch(0))


def new_cleaner(own, **options):
    with drawn_from(5):
        cleaner = LabelCleaner(
            CleanerShape(own.n_tags, made().features.shape[1], 16, 16, **options)
        )
    return cleaner


def stirred(cleaner):
    """Not zero at its end, where all gradients before it would vanish."""
    with torch.no_grad(), drawn_from(6):
        cleaner.output.weight.normal_(0, 0.05)
    return cleaner


def gradients(step, batch, *modules):
    for module in modules:
        module.zero_grad(set_to_none=True)
    step(batch)["loss"].backward()
    return [[weight.grad for weight in module.parameters()] for module in modules]


# Which loss teaches what


def test_the_classifying_loss_teaches_the_tagger_and_no_weight_of_the_cleaner():
    own = work()
    cleaner = stirred(new_cleaner(own))
    noisy_alone = batch_of(n_verified=0)
    of_net, of_cleaner = gradients(
        joint_step(own, cleaner, Joint()), noisy_alone, own.bare, cleaner
    )
    assert all(gradient is None for gradient in of_cleaner)
    assert len(of_cleaner) == 8
    assert all(gradient.abs().sum() > 0 for gradient in of_net)


def test_the_cleaning_loss_teaches_the_cleaner_and_no_weight_of_the_tagger():
    own = work()
    cleaner = stirred(new_cleaner(own))
    step = joint_module.cleaning_step(own, cleaner, 0.1)
    of_net, of_cleaner = gradients(step, batch_of(), own.bare, cleaner)
    assert all(gradient is None for gradient in of_net)
    assert all(gradient.abs().sum() > 0 for gradient in of_cleaner)


def test_images_that_nobody_verified_leave_the_cleaner_as_it_would_be_without_them():
    own = work()
    cleaner = stirred(new_cleaner(own))
    step = joint_step(own, cleaner, Joint())
    (one,), (other,) = (gradients(step, batch_of(first_noisy=at), cleaner) for at in (300, 600))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_first_step_of_the_tagger_is_that_without_a_cleaner():
    own = work()
    batch = batch_of()
    (joint,) = gradients(joint_step(own, new_cleaner(own), Joint()), batch, own.bare)
    (mixed,) = gradients(tagger_step(own, own.targets), batch, own.bare)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(joint, mixed, strict=True))


@pytest.mark.parametrize("rule", ["noisy", "absent", "ignore"])
def test_the_losses_of_a_step_are_those_of_the_definition(rule):
    own = work(unverified=rule)
    cleaner, batch = stirred(new_cleaner(own)), batch_of(4, 6)
    data, rows = made(), batch.rows.numpy()
    values = joint_step(own, cleaner, Joint())(batch)
    with torch.no_grad():
        features, logits = own.bare(batch.images)
        cleaned = cleaner(own.tags(own.asserted, rows), features).double().numpy()
    y, v = (matrix.toarray()[rows] for matrix in (data.asserted, data.verified))
    looked = (v != 0).any(axis=1)
    rest = {"noisy": y, "absent": 0 * y, "ignore": y}[rule]
    target = np.where(v != 0, v > 0, rest)[looked]
    counts = np.ones_like(target) if rule != "ignore" else v[looked] != 0
    cleaning = (np.abs(cleaned[looked] - target) * counts).sum() / looked.sum()
    q = cleaned.copy()
    q[looked] = np.where(v != 0, v > 0, 0 if rule == "absent" else cleaned)[looked]
    z = logits.double().numpy()
    terms = np.logaddexp(0, z) - q * z
    if rule == "ignore":
        terms[looked] *= v[looked] != 0
    classifying = terms.sum() / len(rows)
    assert values["cleaning"].item() == pytest.approx(cleaning, rel=1e-5)
    assert values["classifying"].item() == pytest.approx(classifying, rel=1e-5)
    assert values["loss"].item() == pytest.approx(classifying + 0.1 * cleaning, rel=1e-5)


def test_both_losses_reach_a_backbone_that_learns():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8).numpy()
    own = image_work(images, tiny_network())
    cleaner = stirred(LabelCleaner(CleanerShape(4, 16, 8, 8)))
    step = joint_step(own, cleaner, Joint())
    batch = next(Batches(own.source, in_order(8, 8)).epoch(0))
    own.net.eval()
    nn.init.normal_(own.bare.tagger.weight)  # zero at first: nothing would come through it
    weights = list(own.bare.backbone.parameters())
    of = [torch.autograd.grad(step(batch)[name], weights) for name in ("cleaning", "classifying")]
    whole = torch.autograd.grad(step(batch)["loss"], weights)
    for cleaning, classifying, both in zip(*of, whole, strict=True):
        assert cleaning.abs().sum() > 0
        assert classifying.abs().sum() > 0
        assert torch.allclose(both, 0.1 * cleaning + classifying, atol=1e-5)


def image_work(images, network):
    tags, views = image_tags(len(images)), tiny_views()
    return prepared_work(
        resident(images), tags, quick("paper"), np.arange(len(images)), None, network, views,
        Runtime.start(),
    )  # fmt: skip


def image_tags(n):
    asserted = csr_array(np.tile([[1, 0, 1, 0], [0, 1, 1, 1]], (n // 2, 1)).astype(np.float32))
    verified = np.zeros((n, 4), np.int8)
    verified[: n // 2, 2] = 1 - 2 * (np.arange(n // 2) % 2)
    return SimpleNamespace(asserted=asserted, verified=csr_array(verified))


def tiny_views():
    plain = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return image_views(Weak(size=16, padding=0), None, plain, 0)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", ["paper", "default"])
def test_a_backbone_learns_along_unless_its_weights_want_no_gradient(name, learns):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    network = tiny_network().requires_grad_(learns)
    before = states(network)
    settings = replace(quick(name), updates=4)
    found = train_tagger(
        resident(images), image_tags(40), settings, backbone=network, views=tiny_views()
    )
    assert torch.equal(states(network), before)
    assert torch.equal(states(found.net.backbone), before) != learns
    assert found.keep.shape == (100,)
    assert np.isfinite(found.keep).all()
    asked = found.probabilities(resident(images), np.arange(3))
    assert asked.shape == (3, 4)


# What comes of it


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_recipe_trains_answers_and_alters_no_verified_pair(name):
    data = made()
    found = trained(name)
    pairs = data.asserted.nnz
    assert found.keep.shape == found.said.shape == (pairs,)
    assert ((found.keep >= 0) & (found.keep <= 1)).all()
    assert (overruled(found.keep, data.asserted, data.verified) == found.keep).all()
    again = found.keep_probabilities(of_rows(data.features), data.asserted, data.held)
    of_held = np.isin(np.repeat(np.arange(len(data.features)), np.diff(data.asserted.indptr)),
                      data.held)  # fmt: skip
    assert np.isnan(again[~of_held]).all()
    assert np.allclose(again[of_held], found.said[of_held], atol=1e-5)
    said = found.probabilities(of_rows(data.features), data.held)
    at = found.pair_probabilities(of_rows(data.features), data.asserted, data.held)
    rows, columns = np.nonzero(data.asserted.toarray()[data.held])
    assert np.allclose(at[of_held], said[rows, columns], atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_verified_pairs_it_runs_warns_and_keeps_every_tag(name):
    data = made()
    nothing = data._replace(verified=csr_array(data.verified.shape, dtype=np.int8))
    found = trained(name, nothing)
    assert any("No tag is verified" in warning for warning in found.warnings)
    if name not in ("noisy", "misra"):  # which do not clean, and say what they think
        assert (found.keep == 1).all()


def test_people_who_found_all_tags_right_are_warned_of():
    data = made()
    right = data.verified.copy()
    right.data[:] = 1
    found = trained("paper", data._replace(verified=right))
    assert any("verified tags are right" in warning for warning in found.warnings)


def test_what_people_said_of_images_outside_of_the_training_is_not_looked_at():
    data = made()
    told = data.verified.toarray()
    told[data.held] = np.where(data.asserted.toarray()[data.held] > 0, -1, 0)
    one, other = (trained("paper", data._replace(verified=csr_array(v))) for v in
                  (data.verified, told))  # fmt: skip
    assert torch.equal(states(one.net), states(other.net))
    assert np.array_equal(one.keep, other.keep)


def test_tags_that_nobody_verified_are_kept_unless_the_rule_is_absent():
    data = made()
    told = data.verified.toarray()
    told[:, 3] = 0
    unlooked = data._replace(verified=csr_array(told))
    of_three = data.asserted.indices == 3

    def kept(name, rule="noisy"):
        settings = replace(quick(name, unverified=rule), updates=200)
        return trained(settings, unlooked).said[of_three].mean()

    assert kept("default") == 1
    assert kept("paper") > 0.9
    assert kept("paper", "absent") < 0.2


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    class Stopped(Exception):
        pass

    for name in ("default", "paper-pretrained", "clean"):
        settings = quick(name)
        whole = trained(settings)
        for after in (20, 55):
            folder = tmp_path / name / str(after)

            def stop(done, total, after=after):
                if done == after:
                    raise Stopped

            slow = replace(
                settings,
                training=replace(settings.training, checkpoint_minutes=1e-9),
                baseline=replace(settings.baseline, checkpoint_minutes=1e-9),
            )
            with pytest.raises(Stopped):
                trained(slow, folder=folder, progress=stop)
            resumed = trained(settings, folder=folder)
            assert torch.equal(states(resumed.net), states(whole.net))
            assert np.array_equal(resumed.keep, whole.keep)


def test_the_seed_decides_everything_and_no_generator_of_torch_is_moved():
    before = torch.get_rng_state()
    one, again, other = (trained("default", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(one.keep, again.keep)
    assert not np.array_equal(one.keep, other.keep)


def test_progress_rises_to_its_end_and_each_phase_has_its_lines(tmp_path):
    told: list[tuple[int, int]] = []
    trained(
        "default", progress=lambda done, total: told.append((done, total)),
        log=lambda phase: EpochLog(tmp_path / "log.jsonl", phase),
    )  # fmt: skip
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    lines = (tmp_path / "log.jsonl").read_text()
    for phase in ("noisy", "gates-0", "gates", "tagger"):
        assert f'"phase": "{phase}"' in lines


def test_data_that_do_not_fit_are_refused():
    data = made()
    with pytest.raises(DataError, match="tags of 1500 images for a source of 10"):
        train_tagger(data.features[:10], data)
    with pytest.raises(DataError, match="no image to learn from"):
        train_tagger(data.features, data, rows=np.zeros(0, np.int64))
    with pytest.raises(ConfigError, match="needs a backbone and the views"):
        train_tagger(resident(np.zeros((1500, 3, 8, 8), np.uint8)), data)
    with pytest.raises(ConfigError, match="no recipe 'papers'. Did you mean 'paper'"):
        tag_recipe("papers")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VeitTraining(updates=0), "updates is 0"),
        (lambda: VeitTraining(verified_share=1.0), "0 < verified_share < 1"),
        (lambda: VeitTraining(unverified="maybe"), "expected one of noisy, absent, ignore"),
        (lambda: Joint(cleaner_factor=0.0), "cleaner_factor is 0.0; expected a number above 0"),
        (lambda: Joint(n_label=-1), "n_label is -1; expected 0 or more"),
        (lambda: Gated(n_folds=1), "at least 2 parts"),
        (lambda: Gated(sharpness=0.5), "sharpness is 0.5; expected 1 or more"),
        (lambda: Clean(stop_among=()), "expected 0 or more, and numbers of updates"),
        (lambda: Biases(pull=-1.0), "pull is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_cleaner_is_wide_where_there_are_many_tags_and_no_wider_than_the_features():
    shape = Joint().shape(6012, 2048, adaptive=False)
    assert (shape.n_label, shape.n_hidden, shape.straight_through) == (512, 512, False)
    assert Joint().shape(6012, 256, adaptive=False).n_hidden == 256
    assert Joint().shape(24, 512, adaptive=True) == CleanerShape(24, 512, 128, 256, False, True)


# The baselines


def test_refitted_biases_make_tags_as_frequent_as_found_and_order_nothing_anew():
    data = made()
    settings = replace(quick("biases"), objective=Biases(pull=0.0), updates=300)
    found = trained(settings)
    looked = np.flatnonzero(np.diff(data.verified.indptr))
    said = found.probabilities(of_rows(data.features), looked)
    expected = (data.verified.toarray()[looked] > 0).sum(axis=0)
    assert np.allclose(said.sum(axis=0), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.net.tagger.weight, found.baseline.tagger.weight)
    for tag in range(data.truth.shape[1]):
        rows = data.held[data.asserted.toarray()[data.held, tag] > 0]
        scores = [
            average_precision(
                (of_rows_logits(net, data.features[rows])[:, tag]).astype(np.float64),
                data.truth[rows, tag],
            )
            for net in (found.net, found.baseline)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)


def of_rows_logits(net, rows):
    with torch.no_grad():
        features, _ = net(torch.from_numpy(rows))
        return torch.nn.functional.linear(features, net.tagger.weight).numpy()


def test_an_early_stop_gives_what_a_training_of_that_length_gives():
    found = trained("clean")
    assert found.n_updates in (5, 10)
    straight = trained(replace(quick("clean"), objective=Clean(updates=found.n_updates)))
    assert torch.equal(states(found.net), states(straight.net))


def test_misra_learns_how_often_tags_are_named():
    data = made()
    found = trained(replace(quick("misra"), updates=300))
    assert found.relevance is not None
    with torch.no_grad():
        features, _ = found.net(torch.from_numpy(data.features))
        named = found.relevance(features).exp().numpy().mean(axis=0)
    assert np.allclose(named, data.asserted.mean(axis=0), atol=0.05)


def test_decided_probabilities_keep_their_order_and_their_middle():
    p = np.linspace(0, 1, 101).astype(np.float32)
    found = sharpened(p, 4.0)
    assert (np.diff(found) >= 0).all()
    assert found[[0, 50, 100]].tolist() == [0, 0.5, 1]
    assert found[70] > 0.9


# Relations


def test_relations_of_a_linear_cleaner_are_its_slopes():
    data = made()
    cleaner = stirred(LabelCleaner(CleanerShape(12, 24, 8, 8)))
    looked = np.arange(200)
    found = relations(
        cleaner, data.asserted, data.verified, data.features[looked], looked, n_largest=20
    )
    assert len(found) == 20
    slope = (cleaner.output.weight @ cleaner.hidden.weight[:, :8] @ cleaner.tags.weight.T).detach()
    together = np.abs(data.verified.toarray()).T @ (data.asserted.toarray() * (
        np.arange(len(data.features)) < 200)[:, None])  # fmt: skip
    for relation in found:
        assert relation.weight == pytest.approx(
            slope[relation.tag, relation.other].item(), rel=1e-4
        )
        assert relation.n_images == together[relation.tag, relation.other] >= 5
        assert relation.tag != relation.other
    sizes = [abs(relation.weight) for relation in found]
    assert sizes == sorted(sizes, reverse=True)
    allowed = (together >= 5) & ~np.eye(12, dtype=bool)
    assert sizes[0] == pytest.approx(np.abs(slope.numpy())[allowed].max(), rel=1e-4)


@pytest.mark.parametrize("name", ["paper", "default"])
def test_a_tag_that_another_one_rules_out_is_found(name):
    rng = np.random.default_rng(0)
    asserted = rng.random((1200, 6)) < 0.5
    right = asserted.copy()
    right[:, 4] &= ~asserted[:, 2]  # nothing shown tells: only that tag 2 is there
    verified = np.zeros(asserted.shape, np.int8)
    verified[:400] = np.where(asserted[:400], np.where(right[:400], 1, -1), 0)
    tags = SimpleNamespace(
        asserted=csr_array(asserted.astype(np.float32)), verified=csr_array(verified)
    )
    settings = replace(tag_recipe(name), updates=400)
    if name == "default":
        settings = replace(settings, objective=Gated(n_members=2, n_folds=2, passes=8))
    found = train_tagger(rng.normal(size=(1200, 4)).astype(np.float32), tags, settings)
    strongest = found.relations[0]
    assert (strongest.tag, strongest.other) == (4, 2)
    assert strongest.weight < 0
    rows = np.repeat(np.arange(1200), np.diff(tags.asserted.indptr))
    new = (rows >= 400) & (tags.asserted.indices == 4)
    assert ((found.keep[new] > 0.5) == right[rows[new], 4]).mean() > 0.95


# That it helps


@cache
def compared(seed):
    """Average precision over all held pairs, by recipe; and the trainings."""
    data = tagged(seed=seed)
    found = {}
    for name in ("noisy", "mixed", "clean", "paper", "biases", "default"):
        settings = replace(tag_recipe(name), updates=600)
        if name == "default":
            objective = Gated(n_members=3, n_label=32, n_hidden=32, n_folds=3, n_taggers=0)
            settings = replace(settings, objective=objective)
        if name == "clean":
            settings = replace(settings, objective=Clean(stop_among=(50, 200, 800)))
        found[name] = trained(settings, data, seed=seed)
    scores = {
        name: score(data, each.probabilities(of_rows(data.features), data.held))
        for name, each in found.items()
    }
    return data, found, scores


def test_a_cleaner_helps_more_than_verified_images_alone_or_mixed_in():
    data, found, scores = compared(0)
    assert scores["paper"] > scores["mixed"] + 1 > scores["noisy"] + 1
    assert scores["default"] > scores["mixed"] + 1
    assert recall(data, found["paper"].said) > 60
    assert recall(data, found["default"].said) > 80


def test_gates_say_how_likely_tags_are_right():
    data, found, _ = compared(0)
    rows = np.repeat(np.arange(len(data.truth)), np.diff(data.asserted.indptr))
    of_held = np.isin(rows, data.held)
    said, right = found["default"].said[of_held], data.truth[rows, data.asserted.indices][of_held]
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1.01)):
        inside = (said >= low) & (said < high)
        assert said[inside].mean() == pytest.approx(right[inside].mean(), abs=0.08)
    spread = found["default"].cross_fitted
    known = ~np.isnan(spread)
    assert known.sum() == data.verified.nnz
    looked = data.truth[rows, data.asserted.indices][known]
    loss = -np.mean(np.log(np.where(looked, spread[known], 1 - spread[known])))
    assert loss < -np.mean(np.log(np.where(looked, looked.mean(), 1 - looked.mean()))) - 0.1


def test_without_constant_targets_the_tagger_collapses(monkeypatch):
    data, found, scores = compared(0)

    def unstopped(own, cleaner, settings):
        proper = joint_step(own, cleaner, settings)

        def step(batch):
            values = proper(batch)
            rows = batch.rows.numpy()
            features, logits = own.shown(batch)
            cleaned = cleaner(own.tags(own.asserted, rows), features)
            leak = (nn.functional.softplus(logits.detach()) - cleaned * logits.detach()).sum()
            return {**values, "loss": values["loss"] + leak / len(rows)}

        return step

    monkeypatch.setattr(joint_module, "joint_step", unstopped)
    collapsed = trained(replace(tag_recipe("paper"), updates=600), data)
    said = collapsed.probabilities(of_rows(data.features), data.held)
    assert score(data, said) < scores["paper"] - 5
    assert recall(data, collapsed.said) < recall(data, found["paper"].said) - 2


def test_where_few_tags_are_false_a_cleaner_does_no_harm():
    data = tagged(most_false=0.25, least_false=0.02, seed=1)
    scores = {
        name: score(data, trained(replace(tag_recipe(name), updates=600), data).probabilities(
            of_rows(data.features), data.held))
        for name in ("noisy", "mixed", "paper")
    }  # fmt: skip
    assert scores["paper"] > scores["noisy"] - 0.3
    assert scores["mixed"] > scores["noisy"] - 0.3
