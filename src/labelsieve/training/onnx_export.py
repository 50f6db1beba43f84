"""A trained classifier as one ONNX file, which other programs run without PyTorch or this package.

What is done to pixels before the network sees them is part of the file: it takes the central square
of an image, resized to the size that the file says, as red, green and blue from 0 to 255.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError, RunError, import_extra
from labelsieve.features.heads import Classifier
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network
from labelsieve.features.weights import digest
from labelsieve.files import atomic
from labelsieve.run import read_run
from labelsieve.training.classifying import ROWS

_PURPOSE = "--to onnx"
_SUFFIX = ".onnx"
_ADVICE = {
    job: "Train one on it first: labelsieve train RUN --out MODEL" for job in ("audit", "demo")
}
_OPSET = 18  # of 2022: old enough for what runs such files


@dataclass(frozen=True)
class OnnxExported:
    """What an ONNX file takes and gives."""

    out: str
    input: str  # name of the input, float32
    shape: tuple[int, ...]  # of one image or row in it
    class_names: tuple[str, ...]  # of the columns of both outputs, probabilities and logits
    n_bytes: int

    def __str__(self) -> str:
        shape = ", ".join(map(str, ("B", *self.shape)))
        return (
            f"{self.out} ({self.n_bytes / 1e6:,.1f} MB): {self.input} ({shape}) to probabilities "
            f"of {len(self.class_names)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def export_onnx(folder: Path, out: Path) -> OnnxExported:
    """Write the classifier of a finished training as ONNX.

    The file has one input, float32 of any batch size, and the outputs `probabilities` and `logits`,
    (B, C) float32. Of a network the input is `images` (B, 3, S, S), of a classifier on features
    `features` (B, D), rows of length 1. Its metadata say how to make the input, and the class names
    as JSON.

    Args:
        folder: of a run of `labelsieve train`, or of a model saved from one.
        out: the file, which is not there yet; its name ends in .onnx.

    Raises:
        ConfigError: there is no trained classifier in the folder, or `out` has another ending.
        RunError: `out` exists or cannot be written.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    if out.suffix != _SUFFIX:
        raise ConfigError(f"--out {out}: the name of an ONNX file ends in {_SUFFIX}.")
    if os.path.lexists(out):
        raise RunError(f"{out}: exists already. Choose another place, or remove it first.")
    _check_job(folder)
    onnx = import_extra("onnx", "onnx", _PURPOSE)
    import_extra("onnxscript", "onnx", _PURPOSE)  # what torch's exporter is written with
    module, about = load_network(folder)
    portable = _portable(folder, module, about)
    made = _converted(portable.eval())
    class_names = tuple(map(str, about["class_names"]))
    for key, value in _facts(portable, about, digest(module)).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(made)
    raw = made.SerializeToString()
    with atomic(out) as partial:
        partial.write_bytes(raw)
    return OnnxExported(str(out), portable.input, portable.shape, class_names, len(raw))


def _check_job(folder: Path) -> None:
    """Refuse a run that trained no classifier, where the folder says of which kind it is.

    Raises:
        ConfigError: it was another command's.
    """
    if not (folder / "run.json").is_file():
        return
    job = read_run(folder)["job"]
    if job != "train":
        raise ConfigError(
            f"{folder}: made by `labelsieve {job}`, which trains no classifier; expected a run of "
            f"`labelsieve train`. {_ADVICE.get(job, '')}".rstrip()
        )


def _converted(portable: Portable) -> Any:
    """The ModelProto of a model in evaluation mode."""
    with _quietly():
        program = torch.onnx.export(
            portable,
            (torch.zeros(2, *portable.shape),),
            input_names=[portable.input],
            output_names=["probabilities", "logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 -- as no file was named
    return program.model_proto


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch's exporter says of PyTorch, such as that torchvision is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class Portable(nn.Module):
    """A backbone and its classifier, from images or rows as anyone has them to probabilities."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        classifier: Classifier,
        shape: tuple[int, ...],
        view_size: int = 0,
        normalization: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the parts as they are.

        Args:
            backbone: views (B, 3, S, S), or rows (B, D), to features.
            classifier: of those.
            shape: of one image (3, S, S) or row (D,).
            view_size: side of the middle of an image that the network sees, pixels.
            normalization: its mean and deviation of red, green and blue in [0, 1]; None: of rows.
        """
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self.shape, self.view_size = shape, view_size
        self.input = "features" if normalization is None else "images"
        self.is_normalized = normalization is not None
        for name in ("mean", "deviation"):
            values = torch.tensor((normalization or {}).get(name, ()), dtype=torch.float32)
            self.register_buffer(name, 255 * values[:, None, None])

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) float32 to (B, C) probabilities and logits."""
        if self.is_normalized:
            first = (self.shape[-1] - self.view_size) // 2
            part = slice(first, first + self.view_size)
            given = (given[:, :, part, part] - self.mean) / self.deviation
        logits: Tensor = self.classifier(self.backbone(given))
        return logits.softmax(dim=1), logits


def _portable(folder: Path, module: nn.Module, about: Mapping[str, Any]) -> Portable:
    """The classifier of a run with what it is given."""
    parts = dict(module.named_children())
    if not {"backbone", "classifier"} <= set(parts) or "class_names" not in about:
        raise ConfigError(
            f"{folder}: the model there is no trained classifier; expected a run of `labelsieve "
            "train`."
        )
    backbone, classifier = parts["backbone"], parts["classifier"]
    assert isinstance(classifier, Classifier)  # noqa: S101 -- what such a run writes
    if about["kind"] == ROWS:
        rows = backbone if isinstance(backbone, Rows) else next(backbone.children())
        assert isinstance(rows, Rows)  # noqa: S101
        return Portable(backbone, classifier, (rows.settings.n_in,))
    view_size = int(about["view_size"])
    size = max(int(about["image_size"]), view_size)
    return Portable(backbone, classifier, (3, size, size), view_size, about["normalization"])


def _facts(portable: Portable, about: Mapping[str, Any], weights: str) -> dict[str, str]:
    """What the file says of itself."""
    if portable.input == "features":
        maker = about["features"].get("maker", "file")
        wanted = f"rows of features, each of length 1, as those trained on: made by {maker}"
    else:
        size = portable.shape[-1]
        wanted = (
            f"the central square of an image, resized to {size} x {size} pixels with antialiasing; "
            "red, green and blue from 0 to 255"
        )
    return {
        "class_names": json.dumps(list(about["class_names"]), ensure_ascii=False),
        "input": wanted,
        "weights": weights,
        "made_by": "labelsieve",
    }
