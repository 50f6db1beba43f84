"""Parameters of networks: read from files, loaded all or not at all, hashed, drawn from a seed.

A file's names may have something before them, such as the "module." of DistributedDataParallel or
the "encoder_q." of MoCo. What is taken off is found by counting and said in the result.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from labelsieve.errors import ConfigError

# What comes before a backbone's names: nothing; MoCo; MoCo v3; SCAN and many more; SimSiam; others
PREFIXES = ("", "encoder_q.", "base_encoder.", "backbone.", "encoder.", "model.")
# DistributedDataParallel's and torch.compile's, in front of all that
_WRAPPED = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
_HOLDERS = ("state_dict", "model_state_dict", "model_ema", "model")  # keys of weights in a file
_COUNTER = ".num_batches_tracked"  # older files lack it, and we do not use it
_N_SHOWN = 5  # names in a message


class Loaded(NamedTuple):
    """What `load_strict` did beyond the plain."""

    prefix: str  # that was taken off the names; empty where there was none
    left_out: tuple[str, ...]  # names in the file that were not needed


def read_state(path: Path, option: str = "--weights") -> dict[str, Tensor]:
    """The tensors of a weights file, by name. Never runs code from the file.

    Args:
        path: .safetensors, or a .pth, .pt or .bin file with a state_dict or a checkpoint that has
            one under a usual key.
        option: what the user gave the path with, for messages.

    Raises:
        ConfigError: it cannot be read, or holds other things than tensors.
    """
    where = f"{option} {path}".strip()
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: there is no such file.") from error
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(
            f"{where}: cannot be read as weights: {first_line(error)}. "
            "Give a .safetensors file, or a .pth, .pt or .bin file of tensors alone."
        ) from error
    for holder in _HOLDERS:
        if isinstance(state, Mapping) and isinstance(state.get(holder), Mapping):
            state = state[holder]
            break
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{where}: holds a {type(state).__name__} of other things than tensors; "
            "expected a model's state_dict."
        )
    return {str(key): value for key, value in state.items()}


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    name: str,
    prefixes: Iterable[str] = PREFIXES,
    leftovers: Iterable[str] = (),
) -> Loaded:
    """Give a module exactly the parameters of a state_dict, or change nothing.

    Args:
        module: to be loaded.
        state: its parameters by name, with one of `prefixes` before all of them.
        source: the file, for messages.
        name: of the module, for messages.
        prefixes: that may stand before the names, after those of DistributedDataParallel and
            torch.compile. The one under which most parameters are found is taken off; of equals,
            the first.
        leftovers: beginnings of names that the file may have beyond, such as a classifier's "fc.".

    Raises:
        ConfigError: listing what is missing, of another shape, or unknown.
    """
    expected = module.state_dict()
    wrapper, prefix = _find_prefix(state, expected, tuple(prefixes))
    inside = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    spare = [each for each in inside if each not in expected]
    spare += [key.removeprefix(wrapper) for key in state if not key.startswith(prefix)]
    missing = [each for each in expected if each not in inside and not each.endswith(_COUNTER)]
    found = {
        each: _without_first(state[inside[each]], value)
        for each, value in expected.items()
        if each in inside
    }
    other_shape = [
        f"{each} {tuple(value.shape)} in place of {tuple(expected[each].shape)}"
        for each, value in found.items()
        if value.shape != expected[each].shape
    ]
    unknown = [each for each in spare if not each.startswith(tuple(leftovers))]
    parts = {"missing": missing, "of another shape": other_shape, "unknown": unknown}
    if any(parts.values()):
        listed = "; ".join(
            f"{len(each)} {what} ({_some(each)})" for what, each in parts.items() if each
        )
        after = f", after {prefix!r} was taken off their names" if prefix else ""
        raise ConfigError(
            f"{source}: not the weights of {name}: of its {len(expected)} parameters, "
            f"{listed}{after}. Give the weights of this very model."
        )
    module.load_state_dict({**expected, **found})
    return Loaded(prefix, tuple(spare))


def digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers, with their names: equal means equal features."""
    hashed = hashlib.blake2b(digest_size=6)
    for key, value in module.state_dict().items():
        hashed.update(f"{key} {tuple(value.shape)} {value.dtype}\0".encode())
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        hashed.update(raw.numpy().data)
    return hashed.hexdigest()


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Networks that are made inside draw their first weights from a seed.

    PyTorch's layers draw from its one global generator; it is put back as it was.

    Example:
        >>> def first():
        ...     with drawn_from(1):
        ...         return nn.Linear(2, 2).weight
        >>> torch.equal(first(), first())
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def first_line(error: Exception) -> str:
    """The beginning of another library's message, to stand within one of ours."""
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")


def _without_first(value: Tensor, expected: Tensor) -> Tensor:
    """Values of batch norms as (D,), which files that were made from Caffe's have as (1, D)."""
    return value[0] if expected.ndim == 1 and value.shape == (1, *expected.shape) else value


def _find_prefix(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefixes: tuple[str, ...]
) -> tuple[str, str]:
    """What DistributedDataParallel and the like put before the names; and that with a prefix."""
    best, most = ("", ""), 0
    for wrapper, prefix in product(_WRAPPED, prefixes):
        n = sum(wrapper + prefix + name in state for name in expected)
        if n > most:
            best, most = (wrapper, wrapper + prefix), n
    return best


def _some(names: list[str]) -> str:
    return ", ".join(names[:_N_SHOWN]) + (", ..." if len(names) > _N_SHOWN else "")
