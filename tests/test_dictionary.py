"""Dictionary features: each step against a slow twin or a property, the whole on pictures."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.config import override, overrides
from labelsieve.data.augment import Contrastive
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.closed_form import Moments, invariant_directions, principal_directions
from labelsieve.features.dictionary import (
    CHUNK,
    Dictionary,
    DictionaryModel,
    Views,
    fit,
    unit_rows,
)
from labelsieve.features.patches import Patches, learn_patches, normalized_patches

SMALL = Dictionary(
    image_size=16,
    patches=Patches(n_atoms=24, n_images=200, n_patches=4000, n_rounds=4),
    n_pca_images=300,
    n_components=64,
    n_view_images=300,
    n_dimensions=16,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Upright stripes, lying stripes, and a blob, in turn; place and color at random."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    pixels = np.empty((n, 3, size, size), np.uint8)
    for row in range(n):
        phase, color = rng.random(2), rng.uniform(0.3, 1, (3, 1, 1))
        wave = [
            np.sin(2 * np.pi * (4 * x + phase[0])),
            np.sin(2 * np.pi * (4 * y + phase[0])),
            2 * np.exp(-20 * ((x - phase[0]) ** 2 + (y - phase[1]) ** 2)) - 1,
        ][row % 3]
        pixels[row] = np.clip(127 + 100 * wave * color + rng.normal(0, 8, (3, size, size)), 0, 255)
    return pixels


# patches


def slow_patches(image: np.ndarray, size: int, stride: int, floor: float) -> list[list[float]]:
    """Place by place, the values in order y, x, channel, less their mean, over their deviation."""
    result = []
    side = image.shape[1]
    for top in range(0, side - size + 1, stride):
        for left in range(0, side - size + 1, stride):
            values = [
                float(image[channel, top + y, left + x])
                for y in range(size)
                for x in range(size)
                for channel in range(3)
            ]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            result.append([(value - mean) / math.sqrt(variance + floor) for value in values])
    return result


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 5),
    stride=st.integers(1, 3),
    side=st.integers(5, 8),
)
def test_patches_are_every_window_less_its_mean_over_its_deviation(seed, size, stride, side):
    image = np.random.default_rng(seed).integers(0, 256, (3, side, side)).astype(np.float32)
    found = normalized_patches(
        torch.from_numpy(image)[None], Patches(size=size, stride=stride), torch.float32
    )
    expected = np.array(slow_patches(image, size, stride, 10.0))
    np.testing.assert_allclose(found.flatten(0, 2).numpy(), expected, atol=2e-4)


def test_codes_are_the_square_roots_of_mean_answers_above_the_threshold_in_each_quarter():
    settings = Patches(n_atoms=5, n_images=20, n_patches=500)
    images = torch.from_numpy(scenes(20)).float()
    coder = learn_patches(images, settings, torch.float32, generator())
    codes = coder.encode(images[:2]).numpy()
    assert codes.shape == (2, coder.n_codes) == (2, 2 * 5 * 4)
    for image, code in zip(images[:2].numpy(), codes, strict=True):
        patches = np.array(slow_patches(image, 6, 2, 10.0))
        answers = (patches @ coder.weights.numpy() + coder.bias.numpy()).reshape(6, 6, 5)
        quarters = [answers[y : y + 3, x : x + 3].reshape(9, 5) for y in (0, 3) for x in (0, 3)]
        for sign, part in ((1, code[:20]), (-1, code[20:])):
            expected = [np.maximum(sign * each - 1, 0).mean(0) for each in quarters]  # (4, 5)
            np.testing.assert_allclose(part.reshape(5, 4), np.sqrt(expected).T, atol=2e-3)


def test_codes_do_not_change_with_brightness_and_hardly_with_contrast():
    images = torch.from_numpy(scenes(60)).float()
    coder = learn_patches(images, SMALL.patches, torch.float32, generator())
    plain = coder.encode(images * 0.5)
    assert torch.allclose(coder.encode(images * 0.5 + 60), plain, atol=1e-2)
    assert (coder.encode(images * 0.9 + 10) - coder.encode(images)).abs().mean() < 0.02


def test_images_of_one_color_all_get_the_same_row():
    pixels = np.empty((20, 3, SMALL.image_size, SMALL.image_size), np.uint8)
    pixels[:] = np.array([10, 200, 30])[:, None, None]
    values = fit(pixels, SMALL).transform(pixels)
    assert np.isfinite(values).all()
    assert np.array_equal(values, np.broadcast_to(values[0], values.shape))


def test_whitened_patches_of_the_dictionary_have_nearly_equal_variance_in_all_directions():
    images = torch.from_numpy(scenes(200)).float()
    settings = dataclasses.replace(SMALL.patches, n_atoms=400, whitening_floor=1e-4)
    coder = learn_patches(images, settings, torch.float32, generator())
    patches = normalized_patches(images, settings, torch.float32).flatten(0, 2)
    # columns are a unit vector times the whitening: variance about 1, mean 0
    answers = patches @ coder.weights + coder.bias
    assert answers.mean(0).abs().max() < 0.1
    assert answers.var(0).median().item() == pytest.approx(1, abs=0.15)


# views


def test_few_images_get_many_views_each_and_many_images_few():
    assert [Views().each(n) for n in (1, 6250, 20_000, 50_000, 10**7)] == [16, 16, 10, 4, 4]


def test_views_are_contrastive_views_of_these_strengths():
    strengths = {
        "smallest_crop": 0.3, "aspect": 1.5, "brightness": 0.1, "contrast": 0.2, "saturation": 0.3,
        "hue": 0.05, "jitter_rate": 0.6, "gray_rate": 0.7,
    }  # fmt: skip
    assert Views(**strengths).recipe(16) == Contrastive(size=16, **strengths)


def test_views_that_change_nothing_but_the_side_give_every_view_the_same_features():
    still = Views(smallest_crop=1, aspect=1, jitter_rate=0, gray_rate=0)
    agreement = fit(scenes(300), dataclasses.replace(SMALL, views=still)).agreement
    assert agreement[:8].min() > 0.9
    assert agreement[:8].mean() > fit(scenes(300), SMALL).agreement[:8].mean()


# the closed form


@given(seed=st.integers(0, 1000), n=st.integers(2, 40), chunk=st.integers(1, 10))
def test_moments_of_chunks_are_the_moments_of_all(seed, n, chunk):
    rows = np.random.default_rng(seed).normal(3, 2, (n, 4))
    moments = Moments(torch.full((4,), 2.5))
    for first in range(0, n, chunk):
        moments.add(torch.from_numpy(rows[first : first + chunk]).float())
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), atol=1e-4)


@given(seed=st.integers(0, 200))
def test_principal_directions_are_the_leading_eigenvectors(seed):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    variances = 0.5 ** np.arange(200)
    covariance = torch.from_numpy((basis * variances) @ basis.T)
    found = principal_directions(covariance, 5, generator(seed))
    np.testing.assert_allclose(found.values, variances[:5], rtol=1e-6)
    np.testing.assert_allclose(
        np.abs(np.diag(basis[:, :5].T @ found.vectors.numpy())), 1, atol=1e-6
    )


@given(seed=st.integers(0, 500), n_views=st.integers(2, 6))
def test_invariant_directions_recover_what_views_share(seed, n_views):
    """Views x = A (s + e): the share var(s) / var(s + e) of a source is its correlation."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.9, 0.6, 0.3, 0.1])
    mixing = rng.normal(size=(4, 4)) + 2 * np.eye(4)
    views = mixing @ mixing.T
    means = mixing @ np.diag(shares + (1 - shares) / n_views) @ mixing.T
    found = invariant_directions(
        torch.from_numpy(views), torch.from_numpy(means), n_views, 3, 1e-12
    )
    np.testing.assert_allclose(found.values, shares[:3], atol=1e-6)
    whitened = found.vectors.T.numpy() @ views @ found.vectors.numpy()
    np.testing.assert_allclose(whitened, np.eye(3), atol=1e-6)


