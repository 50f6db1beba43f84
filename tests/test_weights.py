"""Weights: read from files, all or nothing, whatever stands before their names; saved and built."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from labelsieve.data.augment import IMAGENET
from labelsieve.errors import ConfigError, RunError
from labelsieve.features import saved
from labelsieve.features.backbones import network
from labelsieve.features.heads import Classifier, ClusterHeads, ProjectionHead, moco_head, sncf_head
from labelsieve.features.patches import Patches
from labelsieve.features.resnets import PreActResNet, PreActShape, ResNet, ResNetShape, resnet50
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.small_nets import DictionaryNet, DictionaryShape
from labelsieve.features.weights import Loaded, digest, drawn_from, load_strict, read_state


class Tiny(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with drawn_from(seed):
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)


def load(module: nn.Module, state: dict, **options) -> Loaded:
    return load_strict(module, state, source="net.pth", name="tiny", **options)


# reading


@pytest.mark.parametrize("holder", [None, "state_dict", "model_state_dict", "model_ema", "model"])
def test_weights_are_found_under_the_usual_keys(tmp_path, holder):
    state = Tiny().state_dict()
    path = tmp_path / "net.pt"
    torch.save(state if holder is None else {"epoch": 3, holder: state}, path)
    found = read_state(path)
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_safetensors_are_read(tmp_path):
    save_file(Tiny().state_dict(), tmp_path / "net.safetensors")
    assert read_state(tmp_path / "net.safetensors").keys() == Tiny().state_dict().keys()


def test_files_that_are_no_weights_are_named_with_the_option_they_came_by(tmp_path):
    with pytest.raises(ConfigError, match=rf"^--weights {tmp_path}/no.pth: there is no such file"):
        read_state(tmp_path / "no.pth")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/no.pth: there is no such file"):
        read_state(tmp_path / "no.pth", option="")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="holds a list of other things than tensors"):
        read_state(tmp_path / "list.pth")


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"conv.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        read_state(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


# loading


WRAPPERS = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
INNER = ["", "encoder_q.", "base_encoder.", "backbone.", "encoder.", "model."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("inner", INNER)
def test_what_stands_before_all_names_is_taken_off_and_said(wrapper, inner):
    donor, module = Tiny(1), Tiny(2)
    done = load(module, {wrapper + inner + key: v for key, v in donor.state_dict().items()})
    assert done == Loaded(wrapper + inner, ())
    assert digest(module) == digest(donor)


def test_a_prefix_that_is_not_asked_for_is_not_taken_off():
    state = {f"teacher.{key}": value for key, value in Tiny().state_dict().items()}
    with pytest.raises(ConfigError, match=r"6 missing \(conv.weight, conv.bias, norm.weight, nor"):
        load(Tiny(), state)
    assert load(Tiny(), state, prefixes=("", "teacher.")).prefix == "teacher."
    with pytest.raises(ConfigError, match="7 unknown"):
        load(Tiny(), {f"model.{key}": v for key, v in Tiny().state_dict().items()}, prefixes=("",))


def test_of_two_whole_networks_in_a_file_the_first_kind_of_prefix_is_taken():
    first, second, module = Tiny(1), Tiny(2), Tiny(3)
    state = {f"model.{key}": value for key, value in second.state_dict().items()}
    state |= {f"encoder_q.{key}": value for key, value in first.state_dict().items()}
    assert load(module, state, leftovers=("model.",)).prefix == "encoder_q."
    assert digest(module) == digest(first)


def test_what_stands_outside_the_prefix_is_never_loaded():
    inside, outside, module = Tiny(1), Tiny(2), Tiny(3)
    state = {f"model.{key}": value for key, value in inside.state_dict().items()}
    state["conv.bias"] = outside.conv.bias.detach()  # the same name, of another network
    with pytest.raises(ConfigError, match=r"1 unknown \(conv.bias\), after 'model.' was taken off"):
        load(module, state)
    assert load(module, state, leftovers=("conv.",)).left_out == ("conv.bias",)
    assert digest(module) == digest(inside)


def test_only_named_leftovers_may_stay():
    state = {**Tiny().state_dict(), "fc.weight": torch.zeros(2), "fcn.weight": torch.zeros(2)}
    with pytest.raises(ConfigError, match=r"of its 7 parameters, 1 unknown \(fcn.weight\)\."):
        load(Tiny(), state, leftovers=("fc.",))
    done = load(Tiny(), state, leftovers=("fc.", "fcn."))
    assert done.left_out == ("fc.weight", "fcn.weight")


def test_refused_weights_change_nothing_and_everything_that_differs_is_listed():
    module = Tiny(1)
    before = digest(module)
    state = Tiny(2).state_dict()
    del state["norm.bias"]
    state["conv.weight"] = torch.zeros(4, 3, 1, 1)
    for place in range(7):
        state[f"extra{place}"] = torch.zeros(1)
    with pytest.raises(ConfigError) as error:
        load(module, state, leftovers=("fc.",))
    assert str(error.value) == (
        "net.pth: not the weights of tiny: of its 7 parameters, 1 missing (norm.bias); "
        "1 of another shape (conv.weight (4, 3, 1, 1) in place of (4, 3, 3, 3)); "
        "7 unknown (extra0, extra1, extra2, extra3, extra4, ...). "
        "Give the weights of this very model."
    )
    assert digest(module) == before


@given(lost=st.sets(st.integers(0, 5), min_size=1))
def test_whatever_is_lost_is_missed(lost):
    state = Tiny().state_dict()
    names = [key for key in state if not key.endswith("num_batches_tracked")]
    for place in lost:
        del state[names[place]]
    with pytest.raises(ConfigError, match=rf"{len(lost)} missing \({names[min(lost)]}"):
        load(Tiny(), state)


def test_weights_from_before_batches_were_counted_are_taken():
    donor, module = Tiny(1), Tiny(2)
    module.norm.num_batches_tracked += 5
    state = donor.state_dict()
    del state["norm.num_batches_tracked"]
    assert load(module, state) == Loaded("", ())
    assert torch.equal(module.conv.weight, donor.conv.weight)
    assert module.norm.num_batches_tracked == 5


def test_half_precision_weights_become_what_the_module_is_in():
    donor, module = Tiny(1), Tiny(2)
    load(module, donor.half().state_dict())
    assert module.conv.weight.dtype == torch.float32
    assert torch.equal(module.conv.weight, donor.conv.weight.float())


# public files


def moco_checkpoint(donor: nn.Module, head: nn.Module) -> dict:
    """As MoCo's program writes it: two encoders, each with the head in place of fc, and a queue."""
    both = {**donor.state_dict(), **{f"fc.{key}": v for key, v in head.state_dict().items()}}
    state = {f"module.encoder_q.{key}": value for key, value in both.items()}
    state |= {f"module.encoder_k.{key}": torch.zeros_like(v) for key, v in both.items()}
    state |= {"module.queue": torch.zeros(128, 4), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state}


