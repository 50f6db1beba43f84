"""From images to features: by a file of the user's own, a network, a dictionary, or pretraining."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from labelsieve.config import to_dict
from labelsieve.data.decode import Pixels, decode_images
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.features.backbones import Backbone, load_timm
from labelsieve.features.contrast import Encoder
from labelsieve.features.dictionary import Dictionary
from labelsieve.features.extract import dictionary_features, extract, nothing_left
from labelsieve.features.joint import joint_features
from labelsieve.features.load import load_features
from labelsieve.features.pretrain import Pretrain, normalization_of, pretrain
from labelsieve.features.saved import save_network
from labelsieve.features.weights import digest
from labelsieve.files import atomic
from labelsieve.loop.logs import EpochLog
from labelsieve.loop.runtime import Runtime
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.neighbors.vote import neighbor_accuracy
from labelsieve.records import Features, ImageSet
from labelsieve.run import Run
from labelsieve.stages.inputs import Inputs, Progress, check_device, recorded, silent, stamps
from labelsieve.stages.sources import fitting_pixels, image_source, small_size
from labelsieve.stages.trained import JOINT, load_trained, trained_features

FeatureMaker = Callable[[ImageSet, Pixels, Run, Progress], Features]

# The score by neighbors: how many vote, as SNCF's code has it, and of how many images at most. Its
# cost grows with their square, and other processes wait for it.
N_VOTERS, VOTE_TEMPERATURE, MOST_SCORED = 200, 0.1, 50_000


class Made(NamedTuple):
    """Features of a set, and the images that have none."""

    features: Features
    broken: dict[str, str]  # id -> why it cannot be read


def represent(
    images: ImageSet | str | Path,
    pretraining: Pretrain | None = None,
    *,
    dictionary: Dictionary | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Features:
    """Features learned from the images themselves: one unit-norm row for each that can be read.

    Args:
        images: from `read`, or what `read` takes. Labels, if any, are only watched, never used.
        pretraining: of a network, such as `PRETRAINING["cpu"]()`; dictionary features without it.
        dictionary: of dictionary features; `Dictionary()` unless given.
        seed: of every random choice.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Raises:
        DataError: no image can be read.

    Example:
        >>> import labelsieve as ls
        >>> features = ls.represent("photos/", ls.PRETRAINING["cpu"]())  # doctest: +SKIP
        >>> findings = ls.audit("photos/", features=features)  # doctest: +SKIP
    """
    if not isinstance(images, ImageSet):
        images = read(images)
    dictionary, progress = dictionary or Dictionary(), progress or silent
    inputs = Inputs(images.source, seed=seed, device=device)
    make = feature_maker(inputs, dictionary, pretraining)
    with (
        tempfile.TemporaryDirectory(prefix="labelsieve-") as folder,
        Run.open(Path(folder), "features", {}) as run,
    ):
        pixels = _pixels(images, pretraining, dictionary, run.checkpoint, progress)
        features = make(images, pixels, run, progress)
        # out of the folder, which goes
        return Features(features.ids, np.array(features.values), features.made_by)


def feature_maker(
    inputs: Inputs,
    dictionary: Dictionary,
    pretraining: Pretrain | None = None,
    *,
    learn: NDArray[np.bool_] | None = None,
    folder: str = "",
) -> FeatureMaker:
    """What makes the features that `inputs` ask for.

    What can be wrong with them is found here, before hours of decoding.

    Args:
        inputs: a file, a backbone or a network, if any, and the device.
        dictionary: of dictionary features: where nothing else is asked for.
        pretraining: of a network.
        learn: (N,) the images to learn from; all by default. Every image gets a row.
        folder: within the run's, for a network that is trained.

    Raises:
        ConfigError: no such device, backbone or network.
        DataError: no such file of features.
        MissingExtraError: the backbone needs a library that is not installed.
    """
    check_device(inputs.device)
    if inputs.features is not None and not Path(inputs.features).is_file():
        raise DataError(f"--features {inputs.features}: there is no such file.")
    model = None if inputs.backbone is None else load_timm(inputs.backbone, inputs.weights)
    trained = None if inputs.network is None else load_trained(inputs.network, pretraining)

    def make(images: ImageSet, pixels: Pixels, run: Run, progress: Progress) -> Features:
        tell, store = partial(progress, "features"), run.checkpoint / "rows.npy"
        if inputs.features is not None:
            return load_features(Path(inputs.features), images, pixels.usable)
        if model is not None:
            return extract(images, model, device=inputs.device, progress=tell, path=store)
        if trained is not None:
            return trained_features(
                images, pixels, trained, device=inputs.device, run=run, progress=progress
            )
        if pretraining is not None:
            return pretrained_features(
                images, pixels, pretraining, inputs, run, progress, learn, folder
            )
        return dictionary_features(
            images, pixels, dictionary, learn=learn, seed=inputs.seed, device=inputs.device,
            progress=tell, path=store,
        )  # fmt: skip

    return make


def run_features(
    inputs: Inputs,
    dictionary: Dictionary,
    pretraining: Pretrain | None,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress,
) -> Made | None:
    """Write the features of a set to `out` (.npy), their ids beside it, and a run's folder.

    The folder has the name of `out` with .run: what was done and with which settings, the log, and
    a network that was trained. Several processes (`torchrun`) share the pretraining.

    Returns:
        what was made; None on a process that only helped to train.

    Raises:
        ConfigError: `out` is no .npy, or several processes have nothing to share.
        RunError: `out` or the folder is there already.
    """
    if out.suffix != ".npy":
        raise ConfigError(f"--out {out}: features are written as .npy. Try {out}.npy.")
    folder = out.with_suffix(".run")
    runtime = Runtime.start(inputs.device)
    _check_shared(runtime.n_processes, pretraining)
    make = feature_maker(inputs, dictionary, pretraining)
    if not runtime.is_main:
        assert pretraining is not None  # noqa: S101 -- seen to above
        _help_to_train(inputs, pretraining, dictionary, folder)
        return None
    _check_free(out, folder, overwrite=overwrite, resume=resume)
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    about = {
        "inputs": recorded(inputs),
        "dictionary": to_dict(dictionary),
        "pretrain": None if pretraining is None else to_dict(pretraining),
        "images": {"n": len(images), "fingerprint": images.fingerprint()},
        "files": stamps(inputs),
    }
    with Run.open(folder, "features", about, resume=resume, overwrite=overwrite) as run:
        if run.done and out.exists():
            runtime.any(True)  # the others need not help
            return Made(Features.load(out), run.about["broken"])
        run.checkpoint.mkdir(exist_ok=True)  # gone with a finished run, whose features were removed
        with run.stage("decode"):
            pixels = _pixels(images, pretraining, dictionary, run.checkpoint, progress)
        with run.stage("features"):
            features = make(images, pixels, run, progress)
        features.save(out)
        broken = {images.ids[row]: why for row, why in enumerate(pixels.reasons) if why is not None}
        run.finish(features=features.made_by, seed=inputs.seed, device=inputs.device, broken=broken)
        return Made(features, broken)


def pretrained_features(
    images: ImageSet,
    pixels: Pixels,
    settings: Pretrain,
    inputs: Inputs,
    run: Run,
    progress: Progress,
    learn: NDArray[np.bool_] | None = None,
    folder: str = "",
) -> Features:
    """Pretrain a network on the images, keep it in the run's folder, and extract its features.

    Arguments as for `pretrained_network`.
    """
    encoder = pretrained_network(images, pixels, settings, inputs, run, progress, learn, folder)
    tell, store = partial(progress, "features"), run.checkpoint / "rows.npy"
    if settings.rows != "joint":
        backbone = backbone_of(encoder, settings)
        return extract(images, backbone, device=inputs.device, progress=tell, path=store)
    pixels = fitting_pixels(images, pixels, settings.image_size, run.checkpoint, progress)
    features = joint_features(
        images, pixels, encoder.network, settings.joint, learn=learn, seed=inputs.seed,
        device=inputs.device, progress=tell, path=store,
    )  # fmt: skip
    with atomic(run.path / folder / JOINT) as partial_file:
        shutil.copyfile(store.with_suffix(".safetensors"), partial_file)
    return features


def pretrained_network(
    images: ImageSet,
    pixels: Pixels,
    settings: Pretrain,
    inputs: Inputs,
    run: Run,
    progress: Progress,
    learn: NDArray[np.bool_] | None = None,
    folder: str = "",
) -> Encoder:
    """Pretrain a network on the images, and keep it in the run's folder.

    Args:
        images: the set.
        pixels: of all images, at some small size.
        settings: of the training.
        inputs: seed and device.
        run: gets model.safetensors and model.json, a line an epoch in log.jsonl, and a checkpoint.
        progress: told stage, done and total.
        learn: (N,) the images to learn from; all by default.
        folder: of the network, within the run's.
    """
    runtime = Runtime.start(inputs.device, settings.training.precision)
    monitor = None
    if images.labels is not None and images.class_names:
        monitor = partial(_neighbor_score, images=images, settings=settings, inputs=inputs)
    pixels = fitting_pixels(images, pixels, settings.image_size, run.checkpoint, progress)
    source = image_source(images, pixels, settings.image_size, run.checkpoint, progress)
    runtime.any(False)  # the others, who wait for what was decoded, are to help
    encoder = pretrain(
        source, _readable(images, pixels, learn), settings, pixels=pixels.values,
        seed=inputs.seed, runtime=runtime, folder=run.checkpoint, log=_log(run, settings),
        monitor=monitor, progress=partial(progress, "pretrain"),
    )  # fmt: skip
    about = {
        "image_size": settings.image_size,
        "normalization": normalization_of(settings, encoder.network)._asdict(),
        "rows": settings.rows,
        "pretrain": to_dict(settings),
        "images": images.fingerprint(),
    }
    parts = nn.ModuleDict({"backbone": encoder.network, "head": encoder.head})
    place = run.path / folder
    place.mkdir(exist_ok=True)
    save_network(place, parts.cpu(), about)
    return encoder


def _log(run: Run, settings: Pretrain) -> EpochLog:
    events = run.path / "tensorboard" if settings.training.tensorboard else None
    return EpochLog(run.path / "log.jsonl", "pretrain", events)


def backbone_of(encoder: Encoder, settings: Pretrain) -> Backbone:
    """The trained network as what `extract` takes: with its head, or without."""
    module = encoder if settings.rows == "head" else encoder.network
    mean, deviation = normalization_of(settings, encoder.network)
    name = f"{settings.network} pretrained by {settings.objective} {digest(module)}"
    return Backbone(module, settings.views.size, mean, deviation, name)


def _help_to_train(
    inputs: Inputs, settings: Pretrain, dictionary: Dictionary, folder: Path
) -> None:
    """What the processes beside the main one do: wait for its pixels, and train along."""
    runtime = Runtime.start(inputs.device, settings.training.precision)
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    if runtime.any(False):  # the main process found all done
        return
    checkpoint = folder / "checkpoint"
    pixels = _pixels(images, settings, dictionary, checkpoint, silent)
    source = image_source(images, pixels, settings.image_size, checkpoint, silent)
    pretrain(
        source, _readable(images, pixels), settings, pixels=pixels.values, seed=inputs.seed,
        runtime=runtime, folder=checkpoint,
    )  # fmt: skip


def _pixels(
    images: ImageSet,
    settings: Pretrain | None,
    dictionary: Dictionary,
    folder: Path,
    progress: Progress,
) -> Pixels:
    """All images at a small size: that of the network where it is small, else the dictionary's."""
    size = small_size(dictionary, None if settings is None else settings.image_size)
    tell = partial(progress, "decode")
    return decode_images(images, size, path=folder / "pixels.npy", progress=tell)