def test_agreement_is_never_below_zero_nor_above_one():
    views = torch.eye(3)
    means = torch.diag(torch.tensor([0.01, 0.5, 3.0]))  # below, at and above what can be
    values = invariant_directions(views, means, 2, 3, 1e-9).values
    assert values.tolist() == pytest.approx([1, 0, 0], abs=1e-6)


# the whole


@pytest.fixture(scope="module")
def model() -> DictionaryModel:
    return fit(scenes(300), SMALL)


def test_features_are_unit_rows_that_tell_kinds_of_picture_apart(model):
    pixels = scenes(120, seed=5)  # none of them seen before
    features = model.transform(pixels)
    assert features.shape == (120, 16)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    similarity = features @ features.T - 2 * np.eye(120)
    kinds = np.arange(120) % 3
    assert (kinds[similarity.argmax(1)] == kinds).mean() > 0.95


def test_directions_come_in_order_of_agreement(model):
    assert (model.agreement.diff() <= 1e-6).all()
    assert 0.5 < model.agreement[0] <= 1


def test_an_image_and_its_mirror_image_have_the_same_features(model):
    pixels = scenes(9, seed=3)
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_allclose(model.transform(pixels), model.transform(mirrored), atol=1e-3)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(model):
    pixels = scenes(40, seed=2)
    again = fit(scenes(300), SMALL).transform(pixels)
    assert np.array_equal(model.transform(pixels), again)
    assert not np.array_equal(fit(scenes(300), SMALL, seed=1).transform(pixels), again)


