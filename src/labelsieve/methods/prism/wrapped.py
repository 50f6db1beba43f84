"""What a loss or miner of another library is, told by what it has, and which cannot be filtered.

No such library is imported: the wrapped object has done that, and what it needs differs between
versions.
"""

from __future__ import annotations

import re
from importlib import metadata

from labelsieve.errors import ConfigError


def has_memory(loss: object) -> bool:
    """Whether it is a CrossBatchMemory of pytorch-metric-learning (PML)."""
    return hasattr(loss, "embedding_memory") and hasattr(loss, "label_memory")


def is_old_memory(loss: object) -> bool:
    """Whether it is a CrossBatchMemory of PML 2; version 3 was written anew."""
    if not (has_memory(loss) and hasattr(loss, "queue_idx") and hasattr(loss, "has_been_filled")):
        return False
    try:
        major = re.match(r"\d+", metadata.version("pytorch-metric-learning"))
    except metadata.PackageNotFoundError:
        return True  # a copy that somebody carries along
    return major is None or int(major[0]) < 3


def has_oml_miner(loss: object) -> bool:
    """Whether it holds a miner of open-metric-learning, which wants two rows of each label."""
    return hasattr(getattr(loss, "miner", None), "sample")


def check_loss(loss: object, memory_weight: float) -> None:
    """Refuse what cannot work around rows that were filtered.

    Raises:
        ConfigError: a loss that gathers from processes, one that has a memory beside the filter's,
            or a miner that `check_oml_miner` refuses.
    """
    if "DistributedLossWrapper" in {each.__name__ for each in type(loss).__mro__}:
        raise ConfigError(
            "FilteredLoss around DistributedLossWrapper would keep another number of rows on each "
            "process, which cannot be gathered. Gather embeddings and labels of all processes "
            "yourself, and put FilteredLoss around the loss alone."
        )
    if not 0 <= memory_weight < float("inf"):
        raise ConfigError(f"memory_weight is {memory_weight}; expected 0 or more.")
    if memory_weight and (has_memory(loss) or has_oml_miner(loss)):
        raise ConfigError(
            f"memory_weight is {memory_weight}, and {type(loss).__name__} takes no references "
            "beside its own. Set memory_weight=0, or give the loss that is inside of it."
        )
    if has_oml_miner(loss):
        check_oml_miner(getattr(loss, "miner", None))


def check_oml_miner(miner: object) -> None:
    """Refuse miners that need batches of a fixed shape.

    Raises:
        ConfigError: a miner with a bank of batches, or one that wants classes of equal size.
    """
    name = type(miner).__name__
    if hasattr(miner, "bank_size_in_batches"):
        raise ConfigError(
            f"{name} keeps batches that are all of one size; filtered ones are not. "
            "Use a miner without bank, such as NHardTripletsMiner."
        )
    if name == "HardClusterMiner":
        raise ConfigError(
            f"{name} needs the same number of images of each class in a batch, which filtered "
            "batches do not have. Use another, such as NHardTripletsMiner."
        )
