"""From an image set to Features: by dictionary, by network, or from a file of the user's own."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from labelsieve.data.decode import decode_images
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, MissingExtraError, NumericError
from labelsieve.features import extract as extract_module
from labelsieve.features.backbones import IMAGENET_MEAN, Backbone, load_timm, wrap
from labelsieve.features.dictionary import Dictionary, DictionaryModel
from labelsieve.features.extract import dictionary_features, extract, load_features, transformed
from labelsieve.features.patches import Patches
from labelsieve.records import Features, ImageSet

SMALL = Dictionary(
    image_size=12,
    patches=Patches(n_atoms=8, n_patches=500, n_rounds=2),
    n_components=16,
    n_dimensions=8,
)


def make_set(folder: Path, n: int = 12, broken: tuple[int, ...] = ()) -> ImageSet:
    """n pictures 00.png, 01.png, ... of noise in a flat folder, some of them no pictures at all."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for row in range(n):
        path = folder / f"{row:02d}.png"
        if row in broken:
            path.write_bytes(b"not a picture")
        else:
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return read(folder)


class Means(nn.Module):
    """Each channel's mean and maximum: features that can be checked by hand."""

    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], dim=1)


def plain(module: nn.Module, size: int = 12) -> Backbone:
    return Backbone(module, size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test network")


def expected_means(images: ImageSet) -> np.ndarray:
    pixels = decode_images(images, 12, threads=1).values / 255
    rows = np.concatenate([pixels.mean((2, 3)), pixels.max((2, 3))], axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# by dictionary


def test_dictionary_features_have_a_row_for_each_image_in_order(tmp_path):
    images = make_set(tmp_path / "set")
    features = dictionary_features(images, decode_images(images, 12), SMALL)
    assert features.ids == images.ids
    np.testing.assert_allclose(np.linalg.norm(features.values, axis=1), 1, atol=1e-5)


def test_broken_images_have_no_row_and_no_influence(tmp_path):
    images = make_set(tmp_path / "set", broken=(0, 5))
    features = dictionary_features(images, decode_images(images, 12), SMALL)
    assert features.ids == tuple(name for name in images.ids if name not in ("00.png", "05.png"))
    whole = images.take(np.array([row for row in range(12) if row not in (0, 5)]))
    without = dictionary_features(whole, decode_images(whole, 12), SMALL)
    assert np.array_equal(features.values, without.values)


def test_made_by_changes_with_settings_seed_and_images_and_with_nothing_else(tmp_path):
    images = make_set(tmp_path / "set")
    pixels = decode_images(images, 12)
    first = dictionary_features(images, pixels, SMALL).made_by
    assert dictionary_features(images, pixels, SMALL).made_by == first
    assert SMALL.digest() in first
    assert images.fingerprint() in first
    others = {
        dictionary_features(images, pixels, SMALL, seed=1).made_by,
        dictionary_features(
            images, pixels, Dictionary(image_size=12, patches=SMALL.patches)
        ).made_by,
    }
    Image.new("RGB", (12, 12)).save(tmp_path / "set/03.png")
    images = read(tmp_path / "set")
    others.add(dictionary_features(images, decode_images(images, 12), SMALL).made_by)
    assert len(others | {first}) == 4


def test_a_killed_dictionary_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(extract_module, "_CHUNK", 4)
    images = make_set(tmp_path / "set")
    pixels = decode_images(images, 12)
    whole = dictionary_features(images, pixels, SMALL)
    calls = 0
    transform = DictionaryModel.transform

    def dies(self, *args, **named):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return transform(self, *args, **named)

    path = tmp_path / "rows.npy"
    monkeypatch.setattr(DictionaryModel, "transform", dies)
    with pytest.raises(KeyboardInterrupt):
        dictionary_features(images, pixels, SMALL, path=path)
    monkeypatch.setattr(extract_module.dictionary, "fit", None)  # the fit is not done again
    resumed = dictionary_features(images, pixels, SMALL, path=path)
    assert calls == 4  # two pieces were there, the third was done again
    assert np.array_equal(resumed.values, whole.values)
    assert resumed.made_by == whole.made_by


def test_what_is_on_disk_of_other_settings_is_not_used(tmp_path):
    images = make_set(tmp_path / "set")
    pixels = decode_images(images, 12)
    path = tmp_path / "rows.npy"
    dictionary_features(images, pixels, SMALL, path=path)
    other = dictionary_features(images, pixels, SMALL, seed=1, path=path)
    assert np.array_equal(other.values, dictionary_features(images, pixels, SMALL, seed=1).values)


def test_a_run_killed_while_it_overwrites_another_leaves_nothing_to_be_taken_for_either(
    tmp_path, monkeypatch
):
    images = make_set(tmp_path / "set")
    pixels = decode_images(images, 12)
    path = tmp_path / "rows.npy"
    first = dictionary_features(images, pixels, SMALL, path=path).values.copy()

    def dies(*args, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DictionaryModel, "transform", dies)
        with pytest.raises(KeyboardInterrupt):
            dictionary_features(images, pixels, SMALL, seed=1, path=path)
    again = dictionary_features(images, pixels, SMALL, path=path)
    assert np.array_equal(again.values, first)


def test_a_set_of_broken_images_only_is_named_with_a_reason(tmp_path):
    images = make_set(tmp_path / "set", n=2, broken=(0, 1))
    with pytest.raises(DataError, match=r"none of 2 images can be decoded, such as '00\.png': "):
        dictionary_features(images, decode_images(images, 12), SMALL)
    with pytest.raises(DataError, match=r"none of 2 images can be decoded, such as '00\.png': "):
        extract(images, plain(Means()))


def test_progress_of_the_dictionary_rises_to_its_total(tmp_path):
    images = make_set(tmp_path / "set")
    told: list[tuple[int, int]] = []
    dictionary_features(
        images, decode_images(images, 12), SMALL, progress=lambda *both: told.append(both)
    )
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


class Told:
    """What was fitted, and gives rows by where it comes from."""

    n_dimensions = 1

    def __init__(self, value: float) -> None:
        self.value = value

    def transform(self, pixels, rows=None, *, progress=None):
        return np.full((len(rows), 1), self.value, np.float32)

    def save(self, path: Path) -> None:
        path.write_text("saved")


def test_what_was_fitted_just_now_is_used_as_an_interrupted_run_would_find_it(tmp_path):
    images = make_set(tmp_path / "set", n=3)
    pixels = decode_images(images, 12)
    made = transformed(
        images, pixels, "by a test", lambda tell: Told(-1.0), lambda path: Told(1.0), n_fitted=0,
        path=tmp_path / "rows.npy",
    )  # fmt: skip
    assert made.values.tolist() == [[1.0]] * 3


# by a network


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_a_network_sees_pixels_between_0_and_1_less_its_mean_over_its_deviation(
    tmp_path, batch_size
):
    images = make_set(tmp_path / "set")
    features = extract(images, plain(Means()), batch_size=batch_size)
    assert features.ids == images.ids
    np.testing.assert_allclose(features.values, expected_means(images), atol=1e-5)
    shifted = Backbone(Means(), 12, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shifted")
    rows = extract(images, shifted).values
    raw = decode_images(images, 12).values / 255 * 2 - 1
    np.testing.assert_allclose(
        rows[:, 0] / rows[:, 3], raw.mean((2, 3))[:, 0] / raw.max((2, 3))[:, 0], atol=1e-4
    )


def test_a_network_gives_no_row_to_broken_images(tmp_path):
    images = make_set(tmp_path / "set", broken=(0, 1, 7))
    features = extract(images, plain(Means()), batch_size=2)
    assert len(features) == 9
    assert not {"00.png", "01.png", "07.png"} & set(features.ids)
    kept = images.take(np.array([2, 3, 4, 5, 6, 8, 9, 10, 11]))
    np.testing.assert_allclose(features.values, expected_means(kept), atol=1e-5)


def test_maps_are_averaged_over_height_and_width(tmp_path):
    images = make_set(tmp_path / "set")
    maps = extract(images, plain(nn.Identity())).values
    pixels = decode_images(images, 12).values.mean((2, 3))
    np.testing.assert_allclose(
        maps, pixels / np.linalg.norm(pixels, axis=1, keepdims=True), atol=1e-5
    )


def test_a_killed_extraction_goes_on_and_ends_with_the_same_bits(tmp_path):
    images = make_set(tmp_path / "set", broken=(1,))
    whole = extract(images, plain(Means()), batch_size=3)

    class Dies(Means):
        calls = 0

        def forward(self, images):
            Dies.calls += 1
            if Dies.calls == 3:
                raise KeyboardInterrupt
            return super().forward(images)

    path = tmp_path / "rows.npy"
    with pytest.raises(KeyboardInterrupt):
        extract(images, plain(Dies()), batch_size=3, path=path)
    told: list[tuple[int, int]] = []
    resumed = extract(
        images, plain(Dies()), batch_size=3, path=path, progress=lambda *both: told.append(both)
    )
    assert told == [(9, 12), (12, 12)]
    assert resumed.ids == whole.ids
    assert np.array_equal(resumed.values, whole.values)


def test_the_mode_of_the_network_is_put_back_and_dropout_is_off(tmp_path):
    images = make_set(tmp_path / "set")
    network = nn.Sequential(Means(), nn.Dropout(0.5))
    network.train()
    features = extract(images, plain(network))
    assert network.training
    np.testing.assert_allclose(features.values, expected_means(images), atol=1e-5)


def test_any_module_is_taken_with_a_size_and_named_by_its_weights(tmp_path):
    images = make_set(tmp_path / "set")
    network = nn.Conv2d(3, 4, 3)
    first = extract(images, network, size=12)
    assert first.values.shape == (12, 4)
    assert wrap(network, 12).mean == IMAGENET_MEAN
    assert images.fingerprint() in first.made_by
    with torch.no_grad():
        network.weight[0, 0, 0, 0] += 1
    assert extract(images, network, size=12).made_by != first.made_by
    with pytest.raises(ConfigError, match="the size of its input is not known"):
        extract(images, network)


def test_an_output_that_is_no_row_an_image_is_named(tmp_path):
    images = make_set(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"test network gives \(36, 12, 12\) for 12 images"):
        extract(images, plain(nn.Flatten(0, 1)))


def test_numbers_that_are_not_finite_are_named_with_their_image(tmp_path):
    images = make_set(tmp_path / "set")

    class Nan(Means):
        def forward(self, images):
            rows = super().forward(images)
            rows[3, 1] = torch.nan
            return rows

    with pytest.raises(NumericError, match=r"not finite for '03\.png'. Check its weights"):
        extract(images, plain(Nan()))


# timm, played by a module of two models


class TinyNet(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)
        self.fc: nn.Module = nn.Linear(5, num_classes) if num_classes else nn.Identity()
        self.pretrained_cfg = {"classifier": "fc"}

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))

    def reset_classifier(self, num_classes: int) -> None:
        assert num_classes == 0
        self.fc = nn.Identity()


@pytest.fixture
def timm(monkeypatch):
    """A stand-in with the names of timm that are used; `cached` is what the hub cache has."""
    fake = types.ModuleType("timm")
    fake.cached = {}
    fake.asked = []

    def create_model(name, pretrained=False, num_classes=3):
        fake.asked.append((name, pretrained))
        module = TinyNet(num_classes)
        if pretrained:
            if name not in fake.cached:
                raise OSError("offline mode is on.\nAnd a second line")
            module.load_state_dict(fake.cached[name])
        return module

    fake.create_model = create_model
    fake.list_models = lambda: ["tinynet", "othernet"]
    fake.is_model = lambda name: name in fake.list_models()
    fake.get_pretrained_cfg = lambda name: types.SimpleNamespace(
        hf_hub_id="timm/" if name == "tinynet" else None
    )
    fake.data = types.SimpleNamespace(
        resolve_model_data_config=lambda module: {
            "input_size": (3, 12, 12), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5),
        }
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return fake


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_timm_model_gets_exactly_the_weights_of_the_file(tmp_path, timm, suffix):
    donor, path = TinyNet(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(donor.state_dict(), path)
    else:
        wrapped = {f"module.{key}": value for key, value in donor.state_dict().items()}
        torch.save({"state_dict": wrapped, "epoch": 7}, path)
    backbone = load_timm("timm:tinynet", path)
    assert torch.equal(backbone.module.body.weight, donor.body.weight)
    assert (backbone.size, backbone.mean) == (12, (0.1, 0.2, 0.3))
    assert timm.asked == [("tinynet", False)]
    features = extract(make_set(tmp_path / "set"), backbone)
    assert features.values.shape == (12, 5)
    assert features.made_by.startswith("timm:tinynet ")


def test_weights_of_another_model_are_refused_with_what_differs(tmp_path, timm):
    state = TinyNet().state_dict()
    del state["body.bias"]
    state["body.weight"] = torch.zeros(5, 3, 1, 1)
    state["neck.weight"] = torch.zeros(2)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(ConfigError) as error:
        load_timm("timm:tinynet", path)
    text = str(error.value)
    assert f"{path}: not the weights of timm:tinynet: of its 2 parameters" in text
    assert "1 missing (body.bias)" in text
    assert "1 of another shape (body.weight (5, 3, 1, 1) in place of (5, 3, 3, 3))" in text
    assert "1 unknown (neck.weight)" in text


def test_without_weights_nothing_is_downloaded_and_nothing_random_is_used(timm):
    with pytest.raises(ConfigError) as error:
        load_timm("timm:tinynet")
    assert "nothing is downloaded without being asked" in str(error.value)
    assert "--weights FILE" in str(error.value)
    assert "HF_HUB_OFFLINE=1" in str(error.value)
    assert timm.asked == []


def test_offline_the_cache_is_used(timm, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    timm.cached["tinynet"] = TinyNet().state_dict()
    backbone = load_timm("timm:tinynet")
    assert torch.equal(backbone.module.body.weight, timm.cached["tinynet"]["body.weight"])
    assert backbone.module(torch.zeros(2, 3, 12, 12)).shape == (2, 5)  # without its classifier


def test_offline_and_not_in_the_cache_is_said_in_one_line(timm, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ConfigError, match=r"not in the Hugging Face cache: offline mode is on\. Get them"
    ):
        load_timm("timm:tinynet")
    with pytest.raises(ConfigError, match="timm knows no weights of 'othernet' in the hub"):
        load_timm("timm:othernet")
    assert (
        "othernet",
        True,
    ) not in timm.asked  # it would have turned to an address outside the hub


def test_unknown_backbones_are_named_with_near_ones(timm):
    with pytest.raises(
        ConfigError, match=r"timm has no model 'tinynett'. Did you mean 'tinynet'\?"
    ):
        load_timm("timm:tinynett")
    with pytest.raises(ConfigError, match=r"has no model 'zzz'. List them with timm\.list_models"):
        load_timm("timm:zzz")
    with pytest.raises(ConfigError, match="there is no backbone 'resnet50'; expected timm:NAME"):
        load_timm("resnet50")


def test_files_that_are_no_weights_are_named(tmp_path, timm):
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(ConfigError, match=rf"--weights .*{name}: there is no such file"):
            load_timm("timm:tinynet", tmp_path / name)
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ConfigError, match=rf"--weights .*{name}: cannot be read as weights"):
            load_timm("timm:tinynet", tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="holds a dict of other things than tensors"):
        load_timm("timm:tinynet", tmp_path / "other.pth")


def test_without_timm_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError) as error:
        load_timm("timm:resnet50")
    assert "pip install 'labelsieve[timm]'" in str(error.value)


# from a file


@pytest.fixture
def images(tmp_path) -> ImageSet:
    return make_set(tmp_path / "set", n=5)


ROWS = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)


