"""What an audit would cost, said before it is begun: `labelsieve audit --dry-run`."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from labelsieve.auditing.audit import Audit, check_labels
from labelsieve.data.decode import stream
from labelsieve.data.places import reading_order
from labelsieve.data.read import read
from labelsieve.features.dictionary import n_codes_to_fit
from labelsieve.features.joint import n_codes_to_fit as n_joint_codes_to_fit
from labelsieve.features.pretrain import Pretrain, shortened
from labelsieve.methods.prism.detect import PrismDetection
from labelsieve.records import ImageSet
from labelsieve.stages.inputs import Inputs
from labelsieve.stages.representation import feature_maker

N_TRIED = 256  # images decoded to see how long one takes
D_UNKNOWN = 768  # features of a network or of the user's own, for the estimate only

# CPU-seconds on one core that multiplies float32 matrices at 80 GFLOP/s; made by
# `python benchmarks/stages.py`, see docs/results.md. A machine twice as fast takes half.
REFERENCE_RATE = 80e9
FIT_SECONDS = 10.0  # of the dictionary, whatever the number of images
CODE_SECONDS = 0.6e-3  # of the dictionary, an image or view
NETWORK_SECONDS = 0.1  # of a network of 4 GMAC, an image
# Of training a network, an image with its two views, forward and backward in bfloat16.
TRAINING_SECONDS = {
    "dictionary-net": 1.1e-3, "narrow-resnet18": 6.8e-3, "cifar-resnet18": 0.034,
    "preact-resnet18": 0.034, "preact-resnet18-identity": 0.034, "small-preact": 0.9e-3,
    "stl-resnet18": 0.09, "resnet50": 0.27, "inception-resnet-v2": 0.086,
}  # fmt: skip
PAIR_SECONDS = 4.4e-9  # of the neighbors, a pair of images, at 256 dimensions
DETECT_SECONDS = (5.0, 1.1e-3)  # whatever the number of images, and an image
CLASS_SECONDS = 1e-5  # of the detection, an image and class
CENTER_SECONDS = 3e-8  # of recipe prism, an image, class and round, at 256 dimensions
REPORT_SECONDS = 7.0  # nearly whatever the number of images
CLASS_BYTES = 29 * 4  # of the detection, an image and class
BASE_MEMORY_MB = 950  # of Python with its libraries, and the dictionary's matrices


@dataclass(frozen=True)
class Stage:
    """The cost of one stage; a guess good to a factor of about two."""

    name: str
    seconds: float  # wall clock, with all cores


@dataclass(frozen=True)
class Plan:
    """What would be done."""

    source: str
    n_images: int
    n_unlabeled: int
    n_classes: int
    smallest_class: tuple[str, int]
    broken_of_tried: tuple[int, int]
    features: str
    stages: tuple[Stage, ...]
    memory_mb: int
    disk_mb: int  # in the run's folder while it runs

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"seconds": sum(stage.seconds for stage in self.stages)}

    def to_table(self) -> RenderableType:
        """For the terminal."""
        table = Table(title=f"Would audit {self.source}", title_justify="left", show_header=False)
        table.add_column(justify="left")
        table.add_column(justify="right")
        name, n = self.smallest_class
        table.add_row("images", f"{self.n_images:,} ({self.n_unlabeled:,} without a label)")
        table.add_row("classes", f"{self.n_classes:,}; the smallest is {name} with {n:,}")
        broken, tried = self.broken_of_tried
        table.add_row("broken", f"{broken} of {tried} tried")
        table.add_row("features", self.features)
        for stage in self.stages:
            table.add_row(f"time: {stage.name}", duration(stage.seconds))
        table.add_row("time in all, about", duration(sum(stage.seconds for stage in self.stages)))
        table.add_row("memory, about", f"{self.memory_mb:,} MB")
        table.add_row("disk while it runs, about", f"{self.disk_mb:,} MB")
        return table


def estimate(inputs: Inputs, settings: Audit) -> Plan:
    """Read the set, decode a few images, time a matrix product, and work out the rest.

    Raises:
        DataError: the audit would refuse the set.
        ConfigError: the audit would refuse the inputs.
    """
    images = read(inputs.source, label=inputs.label, truth=inputs.truth)
    check_labels(images)
    feature_maker(inputs, settings.dictionary, settings.pretrain)
    n, size = len(images), settings.dictionary.image_size
    n_cores = os.cpu_count() or 1
    decode_seconds, *broken = _try_decoding(images, size)
    speed = _matmul_rate() / (REFERENCE_RATE * n_cores)  # of a core, against the reference's
    kind, seconds, n_dimensions = _features(inputs, settings, n)
    n_classes = len(images.class_names)
    costs = {} if settings.pretrain is None else {"pretrain": _training(settings.pretrain, n)}
    costs |= {
        "features": seconds,
        "neighbors": PAIR_SECONDS * n**2 * n_dimensions / 256,
        "detect": _detecting(settings, n, n_classes, n_dimensions),
        "report": REPORT_SECONDS,
    }
    stages = [Stage("decode", decode_seconds * n)]
    stages += [Stage(name, cost / speed / n_cores) for name, cost in costs.items()]
    counts = np.bincount(np.asarray(images.labels)[np.asarray(images.labels) >= 0])
    smallest = int(np.where(counts > 0, counts, np.iinfo(np.int64).max).argmin())
    pixels, rows = n * 3 * size**2, n * n_dimensions * 4
    near = n * settings.n_neighbors * 12
    beliefs = 0 if isinstance(settings.detection, PrismDetection) else CLASS_BYTES * n * n_classes
    return Plan(
        source=inputs.source,
        n_images=n,
        n_unlabeled=int((np.asarray(images.labels) < 0).sum()),
        n_classes=int((counts > 0).sum()),
        smallest_class=(images.class_names[smallest], int(counts[smallest])),
        broken_of_tried=(broken[0], broken[1]),
        features=kind,
        stages=tuple(stages),
        memory_mb=round(BASE_MEMORY_MB + (2 * rows + 3 * near + beliefs) / 1e6),
        disk_mb=round((pixels + 2 * rows + near) / 1e6) + 1,
    )


def duration(seconds: float) -> str:
    """Time in the two units that matter.

    Example:
        >>> [duration(s) for s in (3, 75, 7500, 200000)]
        ['3 s', '1 min 15 s', '2 h 5 min', '2 d 7 h']
    """
    rest = max(1, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))


def _features(inputs: Inputs, settings: Audit, n: int) -> tuple[str, float, int]:
    """In words, CPU-seconds on the reference core, and how many dimensions."""
    if inputs.features is not None:
        return f"from {inputs.features}", 0.0, D_UNKNOWN
    if inputs.backbone is not None:
        return inputs.backbone, NETWORK_SECONDS * n, D_UNKNOWN
    if settings.pretrain is not None:
        kind = f"pretrained by recipe {inputs.pretrain}, {settings.pretrain.image_size} px"
        if settings.pretrain.rows != "joint":
            return kind, NETWORK_SECONDS * n, D_UNKNOWN
        joint = settings.pretrain.joint
        n_codes = n_joint_codes_to_fit(n, joint) + 2 * n
        return kind, FIT_SECONDS + 1.5 * CODE_SECONDS * n_codes, joint.n_dimensions
    n_codes = n_codes_to_fit(n, settings.dictionary) + 2 * n
    kind = f"dictionary, {settings.dictionary.image_size} px"
    return kind, FIT_SECONDS + CODE_SECONDS * n_codes, settings.dictionary.n_dimensions


def _detecting(settings: Audit, n: int, n_classes: int, n_dimensions: int) -> float:
    """CPU-seconds on the reference core."""
    if isinstance(settings.detection, PrismDetection):
        n_pairs = n * n_classes * settings.detection.offline.n_rounds
        return CENTER_SECONDS * n_pairs * n_dimensions / 256
    return DETECT_SECONDS[0] + (DETECT_SECONDS[1] + n_classes * CLASS_SECONDS) * n


def _training(settings: Pretrain, n: int) -> float:
    """CPU-seconds on the reference core; a GPU takes a few hundredths of it."""
    batch_size = min(settings.training.batch_size, n)
    n_batches = n // batch_size
    epochs = shortened(settings, n_batches).epochs
    return TRAINING_SECONDS[settings.network] * epochs * n_batches * batch_size


def _try_decoding(images: ImageSet, size: int) -> tuple[float, int, int]:
    """Seconds an image with all cores, and of the images tried how many are broken."""
    rows = reading_order(images.places)[:N_TRIED]  # one after another, as the audit will
    for batch in stream(images, size, len(rows), rows=rows[:8]):
        del batch  # opens the file and imports the decoder
    begun = time.perf_counter()
    broken = sum(len(batch.broken) for batch in stream(images, size, len(rows), rows=rows))
    return (time.perf_counter() - begun) / len(rows), broken, len(rows)


def _matmul_rate() -> float:
    """Multiplications and additions a second of a float32 matrix product, on all cores."""
    a = np.ones((1024, 1024), np.float32)
    a @ a  # the first call starts the threads
    begun = time.perf_counter()
    for _ in range(4):
        a @ a
    return 4 * 2 * 1024**3 / (time.perf_counter() - begun)
