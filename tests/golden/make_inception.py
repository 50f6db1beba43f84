"""Make the golden features of an Inception-ResNet-v2: `python tests/golden/make_inception.py`.

inception.npz holds what timm's network says of random pictures of two sizes, with parameters that
follow from their names (`parameter`), so that the file need not hold them. timm imports torchvision
where it is installed, and needs it.

Made with timm 1.0.31, torch 2.13.0 (CPU, float32), torchvision 0.28.0.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SIZES = (84, 227)


def parameter(name, shape):
    """float32 values of a parameter or buffer: a function of its name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        return (deviation * rng.standard_normal(shape, np.float32)).astype(np.float32)
    if name.endswith(("bn.weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def pictures(size):
    """(1, 3, size, size) float32."""
    return np.random.default_rng(size).standard_normal((1, 3, size, size), np.float32)


if __name__ == "__main__":
    import timm
    import torch

    torch.set_num_threads(1)
    model = timm.create_model("inception_resnet_v2", pretrained=False, num_classes=0).eval()
    state = {
        name: torch.from_numpy(parameter(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        found = {f"features_{n}": model(torch.from_numpy(pictures(n))).numpy()[0] for n in SIZES}
    np.savez_compressed(HERE / "inception.npz", **found)
