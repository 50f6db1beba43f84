"""What a trained classifier says of new images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelsieve.data.augment import Weak
from labelsieve.data.sources import Source
from labelsieve.features.heads import Classifier
from labelsieve.features.inference import clean_outputs
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.shown import image_views
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.classify import TrainedClassifier
from labelsieve.records import Features, ImageSet
from labelsieve.records.predictions import Predictions
from labelsieve.run import Run
from labelsieve.stages.inputs import Progress, silent
from labelsieve.stages.makers import check_width, rows_of_new
from labelsieve.stages.new_images import Shown, check_no_features, new_images, readable_source
from labelsieve.stages.trained import in_training_format

NETWORK, ROWS = "classifier", "row-classifier"  # kinds of models, in model.json
_BLOCK = 16_384  # rows at once


class Said(NamedTuple):
    """What a classifier says of the images of a set that can be read."""

    rows: NDArray[np.int64]  # (M,) which images those are
    probabilities: NDArray[np.float32]  # (M, C)
    class_names: tuple[str, ...]


def keep_classifier(
    folder: Path, trained: TrainedClassifier, class_names: tuple[str, ...], about: Mapping[str, Any]
) -> None:
    """Write a trained classifier as the model of a run.

    Args:
        folder: of the run.
        trained: of a network, or of features.
        class_names: of its classes.
        about: `about_network` or `about_rows`.
    """
    parts = {"backbone": trained.network.cpu(), "classifier": trained.classifier.cpu()}
    if trained.projection is not None:
        parts["projection"] = trained.projection.cpu()
    save_network(folder, nn.ModuleDict(parts), {**about, "class_names": list(class_names)})


def about_network(shown: Shown) -> dict[str, Any]:
    """What model.json says of a network: it predicts, and `--network` takes it."""
    return {"kind": NETWORK, **shown.to_dict()}


def about_rows(maker: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says of a classifier of features, and of what makes those of new images."""
    return {"kind": ROWS, "features": dict(maker)}


def predict_classes(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Predictions:
    """As `labelsieve.predict`, by a run of `labelsieve train`; `features` may be in memory."""
    with new_images(images, device) as (images, run):
        said = classify(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip
    return Predictions.of_probabilities(images.ids, said.rows, said.probabilities, said.class_names)


def classify(
    folder: Path,
    images: ImageSet,
    *,
    features: str | Features | None,
    device: str,
    run: Run,
    progress: Progress,
) -> Said:
    """What the classifier of a run says of the images of a set.

    Args:
        folder: of the run; model.json and model.safetensors are enough, and what its rows need.
        images: any.
        features: file of theirs, where the classifier was trained on a file of features.
        device: "cpu", "cuda", ...
        run: for what is on the way.
        progress: told stage, done and total.

    Raises:
        ConfigError: there is no such model, or features are missing or not needed.
        DataError: no image can be read.
    """
    module, about = load_network(folder)
    names = tuple(about["class_names"])
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what `keep_classifier` wrote
    backbone, classifier = in_training_format(module["backbone"]), module["classifier"]
    assert isinstance(classifier, Classifier)  # noqa: S101
    if about["kind"] == ROWS:
        found = rows_of_new(
            folder, about["features"], images, features, device=device, run=run, progress=progress
        )
        rows_of = backbone if isinstance(backbone, Rows) else next(backbone.children())  # of twins
        assert isinstance(rows_of, Rows)  # noqa: S101
        check_width(found, rows_of.settings.n_in, folder)
        place = {name: row for row, name in enumerate(images.ids)}
        rows = np.array([place[name] for name in found.ids], np.int64)
        model = nn.Sequential(backbone, classifier)
        return Said(rows, row_probabilities(model, found.values, device), names)
    check_no_features(features)
    shown = Shown.of(about)
    pixels, source = readable_source(images, shown.image_size, run.checkpoint, progress)
    rows = np.flatnonzero(pixels.usable)
    return Said(
        rows,
        network_probabilities(
            backbone, classifier, source, rows, shown, Runtime.alone(device),
            partial(progress, "predict"),
        ),
        names,
    )  # fmt: skip


def network_probabilities(
    backbone: nn.Module,
    classifier: Classifier,
    source: Source,
    rows: NDArray[np.int64],
    shown: Shown,
    runtime: Runtime,
    progress: Any = None,
) -> NDArray[np.float32]:
    """What a network and a classifier on it say of images as they are: (len(rows), C)."""
    backbone, head = backbone.to(runtime.device), classifier.to(runtime.device)

    def answer(images: Tensor) -> Tensor:
        with runtime.autocast():
            features = backbone(images)
        logits: Tensor = head(features.float())
        return logits.softmax(1)

    found = clean_outputs(
        answer, (backbone, head), source, rows,
        image_views(Weak(shown.view_size), None, shown.normalization, 0).clean,
        runtime=runtime, progress=progress,
    )  # fmt: skip
    return found.numpy()


@torch.no_grad()
def row_probabilities(
    classifier: nn.Module, values: NDArray[np.float32], device: str
) -> NDArray[np.float32]:
    """What a classifier on features says of rows: (N, D) to (N, C)."""
    head = classifier.to(device).eval()
    found = [
        head(torch.from_numpy(np.array(values[first : first + _BLOCK])).to(device)).softmax(1)
        for first in range(0, len(values), _BLOCK)
    ]
    return torch.cat(found).cpu().numpy()
