"""What is trained to tag images: a backbone and a tagger on it; beside them a cleaner of tags."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from labelsieve.errors import ConfigError
from labelsieve.features.heads import width_of
from labelsieve.features.tag_heads import CleanerShape, GateCleaner, GateShape, LabelCleaner, Tagger

__all__ = [
    "CleanerShape", "GateCleaner", "GateShape", "LabelCleaner", "TagNet", "Tagger"
]  # fmt: skip


class TagNet(nn.Module):
    """A backbone and a tagger on it: inputs to features (B, D) and logits (B, C), in float32.

    The backbone is `Rows` where rows of features are learned, which has no weights to learn.
    """

    backbone: nn.Module
    tagger: Tagger

    def __init__(self, backbone: nn.Module, tagger: Tagger) -> None:
        """Put the two together, as they are.

        Raises:
            ConfigError: the tagger takes features of another width.
        """
        super().__init__()
        if tagger.in_features != width_of(backbone):
            raise ConfigError(
                f"the tagger takes {tagger.in_features} features and {type(backbone).__name__} "
                f"gives {width_of(backbone)}. Give one that was made for this network."
            )
        self.backbone, self.tagger = backbone, tagger

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.tagger.weight.dtype)
            return features, self.tagger(features)

    def train(self, mode: bool = True) -> TagNet:
        """Training mode, but not of a backbone of which nothing learns."""
        super().train(mode)
        if not any(weight.requires_grad for weight in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def twin(self) -> TagNet:
        """A copy that does not learn: the tagger always, the backbone if it could."""
        learns = any(weight.requires_grad for weight in self.backbone.parameters())
        backbone = copy.deepcopy(self.backbone) if learns else self.backbone
        return TagNet(backbone, copy.deepcopy(self.tagger)).requires_grad_(False).eval()