def test_a_matrix_without_ids_is_taken_in_the_sets_order_and_says_so(tmp_path, images):
    np.save(tmp_path / "f.npy", ROWS)
    features = load_features(tmp_path / "f.npy", images)
    assert features.ids == images.ids
    np.testing.assert_allclose(features.values, UNIT, atol=1e-6)
    assert "rows taken in the set's order, as it has no ids" in features.made_by
    assert images.fingerprint() in features.made_by


@pytest.mark.parametrize("form", ["npy", "npz", "parquet"])
def test_rows_are_matched_by_ids_and_those_of_other_images_left_out(tmp_path, images, form):
    order = [3, 0, 4, 1, 2]
    ids = ["other.png", *(images.ids[row] for row in order)]
    rows = np.concatenate([np.full((1, 3), np.nan, np.float32), ROWS[order]])
    path = tmp_path / f"f.{form}"
    if form == "npy":
        np.save(path, rows)
        path.with_suffix(".json").write_text(json.dumps({"ids": ids}))
    elif form == "npz":
        np.savez(path, features=rows, ids=np.array(ids))
    else:
        pq.write_table(pa.table({"image": ids, "embedding": list(rows), "score": [1.0] * 6}), path)
    features = load_features(path, images)
    assert features.ids == images.ids
    np.testing.assert_allclose(features.values, UNIT, atol=1e-6)
    assert "matched by id" in features.made_by


