"""The nouns that pass between stages, frozen and checked when made, each with `save` and `load`.

Here are the four of every run; the modules beside have those of clusterings (`clusters`),
classifiers (`predictions`) and tags (`tag_set`, `tag_findings`, `tagged_images`). Axis letters, in
the whole package: N images, B batch, C classes, D feature, K neighbors.
"""

from labelsieve.records.features import Features, Neighbors
from labelsieve.records.findings import Findings, NoiseRate, Verdict
from labelsieve.records.images import ImageSet, Places

__all__ = ["Features", "Findings", "ImageSet", "Neighbors", "NoiseRate", "Places", "Verdict"]
