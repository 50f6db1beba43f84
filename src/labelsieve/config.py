"""Settings are frozen dataclasses: changed by name, written as JSON, read from JSON or TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from labelsieve.errors import ConfigError, did_you_mean

T = TypeVar("T")


def override(settings: T, assignment: str) -> T:
    """Replace one field of a (nested) settings dataclass, given as text.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Optics:
        ...     xi: float = 0.02
        >>> override(Optics(), "xi=0.05")
        Optics(xi=0.05)

    Raises:
        ConfigError: no such field, or the text is not of its type.
    """
    name, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set takes name=value, got {assignment!r}.")
    return _replace(settings, name.strip(), text.strip())


def overrides(settings: T, assignments: Iterable[str]) -> T:
    """`override` with several assignments, in order."""
    for assignment in assignments:
        settings = override(settings, assignment)
    return settings


def to_dict(settings: Any) -> dict[str, Any]:
    """All fields of a settings dataclass, nested, ready for JSON."""
    return dataclasses.asdict(settings)


def from_dict(settings: T, changes: Mapping[str, Any], where: str) -> T:
    """Replace the fields that a (nested) mapping names; `where` is the file it came from."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            settings = _replace_nested(settings, name, value, where)
        else:
            settings = _replace(settings, name, _text(value))
    return settings


def from_toml(settings: T, path: Path) -> T:
    """Replace the fields that a TOML file names.

    Raises:
        ConfigError: the file is not TOML, or names a field that is not there.
    """
    try:
        changes = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}.") from error
    return from_dict(settings, changes, str(path))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _field_type(settings: Any, name: str) -> Any:
    types = get_type_hints(type(settings))
    if name not in types:
        raise ConfigError(
            f"{type(settings).__name__} has no setting {name!r}. {did_you_mean(name, types)}"
        )
    return types[name]


def _replace_nested(settings: T, name: str, changes: Mapping[str, Any], where: str) -> T:
    _field_type(settings, name)
    inner = getattr(settings, name)
    if not dataclasses.is_dataclass(inner):
        raise ConfigError(f"{where}: {name} is one value, not a table.")
    return dataclasses.replace(settings, **{name: from_dict(inner, changes, where)})  # type: ignore[type-var]


def _replace(settings: T, path: str, text: str) -> T:
    name, _, rest = path.partition(".")
    kind = _field_type(settings, name)
    inner = getattr(settings, name)
    if rest and dataclasses.is_dataclass(inner):
        value: Any = _replace(inner, rest, text)
    elif rest:
        raise ConfigError(f"{name} is one value and has no setting {rest!r}.")
    elif dataclasses.is_dataclass(inner):
        fields = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(inner))
        raise ConfigError(f"{name} is a group of settings. Set one of them: {fields}.")
    else:
        value = _parse(text, kind, path)
    return dataclasses.replace(settings, **{name: value})  # type: ignore[type-var]


def _parse(text: str, kind: Any, name: str) -> Any:
    """Text to a field's type: bool, int, float, str, or one of a Literal's words."""
    if get_origin(kind) is Literal:
        words = get_args(kind)
        if text not in words:
            raise ConfigError(f"{name} takes one of {', '.join(map(str, words))}; got {text!r}.")
        return text
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise ConfigError(f"{name} takes true or false, got {text!r}.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        expected = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ConfigError(f"{name} takes {expected}, got {text!r}.") from error