def test_what_features_save_wrote_is_read_back_and_stays_on_disk(tmp_path, images):
    Features(images.ids, UNIT, "some maker").save(tmp_path / "f.npy")
    features = load_features(tmp_path / "f.npy", images)
    assert isinstance(features.values, np.memmap)
    assert features.made_by.startswith("some maker, from f.npy")


def test_images_that_are_not_usable_need_no_row(tmp_path, images):
    Features(images.ids[1:], UNIT[1:], "some maker").save(tmp_path / "f.npy")
    usable = np.array([False, True, True, True, True])
    features = load_features(tmp_path / "f.npy", images, usable)
    assert features.ids == images.ids[1:]
    np.testing.assert_allclose(features.values, UNIT[1:], atol=1e-6)
    np.save(tmp_path / "g.npy", ROWS)
    np.testing.assert_allclose(
        load_features(tmp_path / "g.npy", images, usable).values, UNIT[1:], atol=1e-6
    )


def test_made_by_changes_with_the_file(tmp_path, images):
    path = tmp_path / "f.npy"
    np.save(path, ROWS)
    first = load_features(path, images).made_by
    np.save(path, ROWS.astype(np.float64))
    assert load_features(path, images).made_by != first


def test_float16_and_whole_numbers_become_float32(tmp_path, images):
    for kind in (np.float16, np.float64, np.int64):
        np.save(tmp_path / "f.npy", (ROWS * 10).astype(kind))
        values = load_features(tmp_path / "f.npy", images).values
        assert values.dtype == np.float32
        assert np.linalg.norm(values, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def refusal(path: Path, images: ImageSet) -> str:
    with pytest.raises(DataError) as error:
        load_features(path, images)
    text = str(error.value)
    assert text.startswith((str(path), str(path.with_suffix(".json"))))
    return text


def test_another_length_is_refused_with_both_lengths(tmp_path, images):
    np.save(tmp_path / "f.npy", ROWS[:4])
    text = refusal(tmp_path / "f.npy", images)
    assert "4 rows of features without ids for 5 images" in text
    assert "labelsieve features" in text


def test_missing_images_are_counted_and_the_first_named(tmp_path, images):
    np.savez(tmp_path / "f.npz", features=ROWS[:1], ids=np.array(["04.png"]))
    text = refusal(tmp_path / "f.npz", images)
    assert "no features of 4 of 5 images" in text
    assert "'00.png', '01.png', '02.png', ..." in text
    assert "Its ids look like '04.png'" in text


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")]
)
def test_rows_that_are_not_finite_are_counted_and_the_first_named(tmp_path, images, value, what):
    rows = ROWS.copy()
    rows[2, 1] = rows[4, 0] = value
    np.save(tmp_path / "f.npy", rows)
    assert f"2 of 5 rows of features are {what}, first row 2 ('02.png')" in refusal(
        tmp_path / "f.npy", images
    )


