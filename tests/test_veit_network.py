"""Cleaners and taggers: against loops, and what must hold of any weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch import nn

import reference_veit as slow
from labelsieve.errors import ConfigError
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.tag_batch import pair_places, tag_batch
from labelsieve.features.tag_heads import (
    CleanerShape,
    GateCleaner,
    GateShape,
    LabelCleaner,
    Tagger,
    widest,
)
from labelsieve.features.weights import drawn_from
from labelsieve.methods.veit.network import TagNet
from made_colors import tiny_network

N, TAGS, DIM = 6, 7, 5


def drawn(module, seed=0):
    """With weights that say something, also where they are zero at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return module


def cleaner(seed=0, **options):
    return drawn(LabelCleaner(CleanerShape(TAGS, DIM, 3, 4, **options)), seed)


def gates(seed=0, **options):
    return drawn(GateCleaner(GateShape(TAGS, DIM, 3, 4, n_members=2, **options)), seed)


def asserted(seed=0, share=0.4):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((N, TAGS)) < share).astype(np.float32)
    matrix[2] = 0  # an image without tags
    return matrix


def batch(matrix):
    return tag_batch(csr_array(matrix), np.arange(len(matrix)))


def features(seed=0):
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(seed))


# Sparse tags


@given(st.integers(0, 2**32), st.lists(st.integers(0, N - 1), min_size=1, max_size=9))
def test_a_batch_of_tags_is_the_rows_of_the_matrix(seed, rows):
    matrix = csr_array(asserted(seed % 1000) * 0.5)
    rows = np.array(rows)
    found = tag_batch(matrix, rows)
    assert (found.dense().numpy() == matrix.toarray()[rows]).all()
    assert found.columns.dtype == found.offsets.dtype == torch.int32
    assert (matrix.data[pair_places(matrix, rows)] == found.values.numpy()).all()


# The paper's cleaner


@pytest.mark.parametrize("relu", [False, True])
def test_the_cleaner_is_its_formula(relu):
    module, seen, matrix = cleaner(relu=relu), features(), asserted()
    weights = {
        "tags": (module.tags.weight.T.tolist(), module.tags.bias.tolist()),
        **{name: (layer.weight.tolist(), layer.bias.tolist()) for name, layer in
           (("features", module.features), ("hidden", module.hidden), ("output", module.output))},
    }  # fmt: skip
    expected = [
        slow.cleaned(weights, y, f, relu=relu)
        for y, f in zip(matrix.tolist(), seen.tolist(), strict=True)
    ]
    for straight in (False, True):
        other = LabelCleaner(CleanerShape(TAGS, DIM, 3, 4, relu, straight))
        other.load_state_dict(module.state_dict())
        with torch.no_grad():
            assert np.allclose(other(batch(matrix), seen), expected, atol=1e-5)
        assert np.allclose(other(batch(matrix), seen).detach(), expected, atol=1e-5)


def test_a_new_cleaner_leaves_all_tags_as_they_are_to_the_bit():
    with drawn_from(3):
        module = LabelCleaner(CleanerShape(TAGS, DIM, 3, 4, relu=True))
    for matrix in (asserted(), np.zeros((N, TAGS), np.float32), np.ones((N, TAGS), np.float32)):
        assert (module(batch(matrix), features()).detach().numpy() == matrix).all()


def test_confidences_are_what_the_cleaner_starts_from():
    matrix = asserted() * 0.75
    assert (LabelCleaner(CleanerShape(TAGS, DIM, 3, 4))(batch(matrix), features()) ==
            torch.from_numpy(matrix)).all()  # fmt: skip


def test_summing_the_rows_of_asserted_tags_is_the_product_with_all_of_them():
    rng = np.random.default_rng(0)
    matrix = (rng.random((40, 300)) < 0.03).astype(np.float32)
    module = drawn(LabelCleaner(CleanerShape(300, DIM, 16, 8)))
    dense = torch.from_numpy(matrix) @ module.tags.weight + module.tags.bias
    assert (module.tags(batch(matrix)) - dense).abs().max() < 1e-5