def test_rows_picks_images_without_a_copy_of_the_rest(model):
    pixels, rows = scenes(30), np.array([4, 20, 7])
    assert np.array_equal(model.transform(pixels, rows), model.transform(pixels[rows]))
    picked = fit(scenes(300), SMALL, rows=np.arange(0, 300, 2))
    assert np.array_equal(picked.transform(pixels), fit(scenes(300)[::2], SMALL).transform(pixels))


def test_pieces_cut_at_multiples_of_the_chunk_give_the_same_bits(model):
    pixels = scenes(CHUNK + 50)
    whole = model.transform(pixels)
    pieces = [model.transform(pixels[:CHUNK]), model.transform(pixels[CHUNK:])]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_a_model_is_saved_and_loaded_bit_for_bit(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    loaded = DictionaryModel.load(tmp_path / "model.safetensors")
    assert loaded.settings == model.settings
    pixels = scenes(20)
    assert np.array_equal(loaded.transform(pixels), model.transform(pixels))


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(
        DataError, match=r"model\.safetensors: cannot be read as a dictionary model"
    ):
        DictionaryModel.load(path)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_handful_of_images_is_enough(n):
    pixels = scenes(n)
    features = fit(pixels, SMALL).transform(pixels)
    assert features.shape[1] == max(1, min(16, n - 1))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_images_of_one_color_are_all_alike(value):
    pixels = np.full((20, 3, 16, 16), value, np.uint8)
    features = fit(pixels, SMALL).transform(pixels)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features @ features.T, 1, atol=1e-5)


def test_a_constant_image_among_others_gets_a_finite_row(model):
    pixels = np.zeros((3, 3, 16, 16), np.uint8)
    pixels[1] = 255
    features = model.transform(pixels)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(features[0], features[1], atol=1e-4)


def test_gray_images_are_told_apart():
    pixels = scenes(120)[:, :1].repeat(3, 1)
    features = fit(pixels, SMALL).transform(pixels)
    similarity = features @ features.T - 2 * np.eye(120)
    kinds = np.arange(120) % 3
    assert (kinds[similarity.argmax(1)] == kinds).mean() > 0.95


