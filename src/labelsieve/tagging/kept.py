"""A trained tagger in a run's folder, and what it says of any images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor, nn

from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError
from labelsieve.features.inference import middle_of
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.veit.asking import blocks
from labelsieve.methods.veit.network import Tagger, TagNet
from labelsieve.methods.veit.trained_tagger import TrainedTagger
from labelsieve.records import Features, ImageSet
from labelsieve.records.tagged_images import LEAST, N_LIKELY, TaggedImages
from labelsieve.run import Run
from labelsieve.stages.inputs import Progress, silent
from labelsieve.stages.makers import check_width, rows_of_new
from labelsieve.stages.new_images import Shown, check_no_features, new_images, readable_source
from labelsieve.stages.trained import in_training_format

NETWORK, ROWS = "tagger", "row-tagger"  # kinds of models, in model.json


class Said(NamedTuple):
    """What a tagger says of the images of a set that can be read."""

    rows: NDArray[np.int64]  # (M,) which images those are
    probabilities: csr_array  # (M, C) how likely tags are: the likeliest, and all from 0.5 on
    tag_names: tuple[str, ...]


def keep_tagger(
    folder: Path, trained: TrainedTagger, tag_names: tuple[str, ...], about: Mapping[str, Any]
) -> None:
    """Write a trained tagger, and what cleans tags, as the model of a run.

    Args:
        folder: of the run.
        trained: of images, or of rows of features.
        tag_names: of its tags.
        about: `about_network` or `about_rows`.
    """
    parts: dict[str, nn.Module] = {"backbone": trained.net.backbone, "tagger": trained.net.tagger}
    for name in ("cleaner", "gates"):
        part = getattr(trained, name)
        if part is not None:
            parts[name] = part
    module = nn.ModuleDict(parts)
    save_network(folder, module, {**about, "tag_names": list(tag_names)})


def about_network(shown: Shown) -> dict[str, Any]:
    """What model.json says of a tagger of images."""
    return {"kind": NETWORK, **shown.to_dict()}


def about_rows(maker: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says of a tagger of features, and of what makes those of new images."""
    return {"kind": ROWS, "features": dict(maker)}


def tags_of_images(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | Features | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TaggedImages:
    """Which tags each image has, by a run of `labelsieve tag`."""
    with new_images(images, device) as (images, run):
        said = tag_images(
            Path(folder), images, features=features, device=device, run=run,
            progress=progress or silent,
        )  # fmt: skip
    return TaggedImages(images.ids, said.tag_names, said.rows, said.probabilities)


def tag_images(
    folder: Path,
    images: ImageSet,
    *,
    features: str | Features | None,
    device: str,
    run: Run,
    progress: Progress,
) -> Said:
    """What the tagger of a run says of images.

    Args:
        folder: of the run; its model is enough, and what makes its features.
        images: any.
        features: of theirs, or a file, where the tagger was trained on a file of features.
        device: "cpu", "cuda", ...
        run: for what is on the way.
        progress: told stage, done and total.

    Raises:
        ConfigError: there is no such model, or features are missing or not needed.
        DataError: no image can be read.
    """
    module, about = load_network(folder)
    if about.get("kind") not in (NETWORK, ROWS):
        raise ConfigError(f"{folder}: the model there gives no tags. Name a run of `tag`.")
    assert isinstance(module, nn.ModuleDict)  # noqa: S101 -- what `keep_tagger` wrote
    tagger = module["tagger"]
    assert isinstance(tagger, Tagger)  # noqa: S101
    net = TagNet(in_training_format(module["backbone"]), tagger).eval()
    runtime, tell = Runtime.alone(device), partial(progress, "predict")
    net.to(runtime.device)
    if about["kind"] == ROWS:
        found = rows_of_new(
            folder, about["features"], images, features, device=device, run=run, progress=progress
        )
        assert isinstance(net.backbone, Rows)  # noqa: S101
        check_width(found, net.backbone.settings.n_in, folder)
        place = {name: row for row, name in enumerate(images.ids)}
        rows = np.array([place[name] for name in found.ids], np.int64)
        source, at = of_rows(found.values), np.arange(len(rows))
        clean: Callable[[Tensor], Tensor] = _as_it_is
    else:
        check_no_features(features)
        shown = Shown.of(about)
        pixels, source = readable_source(images, shown.image_size, run.checkpoint, progress)
        rows = at = np.flatnonzero(pixels.usable)
        clean = middle_of(shown.view_size, shown.normalization)
    parts, done = list[csr_array](), 0
    for block, _, logits in blocks(net, source, at, clean, runtime):
        parts.append(likely_tags(logits.float().sigmoid()))
        done += len(block)
        tell(done, len(at))
    return Said(rows, csr_array(vstack(parts)), tuple(about["tag_names"]))


def likely_tags(said: Tensor) -> csr_array:
    """Of (B, C) probabilities the likeliest of each row, and all that make a tag: sparse."""
    keep = said >= LEAST
    n = min(N_LIKELY, said.shape[1])
    keep.scatter_(1, said.topk(n, dim=1).indices, True)
    rows, columns = (part.cpu().numpy() for part in keep.nonzero(as_tuple=True))
    pointers = np.searchsorted(rows, np.arange(len(said) + 1)).astype(np.int32)
    parts = (said[keep].cpu().numpy(), columns.astype(np.int32), pointers)
    return csr_array(parts, shape=tuple(said.shape))


def _as_it_is(rows: Tensor) -> Tensor:
    return rows
