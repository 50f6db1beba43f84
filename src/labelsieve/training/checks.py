"""What a training is given, looked over before any of the work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from labelsieve.auditing.audit import Audit, recipe
from labelsieve.config import to_dict
from labelsieve.errors import ConfigError, DataError, RunError
from labelsieve.loop.runtime import n_launched
from labelsieve.run import flat, read_run
from labelsieve.stages.inputs import Inputs
from labelsieve.training.evidence import origin_of


class Trains(Protocol):
    """Settings of what is trained on features or on images."""

    @property
    def rows(self) -> Literal["features", "images"]: ...


_SOURCES = ("audit", "demo", "train")  # whose findings can be trained on
_DECIDED = ("label", "truth", "features", "backbone", "pretrain")  # by an audit


def training_inputs(source: str, chosen: Mapping[str, Any]) -> Inputs:
    """What a training works on: images, or the folder of a finished audit.

    Args:
        source: of the command line.
        chosen: fields of `Inputs`.

    Raises:
        ConfigError: an option that the audit has decided already.
        RunError: the run has not finished, or made no findings.
    """
    if not (Path(source) / "run.json").is_file():
        return Inputs(source=source, **chosen)
    about = read_run(Path(source))
    if about["job"] not in _SOURCES:
        raise RunError(
            f"{source}: made by `labelsieve {about['job']}`, which leaves no findings; expected "
            "images, or a run of `labelsieve audit`."
        )
    given = [name for name in _DECIDED if chosen.get(name) is not None]
    if given:
        raise ConfigError(
            f"--{given[0]} {chosen[given[0]]}: the audit in {source} has decided that already. "
            "Leave it out, or give the images in place of the run."
        )
    audit = about["settings"]["inputs"]
    of_audit = {name: audit[name] for name in ("source", "label", "truth")}
    return Inputs(**{**chosen, **of_audit}, audited=source)


def check_audit_settings(inputs: Inputs, audit: Audit) -> None:
    """Refuse settings of an audit where one is done: they would change nothing.

    Args:
        inputs: of the training.
        audit: its settings.

    Raises:
        ConfigError: they are others than those of the recipe.
    """
    if inputs.audited is None:
        return
    plain, given = (flat(to_dict(each)) for each in (recipe("robust", inputs.pretrain), audit))
    changed = [name for name in given if given[name] != plain.get(name)]
    if changed:
        raise ConfigError(
            f"audit.{changed[0]}: the audit in {inputs.audited} is done, and no setting of it is "
            "used any more. Leave it out, or give the images in place of the run."
        )


def check_places(inputs: Inputs, settings: Trains, out: Path) -> None:
    """Refuse what cannot be written where it should be, or by so many processes.

    Raises:
        ConfigError: as it says.
    """
    if n_launched() > 1 and settings.rows == "features":
        raise ConfigError(
            f"{n_launched()} processes were begun, and what is trained on features is trained in "
            "one. Run the same words without torchrun or accelerate launch, or train a network: "
            "--model NAME."
        )
    for given in (inputs.source, inputs.test):
        source = None if given is None else Path(given).resolve()
        if source is not None and source.is_dir() and out.resolve().is_relative_to(source):
            raise ConfigError(
                f"--out {out}: lies among the images of {source}. Choose another place."
            )
    if inputs.audited is not None and out.resolve() == Path(inputs.audited).resolve():
        raise ConfigError(f"--out {out}: is the audit that is trained on. Choose another place.")


def check_test_features(inputs: Inputs, settings: Trains) -> None:
    """See that features of the test images are given where they are needed, and nowhere else.

    Raises:
        ConfigError: they are missing, or not needed.
        DataError: there is no such file.
        RunError: the audit that has the features is not there any more.
    """
    on_features = settings.rows == "features"
    of_audit = inputs
    if on_features and inputs.audited is not None:
        about = read_run(origin_of(Path(inputs.audited)))
        of_audit = Inputs(**about["settings"]["inputs"])
    given = inputs.test_features
    if given is None:
        if inputs.test is not None and on_features and of_audit.features is not None:
            raise ConfigError(
                f"--test {inputs.test}: it is trained on features of your own; expected"
                " those of the test images, made in the same way. Add --test-features FILE."
            )
        return
    if inputs.test is None:
        raise ConfigError(f"--test-features {given}: of which images? Add --test IMAGES.")
    if not on_features:
        raise ConfigError(
            f"--test-features {given}: a network looks at the test images itself. Leave it out."
        )
    if of_audit.features is None:
        raise ConfigError(
            f"--test-features {given}: the features of the training images are made here, and so "
            "are those of the test images. Leave it out, or give both with --features FILE."
        )


def check_test_file(inputs: Inputs) -> None:
    """Refuse a file of test features that is not there.

    Raises:
        DataError: there is no such file.
    """
    if inputs.test_features is not None and not Path(inputs.test_features).is_file():
        raise DataError(f"--test-features {inputs.test_features}: there is no such file.")