@pytest.mark.parametrize("size", [16, 23, 40])
def test_any_image_size_works(size):
    pixels = scenes(30, size)
    features = fit(pixels, dataclasses.replace(SMALL, image_size=size)).transform(pixels)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_progress_ends_at_its_total():
    told: list[tuple[int, int]] = []
    model = fit(scenes(50), SMALL, progress=lambda *both: told.append(both))
    assert told[-1] == (50 + 16 * 50, 50 + 16 * 50)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    told.clear()
    model.transform(scenes(50), progress=lambda *both: told.append(both))
    assert told[-1] == (50, 50)


def test_rows_without_length_become_the_first_axis():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert unit_rows(rows).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [1.0, 0.0]]


def test_pixels_of_another_shape_or_type_are_refused(model):
    with pytest.raises(
        DataError, match=r"pixels are uint8 of shape \(2, 3, 32, 32\).*decode_images"
    ):
        model.transform(np.zeros((2, 3, 32, 32), np.uint8))
    with pytest.raises(DataError, match="pixels are float64"):
        fit(np.zeros((2, 3, 16, 16)), SMALL)
    with pytest.raises(DataError, match="there are no images to learn features from"):
        fit(np.zeros((0, 3, 16, 16), np.uint8), SMALL)


def test_settings_out_of_range_are_refused():
    with pytest.raises(
        ConfigError, match="image_size is 7; patches of 6 pixels in 2 x 2 cells need at least 8"
    ):
        Dictionary(image_size=7)
    with pytest.raises(ConfigError, match=r"patches\.n_atoms is 0; at least 1 is needed"):
        Patches(n_atoms=0)
    with pytest.raises(ConfigError, match=r"views\.least is 1 and views\.most 16; expected 2 <="):
        Views(least=1)
    with pytest.raises(ConfigError, match=r"^views\.smallest_crop is 0; it lies in \(0, 1\]"):
        Views(smallest_crop=0)
    with pytest.raises(ConfigError, match=r"^views\.hue is 0\.7; it lies in \[0, 0\.5\]"):
        Views(hue=0.7)
    with pytest.raises(ConfigError, match="ridge is 0"):
        Dictionary(ridge=0)


def test_the_digest_changes_with_any_setting():
    changes = ["image_size=48", "patches.n_atoms=10", "views.hue=0.2", "agreement_power=1"]
    digests = {override(Dictionary(), change).digest() for change in changes}
    assert len(digests | {Dictionary().digest()}) == 5
    assert Dictionary().digest() == Dictionary().digest()


def test_bfloat16_and_float32_agree_to_two_digits(monkeypatch):
    pixels = scenes(150)
    usual = fit(pixels, SMALL).transform(pixels)
    monkeypatch.setattr("labelsieve.features.dictionary.code_dtype", lambda device: torch.float32)
    exact = fit(pixels, SMALL).transform(pixels)
    np.testing.assert_allclose(usual @ usual.T, exact @ exact.T, atol=0.1)


@pytest.mark.slow
def test_features_of_ten_thousand_real_images_beat_what_pixels_say(shared_data):
    """A tenth of benchmarks/features.py: on all of CIFAR-10 accuracy is 67 % and purity 52 %."""
    from labelsieve.data.decode import decode_images
    from labelsieve.data.read import read

    images = read(shared_data / "cifar10/test.parquet", label="label")
    pixels = decode_images(images, 32, threads=1).values
    settings = overrides(Dictionary(), ["patches.n_atoms=200", "n_components=768", "views.most=4"])
    features = fit(pixels, settings).transform(pixels)
    near = torch.from_numpy(features @ features.T - 2 * np.eye(10_000, dtype=np.float32)).topk(20)
    purity = (images.labels[near.indices.numpy()] == images.labels[:, None]).mean()
    assert purity > 0.38  # of raw pixels it is 0.2