def test_resnet50_and_its_head_come_out_of_a_moco_checkpoint(tmp_path):
    with drawn_from(1):
        donor, head = resnet50(), moco_head(2048)
    path = tmp_path / "moco.pth.tar"
    torch.save(moco_checkpoint(donor, head), path)
    assert digest(network("resnet50", weights=path)) == digest(donor)
    fresh = moco_head(2048)
    done = load_strict(
        fresh, read_state(path), source=path, name="the head", prefixes=("encoder_q.fc.",),
        leftovers=("encoder_q.", "encoder_k.", "queue"),
    )  # fmt: skip
    assert done.prefix == "module.encoder_q.fc."
    assert digest(fresh) == digest(head)


@pytest.mark.parametrize("counted", [True, False])
def test_resnet50_takes_torchvisions_files_old_and_new(tmp_path, counted):
    with drawn_from(1):
        donor = resnet50()
    state = {
        **donor.state_dict(),
        "fc.weight": torch.zeros(1000, 2048),
        "fc.bias": torch.zeros(1000),
    }
    if not counted:
        state = {key: v for key, v in state.items() if "num_batches" not in key}
    torch.save(state, tmp_path / "resnet50.pth")
    assert digest(network("resnet50", weights=tmp_path / "resnet50.pth")) == digest(donor)


def test_resnet50_does_not_take_another_resnet(tmp_path):
    torch.save(ResNet(ResNetShape((8,), (1,))).state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        ConfigError, match="other.pth: not the weights of resnet50: of its 318 param"
    ):
        network("resnet50", weights=tmp_path / "other.pth")


# hashes and seeds


def test_the_digest_is_of_names_shapes_types_and_values():
    digests = [digest(Tiny()), digest(Tiny(1)), digest(Tiny().half())]
    renamed, counted, reshaped = Tiny(), Tiny(), Tiny()
    renamed.other = renamed.conv
    del renamed.conv
    counted.norm.num_batches_tracked += 1
    reshaped.conv.bias.data = reshaped.conv.bias.data[None]
    whole, real = Tiny(), Tiny()  # the same bytes
    whole.register_buffer("kind", torch.zeros(2, dtype=torch.int32))
    real.register_buffer("kind", torch.zeros(2))
    digests += [digest(each) for each in (renamed, counted, reshaped, whole, real)]
    assert len(set(digests)) == 8
    assert digest(Tiny()) == digests[0]
    assert digest(Tiny().to(memory_format=torch.channels_last)) == digests[0]


def test_drawing_from_a_seed_leaves_pytorchs_generator_alone_also_after_an_error():
    state = torch.get_rng_state()
    with drawn_from(3):
        first = torch.rand(3)
    with pytest.raises(KeyError), drawn_from(3):
        {}[torch.equal(torch.rand(3), first)]
    with drawn_from(4):
        assert not torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), state)


