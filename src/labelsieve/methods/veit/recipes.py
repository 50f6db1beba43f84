"""Named settings of a tagger's training: `--recipe`. All begin with the same tagger of noisy tags.

The published ones learn with the published optimizer, and what they are compared with learns as
long and in the same way.
"""

from __future__ import annotations

from collections.abc import Callable

from labelsieve.errors import ConfigError, did_you_mean
from labelsieve.methods.veit.objectives.biases import Biases
from labelsieve.methods.veit.objectives.gated import Gated
from labelsieve.methods.veit.objectives.joint import Joint
from labelsieve.methods.veit.objectives.misra import Misra
from labelsieve.methods.veit.objectives.plain import Clean, Mixed, Noisy
from labelsieve.methods.veit.training import VeitTraining, rmsprop


def default() -> VeitTraining:
    """Five gates say how likely each asserted tag is right; the tagger learns that, calibrated.

    Run:      labelsieve tag photos.csv --verified checked.csv --out tags/
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Gated())


def paper() -> VeitTraining:
    """Veit et al., "ours with joint training": cleaner and tagger learn together.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe paper --out tags/
    Paper:    87.67 average precision over all tags, 62.38 mean over tags, on Open Images; the
    tagger of noisy tags 83.82 and 61.82. On features that stay as they are.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Joint(), training=rmsprop())


def paper_pretrained() -> VeitTraining:
    """Veit et al., "ours with pre-training": the cleaner learns alone before.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe paper-pretrained --out tags/
    Paper:    87.68 and 62.36; see `paper`.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Joint(pretrained=True), training=rmsprop())


def noisy() -> VeitTraining:
    """The tags as asserted: what everything is compared with.

    Run:      labelsieve tag photos.csv --recipe noisy --out tags/
    Paper:    83.82 and 61.82; see `paper`.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Noisy(), training=rmsprop())


def clean() -> VeitTraining:
    """Fine-tuned on verified images alone, stopped in time.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe clean --out tags/
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Clean(), training=rmsprop())


def clean_long() -> VeitTraining:
    """Fine-tuned on verified images alone for as long as published, without a stop.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe clean-long --out tags/
    Paper:    85.88 and 61.53, below the tagger of noisy tags by the latter; see `paper`.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Clean(updates=4000), training=rmsprop())


def mixed() -> VeitTraining:
    """Fine-tuned on tags as asserted and verified ones, 9:1, without a cleaner.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe mixed --out tags/
    Paper:    84.80 and 61.90; see `paper`.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Mixed(), training=rmsprop())


def misra() -> VeitTraining:
    """Misra et al., CVPR 2016: what is seen and what of it is named; no verified tags.

    Run:      labelsieve tag photos.csv --recipe misra --out tags/
    Paper:    83.55 and 61.85 of what is seen, 83.79 and 61.89 of what is named; see `paper`.
    Measured: docs/results.md, "Tags".
    """
    return VeitTraining(objective=Misra(), training=rmsprop())


def biases() -> VeitTraining:
    """One number a tag is learned of verified images: what calibration alone achieves.

    Run:      labelsieve tag photos.csv --verified checked.csv --recipe biases --out tags/
    Measured: docs/results.md, "Tags". Not in the paper.
    """
    return VeitTraining(objective=Biases(), training=rmsprop())


OBJECTIVES: dict[str, Callable[[], VeitTraining]] = {
    "default": default,
    "paper": paper,
    "paper-pretrained": paper_pretrained,
    "noisy": noisy,
    "clean": clean,
    "clean-long": clean_long,
    "mixed": mixed,
    "misra": misra,
    "biases": biases,
}


def tag_recipe(name: str) -> VeitTraining:
    """The settings of a recipe by its name.

    Raises:
        ConfigError: there is no such recipe; near names are suggested.

    Example:
        >>> tag_recipe("paper").objective.cleaner_factor
        15.0
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"there is no recipe {name!r}. {did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]()
