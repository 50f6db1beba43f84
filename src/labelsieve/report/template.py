"""What the pages have in common: frame, style, policy, and the words on how a run was made."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from labelsieve.report.table import is_known, percent

GENERIC_NAMES = {"images", "photos", "data", "dataset", "train", "test", "val", "index", "labels"}
MAX_ID = 160  # characters of an id that are shown


def render(
    name: str,
    values: Mapping[str, Any],
    *,
    source: str,
    about: Mapping[str, Any],
    styles: tuple[str, ...],
    scripts: tuple[str, ...],
) -> str:
    """A whole page from a template that extends `frame.html`.

    Args:
        name: of the template.
        values: what only this page knows.
        source: of the images: the page is named after it.
        about: of the run, as in run.json, with `run`, the name of its folder.
        styles: names of the style sheets, in their order.
        scripts: names of the scripts; they run as one, whose hash the page's policy names.
    """
    script = "".join(_read(part) for part in scripts)
    return (
        _environment()
        .get_template(name)
        .render(
            values,
            name=_name(source),
            about=about,
            run=shlex.quote(about["run"]),
            facts=list(_facts(about)),
            settings=list(_flat(about.get("settings", {}))),
            now=(now := datetime.now().astimezone()),
            zone=_zone(now),
            style=Markup("".join(_read(part) for part in styles)),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def middle(text: str) -> str:
    """A long id without its middle."""
    return text if len(text) <= MAX_ID else f"{text[: MAX_ID // 2]}…{text[-MAX_ID // 2 :]}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("labelsieve.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda *given: percent(*given).replace(
        " ", "\N{NO-BREAK SPACE}"
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    environment.filters["number"] = lambda x: "–" if x is None or x != x else f"{x:.3f}"
    environment.filters["chance"] = _chance
    environment.filters["breakable"] = _breakable
    environment.tests["known"] = is_known
    environment.filters["plural"] = lambda n, one, many: f"{n:,} {one if n == 1 else many}"
    return environment


def _read(name: str) -> str:
    return (resources.files("labelsieve.report") / "templates" / name).read_text(encoding="utf-8")


def _name(source: str) -> str:
    """The last part of a path, with the one before it where the last alone says nothing."""
    path = Path(source).absolute()
    return f"{path.parent.name}/{path.name}" if path.stem in GENERIC_NAMES else path.name or source


def _chance(probability: float) -> str:
    """A probability as text: 0.973 is ".97"; what would round to 0 or 1 is told apart."""
    if 0 < probability < 0.005:
        return "< .01"
    if 0.995 <= probability < 1:
        return "> .99"
    return f"{probability:.2f}".removeprefix("0")


def _breakable(name: str) -> Markup:
    """A name that may be broken into lines where its parts are joined."""
    joint = Markup("_<wbr>")
    return joint.join(escape(part) for part in name.split("_"))


def _zone(moment: datetime) -> str:
    """The time zone as an offset: its abbreviations are ambiguous."""
    offset = moment.strftime("%z")
    return "UTC" if int(offset) == 0 else f"UTC{offset[:3]}:{offset[3:5]}"


def _facts(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What run.json says of the run, in words; settings and timings have their own tables."""
    if about.get("argv") and about["argv"][0] == about.get("job"):  # not that of a host program
        yield "command", "labelsieve " + shlex.join(map(str, about["argv"]))
    for key, words in (
        ("recipe", "recipe"), ("model", "model"), ("features", "features"), ("seed", "seed"),
        ("labelsieve", "labelsieve"), ("commit", "commit"), ("python", "Python"),
        ("platform", "system"), ("cpus", "CPUs"), ("device", "device"),
        ("peak_memory_mb", "peak memory, MB"),
    ):  # fmt: skip
        if about.get(key) is not None:
            yield words, str(about[key])
    if about.get("libraries"):
        yield "libraries", ", ".join(f"{name} {v}" for name, v in about["libraries"].items())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names, the way `--set` takes them."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