# models of our own


def dictionary_net() -> DictionaryNet:
    patches = Patches(n_atoms=6, threshold=0.4, n_patches=300, n_rounds=1)
    net = DictionaryNet(DictionaryShape(patches, (8, 16, 16), (1, 2, 1), "gelu"))
    net.learn_stem(np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), dtype=np.uint8))
    return net


MODELS = {
    "resnet": lambda: ResNet(ResNetShape((4, 8), (1, 2), True, "middle", IMAGENET)),
    "preact-resnet": lambda: PreActResNet(PreActShape((4, 8), (1, 2), identity=True)),
    "dictionary-net": dictionary_net,
    "projection-head": lambda: sncf_head(6),
    "classifier": lambda: Classifier(6, 5),
    "cluster-heads": lambda: ClusterHeads(6, 5, 3),
}
ABOUT = {"preprocessing": {"size": 32}, "class_names": ["cat", "dög"]}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_again_as_it_was(tmp_path, name):
    module = MODELS[name]().to(memory_format=torch.channels_last).eval()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d | nn.BatchNorm1d):
            each.running_mean.normal_()
    save_network(tmp_path, module, ABOUT)
    state = torch.get_rng_state()
    again, about = load_network(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert about == ABOUT
    assert type(again) is type(module)
    assert again.settings == module.settings
    assert not again.training
    assert digest(again) == digest(module)
    given = torch.rand(2, 6) if hasattr(module.settings, "n_features") else torch.rand(2, 3, 16, 16)
    given = torch.rand(2, 6) if isinstance(module, ProjectionHead) else given
    again = again.to(memory_format=torch.channels_last)  # as the other is, for the same last digit
    assert torch.equal(again(given), module(given))
    assert getattr(again, "normalization", None) == getattr(module, "normalization", None)
    assert json.loads((tmp_path / "model.json").read_text())["architecture"] == name


def test_several_parts_are_saved_as_one(tmp_path):
    whole = nn.ModuleDict({"backbone": MODELS["resnet"](), "head": sncf_head(32)})
    save_network(tmp_path, whole, {})
    again, about = load_network(tmp_path)
    assert about == {}
    assert list(again) == ["backbone", "head"]
    assert digest(again) == digest(whole)
    assert again["head"].settings == whole["head"].settings


def test_what_is_none_of_ours_is_not_saved(tmp_path):
    for module, name in ((Tiny(), "Tiny"), (nn.ModuleDict({"a": nn.Linear(2, 2)}), "Linear")):
        with pytest.raises(
            ConfigError, match=f"a {name} cannot be saved as a model of labelsieve's"
        ):
            save_network(tmp_path, module, {})
    with pytest.raises(ConfigError, match="architecture, digest: model.json says this itself"):
        save_network(tmp_path, Classifier(2, 2), {"architecture": 1, "size": 2, "digest": 3})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match="model.safetensors: cannot be written"):
        save_network(tmp_path / "nowhere", Classifier(2, 2), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "resnext"},
            "no architecture 'resnext' is known here. Did you mean 'resne",
        ),
        (
            {"architecture": "zzz"},
            "There are: bn-inception, classifier, .* saved by a newer version of labelsieve",
        ),
        (
            {"settings": {"n_classs": 5}},
            "Classes has no setting 'n_classs'. Did you mean 'n_classes'",
        ),
        ({"settings": {"n_classes": 0}}, r"classes.n_classes is 0; at least 1"),
        ({"settings": {"n_features": 6, "n_classes": 4}}, "2 of another shape"),
    ],
)
def test_what_this_version_does_not_know_is_named(tmp_path, change, message):
    save_network(tmp_path, Classifier(6, 5), {})
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        load_network(tmp_path)


def test_folders_without_a_model_are_named(tmp_path):
    with pytest.raises(
        ConfigError, match="model.json: there is no such file. Give a folder with a"
    ):
        load_network(tmp_path)
    for text in ("{", "[]", "{}", "3", '{"architecture": "resnet"}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(
            ConfigError, match="model.json: cannot be read as what is known of a mo"
        ):
            load_network(tmp_path)
    save_network(tmp_path, Classifier(6, 5), {})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="model.safetensors: there is no such file"):
        load_network(tmp_path)


def test_a_save_that_is_cut_off_between_its_files_is_noticed(tmp_path, monkeypatch):
    save_network(tmp_path, Classifier(6, 5), {"epoch": 1})

    def dies(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saved, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            save_network(tmp_path, Classifier(6, 5), {"epoch": 2})
    with pytest.raises(ConfigError, match="saving was cut off, or one of them was replaced"):
        load_network(tmp_path)
    save_network(tmp_path, Classifier(6, 5), {"epoch": 2})
    assert load_network(tmp_path)[1] == {"epoch": 2}