def test_the_published_sizes_have_as_many_weights_as_counted():
    module = LabelCleaner(CleanerShape(6012, 2048, 512, 512))
    counts = {name: sum(w.numel() for w in part.parameters())
              for name, part in module.named_children()}  # fmt: skip
    assert counts == {"tags": 3_078_656, "features": 1_049_088, "hidden": 524_800,
                      "output": 3_084_156}  # fmt: skip
    assert sum(counts.values()) == 7_736_700
    assert sum(w.numel() for w in Tagger(2048, 6012).parameters()) == 12_318_588
    assert len(list(module.parameters())) == 8


def permuted(module, order):
    """The same module with its tags in another order."""
    state = dict(module.state_dict())
    for name in ("tags.weight", "output.weight", "output.bias", "output", "output_bias"):
        if name in state:
            state[name] = state[name][order]
    other = type(module)(module.settings)
    other.load_state_dict(state)
    return other


def test_another_order_of_tags_is_another_order_of_answers():
    order, matrix = np.random.default_rng(0).permutation(TAGS), asserted()
    module = cleaner()
    found = permuted(module, order)(batch(matrix[:, order]), features())
    assert torch.allclose(found, module(batch(matrix), features())[:, order], atol=1e-6)
    both = gates()
    dense = lambda tags, said: csr_array(  # noqa: E731
        (said.detach()[0].numpy(), (tags.rows, tags.columns)), shape=matrix.shape
    ).toarray()
    one, other = batch(matrix), batch(np.ascontiguousarray(matrix[:, order]))
    before = dense(one, both(one, features(), torch.zeros(len(one.values))))
    after = dense(other, permuted(both, order)(other, features(), torch.zeros(len(one.values))))
    assert np.allclose(after, before[:, order], atol=1e-6)


def test_a_tag_that_no_image_has_changes_no_other():
    module, matrix = cleaner(), asserted()
    wider = LabelCleaner(CleanerShape(TAGS + 1, DIM, 3, 4))
    state = {name: value.clone() for name, value in wider.state_dict().items()}
    for name, value in module.state_dict().items():
        state[name][: len(value)] = value
    wider.load_state_dict(state)
    more = np.concatenate([matrix, np.zeros((N, 1), np.float32)], axis=1)
    found = wider(batch(more), features())[:, :TAGS]
    assert torch.allclose(found, module(batch(matrix), features()), atol=1e-6)


# The gates


def test_each_gate_is_its_formula_at_the_asserted_pairs():
    module, seen, matrix = gates(), features(), asserted()
    tags = batch(matrix)
    logits = torch.randn(len(tags.values), generator=torch.Generator().manual_seed(1))
    found = module(tags, seen, logits)
    assert found.shape == (2, len(tags.values))
    for member in range(2):
        own = slice(3 * member, 3 * member + 3)
        weights = {
            "tags": (module.tags.weight[:, own].T.tolist(), module.tags.bias[own].tolist()),
            "features": (module.features.weight[own].tolist(), module.features.bias[own].tolist()),
            "hidden": (module.hidden[member].T.tolist(), module.hidden_bias[member, 0].tolist()),
            "output": (module.output[:, member].tolist(), module.output_bias[:, member].tolist()),
            "scale": module.scale[member].item(),
        }
        expected = [
            slow.gate(weights, matrix[row].tolist(), seen[row].tolist(), tag, logit)
            for row, tag, logit in zip(tags.rows, tags.columns, logits.tolist(), strict=True)
        ]
        assert found[member].tolist() == pytest.approx(expected, abs=1e-5)


def test_new_gates_say_what_the_tagger_says():
    module, tags = GateCleaner(GateShape(TAGS, DIM, 3, 4)), batch(asserted())
    logits = torch.linspace(-3, 3, len(tags.values))
    assert torch.allclose(module.probability(tags, features(), logits), logits.sigmoid(), atol=1e-6)


def test_the_gates_say_together_the_mean_of_what_they_say_stretched():
    module, tags = gates(), batch(asserted())
    logits = torch.zeros(len(tags.values))
    mean = module(tags, features(), logits).sigmoid().mean(dim=0)
    assert torch.allclose(module.probability(tags, features(), logits), mean, atol=1e-6)
    module.slope.fill_(0.5)
    module.shift.fill_(0.2)
    expected = (0.5 * mean.logit() + 0.2).sigmoid()
    assert torch.allclose(module.probability(tags, features(), logits), expected, atol=1e-6)


