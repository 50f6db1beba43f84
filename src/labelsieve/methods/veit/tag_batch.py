"""The tags of a batch, sparse; networks that take them are in `features`, to be saved there."""

from labelsieve.features.tag_batch import TagBatch, pair_places, tag_batch

__all__ = ["TagBatch", "pair_places", "tag_batch"]
