"""Settings are frozen dataclasses: changed by name, written as JSON, read from JSON or TOML."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from labelsieve.errors import ConfigError, did_you_mean

T = TypeVar("T")

_N_PATHS = 4  # of settings within groups that a message names


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
    return overrides(settings, [assignment])


def overrides(settings: T, assignments: Iterable[str]) -> T:
    """Replace several fields at once: they are checked together, in whatever order they come.

    Raises:
        ConfigError: as for `override`.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, got {assignment!r}.")
        *groups, last = name.strip().split(".")
        level = changes
        for group in groups:
            level = level.setdefault(group, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{group} is one value and has no setting {last!r}.")
        level[last] = text.strip()
    return _replace(settings, changes)


def to_dict(settings: Any) -> dict[str, Any]:
    """All fields of a settings dataclass, nested, ready for JSON."""
    return dataclasses.asdict(settings)


def from_dict(settings: T, changes: Mapping[str, Any], where: str) -> T:
    """Replace the fields that a (nested) mapping names; `where` is the file it came from."""
    try:
        return _replace(settings, changes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


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


def _is_none(value: object) -> bool:
    """As JSON has it, or --set."""
    return value is None or (isinstance(value, str) and value.lower() == "none")


def _text(value: object) -> str:
    if isinstance(value, list | tuple):  # as JSON and TOML give it
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _field_type(settings: Any, name: str, prefix: str) -> Any:
    types = get_type_hints(type(settings))
    if name in types:
        return types[name]
    inside = [prefix + path for path in _paths(settings) if path.endswith(f".{name}")][:_N_PATHS]
    advice = f"Did you mean {' or '.join(map(repr, inside))}?" if inside else None
    raise ConfigError(
        f"{type(settings).__name__} has no setting {name!r}. {advice or did_you_mean(name, types)}"
    )


def _paths(settings: Any) -> Iterator[str]:
    """The names of all settings, also of groups within groups."""
    for field in dataclasses.fields(settings):
        yield field.name
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from (f"{field.name}.{path}" for path in _paths(value))


def _replace(settings: T, changes: Mapping[str, Any], prefix: str = "") -> T:
    values: dict[str, Any] = {}
    for name, value in changes.items():
        path = prefix + name
        kind, inner = _field_type(settings, name, prefix), getattr(settings, name)
        if _is_none(value) and type(None) in get_args(kind):
            values[name] = None  # such as a group that is left out
        elif isinstance(value, Mapping):
            first = next(iter(value))
            if inner is None:
                raise ConfigError(
                    f"{path} is not in use, so that there is no {path}.{first}. Name a recipe "
                    f"that has it: --{'pretrain' if name == 'pretrain' else 'recipe'} RECIPE."
                )
            if not dataclasses.is_dataclass(inner):
                raise ConfigError(f"{path} is one value and has no setting {first!r}.")
            values[name] = _replace(inner, value, f"{path}.")
        elif dataclasses.is_dataclass(inner):
            fields = ", ".join(f"{path}.{field.name}" for field in dataclasses.fields(inner))
            raise ConfigError(f"{path} is a group of settings. Set one of them: {fields}.")
        else:
            values[name] = _parse(_text(value), kind, path)
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def _parse(text: str, kind: Any, name: str) -> Any:
    """Text to a field's type: bool, int, float, str, one of a Literal's words, or many of one.

    Example:
        >>> _parse("3", int | None, "n"), _parse("a, b", tuple[str, ...], "names")
        (3, ('a', 'b'))
    """
    origin: Any = get_origin(kind)
    if origin in (UnionType, Union):  # one type or none, or a word in place of a number
        kinds = [each for each in get_args(kind) if each is not type(None)]
        if any(get_origin(each) is Literal and text in get_args(each) for each in kinds):
            return text
        kind = next((each for each in kinds if get_origin(each) is not Literal), kinds[0])
    if get_origin(kind) is tuple:
        items = [item.strip() for item in text.split(",")] if text.strip() else []
        return tuple(_parse(item, get_args(kind)[0], name) for item in items)
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
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError(text)
        return value
    except ValueError as error:
        expected = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ConfigError(f"{name} takes {expected}, got {text!r}.") from error
