"""Make the golden features of a BN-Inception: `python tests/golden/make_bn_inception.py`.

bn_inception.npz holds what the network that the public weights were made for says of random
pictures of two sizes, before its classifier, as the mean and the maximum over places; with
parameters that follow from their names (make_inception.py), so that the file need not hold them.
`names` and `sizes` are those of its parameters and buffers.

Made with pretrainedmodels 0.7.4, torch 2.13.0 (CPU, float32). Its package wants torchvision and
others, its file of this network torch alone: it is read without the package.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SIZES = (96, 224)


if __name__ == "__main__":
    import torch
    from make_inception import parameter, pictures

    torch.set_num_threads(1)
    package = importlib.util.find_spec("pretrainedmodels")
    file = Path(package.origin).parent / "models" / "bninception.py"
    spec = importlib.util.spec_from_file_location("bninception", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.BNInception().eval()
    kept = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    shapes = {name: tuple(value.shape) for name, value in kept.items()}
    state = {name: torch.from_numpy(parameter(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(state, strict=False)
    found = {
        "names": np.array(list(shapes)),
        "sizes": np.array([" ".join(map(str, shape)) for shape in shapes.values()]),
    }
    with torch.no_grad():
        for n in SIZES:
            maps = model.features(torch.from_numpy(pictures(n)))[0]
            found[f"mean_{n}"] = maps.mean((1, 2)).numpy()
            found[f"max_{n}"] = maps.amax((1, 2)).numpy()
    np.savez_compressed(HERE / "bn_inception.npz", **found)
