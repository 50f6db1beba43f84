from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.config import from_dict, from_toml, override, overrides, to_dict
from labelsieve.errors import ConfigError


@dataclass(frozen=True)
class Optics:
    xi: float = 0.02
    min_samples: int = 75


@dataclass(frozen=True)
class Job:
    optics: Optics = field(default_factory=Optics)
    rule: Literal["density", "coherence"] = "density"
    flip: bool = True
    name: str = "a"


def test_a_nested_setting_is_replaced_by_its_path():
    assert override(Job(), "optics.xi=0.05").optics == Optics(xi=0.05)


def test_later_assignments_win():
    assert overrides(Job(), ["name=b", "name=c"]).name == "c"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optics.x=1", "Optics has no setting 'x'. Did you mean 'xi'?"),
        ("optic.xi=1", "Job has no setting 'optic'. Did you mean 'optics'?"),
        ("min_samples=3", "Job has no setting 'min_samples'. Did you mean 'optics.min_samples'?"),
        ("optics.min_samples=two", "min_samples takes a whole number, got 'two'."),
        ("optics.xi=x", "xi takes a number, got 'x'."),
        ("rule=best", "rule takes one of density, coherence; got 'best'."),
        ("flip=1", "flip takes true or false, got '1'."),
        ("optics=1", "optics is a group of settings. Set one of them: optics.xi, optics.min_samp"),
        ("name.x=1", "name is one value and has no setting 'x'."),
        ("name", "--set takes name=value, got 'name'."),
    ],
)
def test_a_wrong_assignment_says_what_was_expected(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(Job(), assignment)
    assert message in str(error.value)


@dataclass(frozen=True)
class Range:
    low: int = 25
    high: int = 75

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(f"low={self.low}, high={self.high}; expected low <= high.")


@pytest.mark.parametrize("words", [["low=80", "high=90"], ["high=20", "low=10"]])
def test_settings_are_checked_together_whatever_their_order(words):
    changed = overrides(Range(), words)
    assert from_dict(Range(), to_dict(changed), "run.json") == changed


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(text):
    with pytest.raises(ConfigError, match="xi takes a number"):
        override(Job(), f"optics.xi={text}")


def test_settings_survive_json():
    changed = overrides(Job(), ["optics.xi=0.1", "flip=false", "rule=coherence"])
    assert from_dict(Job(), to_dict(changed), "run.json") == changed


def test_toml_sets_nested_fields(tmp_path: Path):
    path = tmp_path / "settings.toml"
    path.write_text('name = "b"\nflip = false\n[optics]\nmin_samples = 20\n')
    assert from_toml(Job(), path) == Job(Optics(min_samples=20), flip=False, name="b")


@dataclass(frozen=True)
class Cuts:
    at: tuple[float, ...] = (0.5, 0.75)
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("at=0.25", (0.25,)),
        ("at=0.1, 0.2,0.3", (0.1, 0.2, 0.3)),
        ("at=", ()),
        ("sizes=1,2", (1, 2)),
    ],
)
def test_many_numbers_are_separated_by_commas(assignment, expected):
    assert getattr(override(Cuts(), assignment), assignment.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("at=0.5;0.75", "at takes a number, got '0.5;0.75'"),
        ("at=0.5,", "at takes a number, got ''"),
        ("at=0.5,inf", "at takes a number, got 'inf'"),
        ("sizes=1,2.5", "sizes takes a whole number, got '2.5'"),
    ],
)
def test_one_wrong_number_of_many_is_named(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(Cuts(), assignment)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.lists(st.integers(-5, 2**70)))
def test_many_numbers_survive_json(floats, integers):
    settings = Cuts(tuple(floats), tuple(integers))
    assert from_dict(Cuts(), json.loads(json.dumps(to_dict(settings))), "run.json") == settings


def test_many_numbers_survive_toml(tmp_path: Path):
    path = tmp_path / "settings.toml"
    path.write_text("at = [0.125, 1e-3]\nsizes = []\n")
    assert from_toml(Cuts(sizes=(3,)), path) == Cuts((0.125, 1e-3), ())


def test_toml_that_is_not_toml_names_the_file(tmp_path: Path):
    path = tmp_path / "settings.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="settings.toml: cannot be read as TOML"):
        from_toml(Job(), path)


def test_a_table_for_a_single_value_is_refused():
    with pytest.raises(
        ConfigError, match="settings.toml: name is one value and has no setting 'x'"
    ):
        from_dict(Job(), {"name": {"x": 1}}, "settings.toml")


@dataclass(frozen=True)
class Maybe:
    name: str | None = None
    n: int | None = 3
    optics: Optics | None = field(default_factory=Optics)


def test_what_may_be_left_out_is_set_and_taken_away():
    changed = overrides(Maybe(), ["name=resnet", "n=none", "optics=none"])
    assert changed == Maybe("resnet", None, None)
    assert override(Maybe(), "n=4").n == 4
    assert override(Maybe(), "optics.xi=0.5").optics == Optics(xi=0.5)
    for settings in (changed, Maybe()):
        assert from_dict(Maybe(), json.loads(json.dumps(to_dict(settings))), "r") == settings
    assert override(Job(), "name=none").name == "none"  # of what may not be left out, a word
    with pytest.raises(ConfigError, match="n takes a whole number, got 'many'"):
        override(Maybe(), "n=many")