def test_rows_of_zeros_are_refused(tmp_path, images):
    rows = ROWS.copy()
    rows[1] = 0
    np.save(tmp_path / "f.npy", rows)
    assert "1 of 5 rows of features are zero, first row 1 ('01.png')" in refusal(
        tmp_path / "f.npy", images
    )


@pytest.mark.parametrize("array", [ROWS[0], ROWS[:, :0], np.array([["a", "b"]] * 5), ROWS[None]])
def test_anything_but_a_matrix_of_numbers_is_refused(tmp_path, images, array):
    np.save(tmp_path / "f.npy", array)
    text = refusal(tmp_path / "f.npy", images)
    assert f"of shape {array.shape}; expected a matrix of numbers" in text


def test_ids_that_do_not_fit_the_rows_are_refused(tmp_path, images):
    np.savez(tmp_path / "f.npz", features=ROWS, ids=np.array(["a", "b"]))
    assert "2 ids for 5 rows of features" in refusal(tmp_path / "f.npz", images)
    np.savez(tmp_path / "g.npz", features=ROWS, ids=np.array([*images.ids[:4], images.ids[0]]))
    assert "1 ids occur more than once, such as '00.png'" in refusal(tmp_path / "g.npz", images)


def test_files_that_hold_no_features_are_refused(tmp_path, images):
    (tmp_path / "f.npy").write_bytes(b"no array")
    assert "cannot be read as features" in refusal(tmp_path / "f.npy", images)
    np.savez(tmp_path / "f.npz", embeddings=ROWS)
    assert "no array `features`; there are: embeddings" in refusal(tmp_path / "f.npz", images)
    assert "features cannot be read from '.txt'" in refusal(tmp_path / "f.txt", images)
    assert "there is no such file" in refusal(tmp_path / "none.npy", images)
    np.save(tmp_path / "g.npy", ROWS)
    (tmp_path / "g.json").write_text("{")
    assert "cannot be read as the ids of g.npy" in refusal(tmp_path / "g.npy", images)


def test_tables_without_one_clear_column_of_features_are_refused(tmp_path, images):
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"image": list(images.ids), "a": [1.0] * 5}), path)
    assert "0 columns of lists (none of image, a)" in refusal(path, images)
    pq.write_table(pa.table({"image": list(images.ids), "a": list(ROWS), "b": list(ROWS)}), path)
    assert "2 columns of lists (a, b of image, a, b)" in refusal(path, images)
    pq.write_table(pa.table({"features": [[1.0], [1.0, 2.0], None, [1.0], [2.0]]}), path)
    assert "lists of 3 lengths, 1 of them missing, in column `features`" in refusal(path, images)