def _readable(
    images: ImageSet, pixels: Pixels, learn: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The rows to learn from.

    Raises:
        DataError: there are none.
    """
    rows = np.flatnonzero(pixels.usable if learn is None else pixels.usable & learn)
    if not len(rows):
        raise nothing_left(images, dict(enumerate(map(str, pixels.reasons))))
    return rows


def _neighbor_score(
    encoder: Encoder, *, images: ImageSet, settings: Pretrain, inputs: Inputs
) -> Mapping[str, float]:
    """Share of images whose neighbors vote for their label, each left out of its own vote."""
    if len(images) > MOST_SCORED:
        order = np.random.default_rng(inputs.seed).permutation(len(images))
        images = images.take(np.sort(order[:MOST_SCORED]))
    features = extract(images, backbone_of(encoder, settings), device=inputs.device)
    place = {name: row for row, name in enumerate(images.ids)}
    labels = np.asarray(images.labels)[[place[name] for name in features.ids]]
    # of few images, so many would outvote any class
    n_voters = min(N_VOTERS, max(1, len(labels) // (4 * len(images.class_names))))
    neighbors = nearest_neighbors(features.values, n_voters)
    return {"knn_accuracy": neighbor_accuracy(neighbors, labels, temperature=VOTE_TEMPERATURE)}


def _check_shared(n_processes: int, pretraining: Pretrain | None) -> None:
    if n_processes > 1 and pretraining is None:
        raise ConfigError(
            f"{n_processes} processes were begun, and only pretraining can use more than one. Run "
            "the same words without torchrun or accelerate launch, or add --pretrain."
        )


def _check_free(out: Path, folder: Path, *, overwrite: bool, resume: bool) -> None:
    ours = resume and (folder / "run.json").exists()  # else there is nothing to go on with
    for path in (out, out.with_suffix(".json")):
        if path.exists() and not (overwrite or ours):
            raise RunError(
                f"{path}: exists already. Add --overwrite to replace it, or choose another --out."
            )