def test_gates_learn_apart():
    module, tags = gates(), batch(asserted())
    said = module(tags, features(), torch.zeros(len(tags.values)))
    said[0].sum().backward()
    assert module.hidden.grad[0].abs().sum() > 0
    assert module.hidden.grad[1].abs().sum() == 0
    assert module.output.grad[:, 1].abs().sum() == 0


def test_gates_that_see_few_directions_do_not_see_what_is_across_them():
    rows = features().numpy()
    center, directions = widest(rows, 2)
    module, tags = gates(n_seen=2).look_along(center, directions), batch(asserted())
    logits = torch.zeros(len(tags.values))
    across = torch.linalg.qr(directions, mode="complete")[0][:, 2:]  # (D, D - 2)
    moved = features() + (across @ torch.ones(DIM - 2))
    assert torch.allclose(module(tags, moved, logits), module(tags, features(), logits), atol=1e-5)
    along = features() + directions[:, 0]
    assert not torch.allclose(module(tags, along, logits), module(tags, features(), logits))
    assert module.features.weight.shape[1] == 2


def test_the_widest_directions_come_first_have_unit_deviation_and_hang_on_no_sign():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 3)) * [1, 5, 0] + [7, 8, 9]).astype(np.float32)
    center, directions = widest(rows, 3)
    assert np.allclose(center, rows.mean(axis=0), atol=1e-5)
    turned = (torch.from_numpy(rows) - center) @ directions
    assert turned.std(dim=0, correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-3)
    assert abs(np.corrcoef(turned[:, 0], rows[:, 1])[0, 1]) > 0.999
    mirrored = widest((2 * rows.mean(axis=0) - rows).astype(np.float32), 3)[1]
    assert torch.allclose(mirrored[:, :2], directions[:, :2], atol=1e-4)


def test_what_gates_drop_hangs_on_the_generator_alone_and_not_outside_of_training():
    module, tags = gates(dropout=0.5), batch(asserted())
    logits = torch.zeros(len(tags.values))

    def said(seed):
        return module(tags, features(), logits, torch.Generator().manual_seed(seed))

    assert torch.equal(said(0), said(0))
    assert not torch.equal(said(0), said(1))
    module.eval()
    assert torch.equal(said(0), said(1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CleanerShape(n_hidden=0), "n_hidden is 0; at least 1 is needed"),
        (lambda: GateShape(n_members=0), "n_members is 0; at least 1 is needed"),
        (lambda: GateShape(n_features=4, n_seen=5), "n_seen is 5; expected 0 to 4"),
        (lambda: GateShape(dropout=1.0), "dropout is 1.0; expected 0 <= dropout < 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# The tagger, and networks on disk


def test_a_new_tagger_says_how_frequent_tags_are():
    tagger = Tagger(DIM, 3).start_at(np.array([0.5, 0.25, 0.0]))
    said = tagger(features()).sigmoid()
    assert torch.allclose(said, torch.tensor([0.5, 0.25, 1e-4]).expand(N, 3), atol=1e-6)


@pytest.mark.parametrize(
    "make", [cleaner, gates, lambda: gates(n_seen=2), lambda: drawn(Tagger(DIM, TAGS))]
)
def test_networks_are_saved_and_read_again(make, tmp_path):
    module = make()
    save_network(tmp_path, module, {"tags": ["a"]})
    found, about = load_network(tmp_path)
    assert type(found) is type(module)
    assert found.settings == module.settings
    assert about == {"tags": ["a"]}
    for name, value in module.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_a_tagger_needs_a_backbone_of_its_width():
    with pytest.raises(ConfigError, match="takes 5 features and Rows gives 4"):
        TagNet(Rows(4), Tagger(DIM, TAGS))


def test_a_backbone_that_does_not_learn_stays_in_evaluation_mode():
    frozen = TagNet(tiny_network().requires_grad_(False), Tagger(16, 3)).train()
    learning = TagNet(tiny_network(), Tagger(16, 3)).train()
    modes = [net.backbone.training for net in (frozen, learning)]
    assert modes == [False, True]
    assert frozen.twin().backbone is frozen.backbone
    assert learning.twin().backbone is not learning.backbone
    assert not any(isinstance(w, nn.Parameter) and w.requires_grad
                   for w in learning.twin().parameters())  # fmt: skip
