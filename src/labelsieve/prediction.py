"""New images into the clusters or classes of a finished run: `labelsieve predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labelsieve.clustering.predict import clusters_of, predict_clusters
from labelsieve.errors import ConfigError, RunError
from labelsieve.exports import read_names
from labelsieve.records import Features, ImageSet
from labelsieve.records.clusters import Clusters
from labelsieve.records.predictions import Predictions
from labelsieve.records.tagged_images import TaggedImages
from labelsieve.retrieval.kept import embed_images
from labelsieve.run import read_run
from labelsieve.stages.inputs import Progress
from labelsieve.tagging.kept import tags_of_images
from labelsieve.training.classifying import predict_classes

SUFFIXES = (".csv", ".parquet")
_NAMED = {  # runs whose predictions nobody needs to name
    "train": "the classes of {folder} have names",
    "tag": "tags have names",
    "retrieve": "embeddings have no names",
}


def run_predict(
    folder: Path,
    source: str,
    out: Path,
    *,
    names: Path | None = None,
    features: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Clusters | Predictions | Features | TaggedImages:
    """Write a table of new images and the clusters or classes they fall into, or their embeddings.

    Args:
        folder: of a finished `labelsieve cluster`, `labelsieve train` or `labelsieve retrieve`.
        source: the new images.
        out: .csv or .parquet, with the columns of clusters.csv or predictions.csv; .npy of
            embeddings.
        names: a table of `cluster` and `name`; two clusters of one name become one, those that it
            does not name keep their numbers.
        features: file of the new images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        overwrite: replace `out`.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: `out` has another suffix, or features are missing or not needed.
        RunError: there is no such run, or `out` exists.
        DataError: no image can be read, or the table of names is not what was expected.
    """
    job = read_run(folder)["job"]
    _check_out(out, job, overwrite=overwrite)
    if job in _NAMED and names is not None:
        raise ConfigError(f"--names {names}: {_NAMED[job].format(folder=folder)}. Leave it out.")
    given = None if names is None else read_names(names, len(clusters_of(folder).names))
    found = predict(folder, source, features=features, device=device, progress=progress)
    if isinstance(found, Features):
        found.save(out)
        return found
    if isinstance(found, Clusters) and given is not None:
        found = found.named(given)
    found.write(out)
    return found


def _check_out(out: Path, job: str, *, overwrite: bool) -> None:
    if job == "retrieve" and out.suffix.lower() != ".npy":
        raise ConfigError(
            f"--out {out}: embeddings are written as .npy, their ids beside them as .json."
        )
    if job != "retrieve" and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: predictions are written as .csv or .parquet.")
    if out.exists() and not overwrite:
        raise RunError(f"{out}: exists already. Add --overwrite to replace it, or choose another.")
    if not out.parent.is_dir():
        raise RunError(f"{out}: there is no folder {out.parent}. Make it, or choose another place.")


def predict(
    folder: str | Path,
    images: ImageSet | str | Path,
    *,
    features: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Clusters | Predictions | Features | TaggedImages:
    """Put images into the clusters that a run made, say which of its classes they show, or embed.

    Args:
        folder: of a finished `labelsieve cluster`, `train`, `retrieve` or `tag`.
        images: from `read`, or what `read` takes.
        features: file of the images' features, where the run's own came from a file.
        device: "cpu", "cuda", ...
        progress: called with (stage, done, total).

    Returns:
        clusters with the run's numbers, to which `named` gives names; predictions; or embeddings.

    Raises:
        RunError: there is no such run.
        ConfigError: features are missing or not needed.
        DataError: no image can be read.

    Example:
        >>> import labelsieve as ls
        >>> clusters = ls.predict("run/", "new-photos/")  # doctest: +SKIP
    """
    ways: dict[str, Callable[..., Clusters | Predictions | Features | TaggedImages]] = {
        "train": predict_classes, "retrieve": embed_images, "tag": tags_of_images
    }  # fmt: skip
    by = ways.get(read_run(Path(folder))["job"], predict_clusters)
    return by(folder, images, features=features, device=device, progress=progress)
