"""The docs say what the program does: names, settings, commands, messages and links hold."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

import labelsieve
from labelsieve import errors
from labelsieve.auditing import audit as pipeline
from labelsieve.auditing.audit import Audit
from labelsieve.cli import main
from labelsieve.clustering.cluster import cluster_recipe
from labelsieve.config import from_toml, overrides
from labelsieve.features.pretrain import Pretrain
from labelsieve.features.recipes import PRETRAINING, cpu
from labelsieve.features.refine import Refine
from labelsieve.methods.auditing import RECIPES
from labelsieve.methods.prism.detect import PrismDetection
from labelsieve.methods.prism.objectives import Proxies
from labelsieve.methods.prism.recipes import MODELS as RETRIEVERS
from labelsieve.methods.prism.recipes import OBJECTIVES as RETRIEVAL
from labelsieve.methods.scan.network import ScanTraining
from labelsieve.methods.scan.recipes import RECIPES as CLUSTERING
from labelsieve.methods.scan.recipes import Cluster
from labelsieve.methods.scan.self_labels import SelfLabels
from labelsieve.methods.sncf.paper import PaperDetection
from labelsieve.methods.veit.recipes import OBJECTIVES as TAGS
from labelsieve.records import Findings, Verdict
from labelsieve.records.clusters import Clusters, Part
from labelsieve.records.tag_findings import IMAGE_SCHEMA, PAIR_SCHEMA, TagVerdict
from labelsieve.records.tag_set import Family
from labelsieve.report.tag_rows import rows_to_arrow
from labelsieve.retrieval.settings import retrieve_recipe
from labelsieve.run.outputs import DEMO_OUTPUTS, OUTPUTS
from labelsieve.tagging import tag as tagging
from labelsieve.tagging.settings import Tag, tagging_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ALL_DOCS = "\n".join(text for name, text in TEXT.items() if name != "README.md")
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FAST = ("dictionary.n_components=96", "dictionary.patches.n_atoms=32",
        "dictionary.views.in_all=1000", "dictionary.patches.n_patches=5000",
        "detection.classifier.least_steps=60", "detection.n_repeats=1")  # fmt: skip


SHORT = ("most_updates=1", "training.batch_size=32", "training.precision=float32",
         "joint.dictionary.n_components=48", "joint.dictionary.patches.n_atoms=32",
         "joint.dictionary.views.most=2", "joint.dictionary.views.least=2")  # fmt: skip


FAST_TAGS = ("train.updates=30", "train.least_passes=0", "train.baseline.epochs=2",
             "train.training.epochs=2", "train.objective.passes=4", "train.objective.n_folds=2",
             "train.objective.n_taggers=0", *FAST[:4])  # fmt: skip


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    marked: bool  # to be run: <!-- run --> stands before it

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for page, text in TEXT.items():
        for found in re.finditer(r"(<!-- run -->\n)?```(\w*)\n(.*?)^```", text, re.S | re.M):
            line = text[: found.start()].count("\n") + 1
            yield Block(page, line, found[2], found[3], found[1] is not None)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]


# Names


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_documented(name: str):
    assert f"`labelsieve {name}" in ALL_DOCS
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            option = max(parameter.opts, key=len)
            pattern = rf"(?<![\w-]){re.escape(option)}(?![\w-])"
            assert re.search(pattern, ALL_DOCS), f"labelsieve {name} {option}"


def settings_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and default of every setting, as `--set` takes them."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, str(value).lower() if value in (True, False) else str(value)


ROBUST, PAPER = Audit(), Audit(detection=PaperDetection())
PRISM = Audit(detection=PrismDetection())


@pytest.mark.parametrize("settings", [ROBUST, PAPER, PRISM], ids=["robust", "paper", "prism"])
def test_every_setting_is_documented_with_its_default(settings: Audit):
    for name, default in settings_of(settings):
        assert f"| `{name}` | `{default}` | " in TEXT["audit.md"], f"docs/audit.md: {name}"


def test_no_setting_is_documented_that_is_not_there():
    known = {name for settings in (ROBUST, PAPER, PRISM) for name, _ in settings_of(settings)}
    pattern = r"`((?:detection|dictionary|duplicates)\.[a-z_.]+[a-z])(?:=[^`]*)?`"
    named = {name for text in TEXT.values() for name in re.findall(pattern, text)}
    assert named - known - set(OUTPUTS) == set()


def test_every_setting_of_pretraining_is_documented_with_its_default():
    for name, default in settings_of(Pretrain(), "pretrain."):
        if not name.startswith("pretrain.joint.dictionary."):  # in audit.md, as dictionary.*
            assert f"| `{name}` | `{default}` | " in TEXT["pretraining.md"], name


def test_every_recipe_of_pretraining_is_documented():
    for name in PRETRAINING:
        assert f"| `{name}` |" in TEXT["pretraining.md"], name


SAME_AS_OTHERS = ("dictionary.", "pretrain.", "duplicates.", "views.", "refine.views.",
                  ".training.", ".strong.", ".contrastive.")  # fmt: skip
PHASES = Cluster(
    scan=ScanTraining(), self_labels=SelfLabels(), pretrain=Pretrain(), refine=Refine()
)  # fmt: skip


def test_every_setting_of_clustering_is_documented_with_its_default():
    for name, default in settings_of(PHASES):
        if not any(part in f".{name}" for part in SAME_AS_OTHERS):
            assert f"| `{name}` | `{default}` | " in TEXT["clustering.md"], name


def test_no_setting_of_clustering_is_documented_that_is_not_there():
    known = {name for name, _ in settings_of(PHASES)}
    table = TEXT["clustering.md"].partition("\n## Settings")[2]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.M)) <= known


def test_every_recipe_of_clustering_is_documented():
    for name in CLUSTERING:
        assert f"| `{name}` |" in TEXT["clustering.md"], name


def test_every_setting_of_retrieval_is_documented_with_its_value():
    for name, value in settings_of(retrieve_recipe("two-stage")):
        if not any(part in f".{name}" for part in (*SAME_AS_OTHERS, ".weak.", ".crops.")):
            assert f"| `{name}` | `{value}` | " in TEXT["retrieval.md"], name


def test_no_setting_of_retrieval_is_documented_that_is_not_there():
    known = {name for name, _ in settings_of(retrieve_recipe("two-stage"))}
    known |= {name for name, _ in settings_of(Proxies())}
    table = TEXT["retrieval.md"].partition("\n## Settings")[2]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.M)) <= known


def test_every_recipe_and_model_of_retrieval_is_documented():
    for name in (*RETRIEVAL, *RETRIEVERS):
        assert re.search(rf"^\| .*`{name}`", TEXT["retrieval.md"], re.M), name


def test_every_setting_of_tags_is_documented_with_its_default():
    for name, default in settings_of(Tag()):
        if not any(part in f".{name}" for part in (*SAME_AS_OTHERS, ".baseline.")):
            assert f"| `{name}` | `{default}` | " in TEXT["tags.md"], name
    for recipe in TAGS:
        for name, value in settings_of(tagging_recipe(recipe).train.objective):
            row = rf"^\| `(?:train\.objective\.)?{name}` \| `{re.escape(value)}` \| "
            assert re.search(row, TEXT["tags.md"], re.M), f"{recipe}: {name}"


def test_no_setting_of_tags_is_documented_that_is_not_there():
    known = {name for name, _ in settings_of(Tag())}
    for recipe in TAGS:
        known |= {name for name, _ in settings_of(tagging_recipe(recipe).train.objective)}
    table = TEXT["tags.md"].partition("\n## Settings")[2]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.M)) <= known


def test_every_recipe_of_tags_is_documented():
    for name in TAGS:
        assert f"| `{name}`" in TEXT["tags.md"], name


def test_functions_that_the_page_of_tags_names_are_there():
    names = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
    inside = TEXT["tags.md"].partition("## How it works")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_A-Z]+)`", inside)
    assert len(named) > 10
    assert {name for name in named if "_" in name or name[0].isupper()} <= names


def test_every_form_and_column_of_tags_is_documented():
    formats = TEXT["formats.md"].partition("## Tags")[2]
    for family in get_args(Family):
        assert f"| `{family}` |" in formats, family
    for column in (*PAIR_SCHEMA.names, *IMAGE_SCHEMA.names, *rows_to_arrow([]).column_names):
        assert f"`{column}`" in formats, column
    for verdict in TagVerdict:
        assert f"`{verdict.name.lower()}`" in formats, verdict


def test_every_column_of_clusters_is_documented():
    made = Clusters.of_probabilities(("a",), [[0.5, 0.5]])
    for column in made.to_arrow().column_names:
        assert f"`{column}`" in TEXT["formats.md"].partition("## Clusters")[2], column
    for part in Part:
        assert f"`{part.name.lower()}`" in TEXT["formats.md"], part


def test_every_recipe_and_error_class_is_documented():
    for name in RECIPES:
        assert f"`{name}`" in TEXT["audit.md"], name
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert f"| `{name}` |" in TEXT["troubleshooting.md"], name


def test_every_file_and_column_of_a_run_is_documented():
    formats = TEXT["formats.md"]
    for name in (*OUTPUTS, *DEMO_OUTPUTS):
        assert f"`{name}" in formats, name
    for verdict in Verdict:
        assert f"`{verdict.name.lower()}`" in formats
    for field in dataclasses.fields(pipeline.Inputs):
        assert f"`{field.name}`" in formats, field.name
    empty = Findings(
        (), (), *[np.empty(0, np.int64)] * 2, np.empty((0, 3), np.float32),
        np.empty(0, np.int64), np.empty(0, np.float32), *[np.empty(0, np.int64)] * 2,
        np.empty((0, 0), np.int64), (),
    )  # fmt: skip
    for column in empty.to_arrow().column_names:
        assert f"`{column}`" in formats, column


def test_functions_and_files_that_the_audit_page_names_are_there():
    names, files = set(), {str(path.relative_to(ROOT / "src/labelsieve")) for path in SOURCES}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
    inside = TEXT["audit.md"].partition("## How it works")[2].partition("## Where we differ")[0]
    for word in re.findall(r"`([\w/.]+)`", inside):
        if word.endswith(".py"):
            assert word in files or f"methods/sncf/{word}" in files, word
        elif re.fullmatch(r"[a-z_A-Z]+(\.[a-z_]+)?", word) and ("_" in word or "." in word):
            assert word.rpartition(".")[2] in names or (DOCS / word).exists() or word.endswith(
                (".html", ".parquet", ".csv", ".json")
            ), word  # fmt: skip


def test_files_that_results_and_readme_name_are_there():
    for page in ("results.md", "README.md"):
        for name in re.findall(r"(?:benchmarks|tests|requirements)/[\w/]+\.\w+", TEXT[page]):
            assert (ROOT / name).is_file(), f"{page}: {name}"


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.M):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXT[page.name])):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        to = page if not name else (page.parent / name).resolve()
        assert to.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(to.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_no_page_names_a_place_of_one_machine():
    for name, text in TEXT.items():
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|opt|Users)/", text), name


# Commands


def commands() -> Iterator[tuple[str, list[str], bool]]:
    """Where, the words after `labelsieve`, and whether it is a whole command."""
    for block in BLOCKS:
        if block.language in ("console", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["labelsieve"] and line.startswith("$ "):
                    yield str(block), words[1:], True
    for page, text in TEXT.items():
        for inline in re.findall(r"`labelsieve ([^`\n]+)`", prose(text)):
            words = [word for word in shlex.split(inline) if word != "…"]
            yield page, words, "--out" in words


COMMANDS = list(commands())


def test_there_are_commands_to_check():
    assert sum(whole for *_, whole in COMMANDS) >= 10


@pytest.mark.parametrize(("where", "words", "whole"), COMMANDS, ids=lambda value: str(value)[:60])
def test_commands_exist_with_the_options_shown(where: str, words: list[str], whole: bool):
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version"), where
        return
    command = main.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}, where
    if whole:
        context = command.make_context(words[0], list(words[1:]))  # raises what click would say
        changes = context.params.get("changes") or ()
        named = [context.params.get(name) for name in ("recipe", "pretrain")]
        if words[0] == "cluster":
            overrides(cluster_recipe(named[0], named[1]), changes)
        elif words[0] == "retrieve":
            made = retrieve_recipe(named[0], context.params["model"], named[1])
            overrides(made, changes)
        elif words[0] == "tag":
            overrides(tagging_recipe(named[0], named[1]), changes)
        else:
            overrides(pipeline.recipe(named[0] or "robust", named[1]), changes)


def test_settings_files_shown_are_read(tmp_path: Path):
    shown = [block for block in BLOCKS if block.language == "toml"]
    assert shown
    for block in shown:
        file = tmp_path / "settings.toml"
        file.write_text(block.text, encoding="utf-8")
        assert from_toml(Audit(), file) != Audit()


# Python


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, a finished run/ of them, features.npy, and tables of tags."""
    root = tmp_path_factory.mktemp("docs")
    digits = load_digits()
    for name in (0, 1):
        for i, row in enumerate(np.flatnonzero(digits.target == name)[:30]):
            gray = (255 - digits.images[row] * 15).astype(np.uint8)
            folder = root / "photos" / ("dog" if (name == 1) != (i < 2) else "cat")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(gray).resize((32, 32)).save(folder / f"{name}-{i:02d}.png")
    (root / "photos" / "cat" / "broken.png").write_bytes(b"")
    _tag_tables(root)
    fast = [word for change in FAST for word in ("--set", change)]
    words = ["audit", str(root / "photos"), "--out", str(root / "run"), *fast]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    words = [
        "features",
        str(root / "photos"),
        "--out",
        str(root / "photos.npy"),
        "--pretrain",
        "cpu",
    ]
    shorter = [word for change in SHORT for word in ("--set", f"pretrain.{change}")]
    result = CliRunner().invoke(main, [*words, *shorter])
    assert result.exit_code == 0, result.output
    for suffix in ("npy", "json"):
        (root / f"features.{suffix}").write_bytes((root / f"run/features.{suffix}").read_bytes())
    return root


def _tag_tables(root: Path) -> None:
    """photos.csv with tags, every fourth of them wrong; checked.csv with what is true of some."""
    paths = sorted((root / "photos").rglob("*-*.png"))
    tagged, checked = ["image,labels"], ["image,label,present"]
    for i, path in enumerate(paths):
        name = path.relative_to(root).as_posix()
        true = ["zero", "one"][int(path.name[0])]
        tags = [true] if i % 4 else ["zero", "one"]
        tagged.append(f"{name},{'|'.join(tags)}")
        checked += [f"{name},{tag},{int(tag == true)}" for tag in tags] if i % 2 == 0 else []
    (root / "photos.csv").write_text("\n".join(tagged) + "\n")
    (root / "checked.csv").write_text("\n".join(checked) + "\n")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_shown_compiles(block: Block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in PYTHON if block.marked], ids=str)
def test_python_shown_runs(block: Block, desk: Path, monkeypatch: pytest.MonkeyPatch):
    quick = partial(_quick, pipeline.recipe)
    monkeypatch.chdir(desk)
    monkeypatch.setattr(pipeline, "Audit", lambda: quick("robust"))  # what ls.audit uses by default
    monkeypatch.setitem(vars(labelsieve), "recipe", quick)
    monkeypatch.setitem(PRETRAINING, "cpu", lambda: overrides(cpu(), SHORT))
    monkeypatch.setattr(tagging, "tagging_recipe", lambda: overrides(tagging_recipe(), FAST_TAGS))
    exec(compile(block.text, str(block), "exec"), {})


def _quick(recipe: Any, name: str) -> Audit:
    """The settings of a recipe, for tests: the same steps with smaller numbers."""
    return overrides(Audit(detection=RECIPES[name]()), FAST)


def test_every_python_block_is_run():
    assert [str(block) for block in PYTHON if not block.marked] == []


@pytest.mark.slow
def test_the_output_in_the_readme_is_what_the_demo_prints(tmp_path: Path):
    """Counts may move a little with other versions of the libraries, not much."""
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "run"), "--json"])
    counts = json.loads(result.stdout)["verdicts"]
    for name, found in counts.items():
        shown = re.search(rf"^{name} +([\d,]+) +[\d.]+ %  ", TEXT["README.md"], re.M)
        assert shown is not None, name
        assert found["n_images"] == pytest.approx(int(shown[1].replace(",", "")), rel=0.1), name


# Messages


def templates() -> list[str]:
    """Every text of the package, with … for what varies."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TEMPLATES = templates()


def fixed_parts(message: str) -> list[str]:
    return [part.strip() for part in message.split("…") if part.strip(" :.,()'`")]


MESSAGES = re.findall(r"^### `(.*)`$", TEXT["troubleshooting.md"], re.M)
WARNINGS = re.findall(
    r"^\| `(.*?…?.*?)` \| ", TEXT["audit.md"].partition("## When not to trust it")[2], re.M
)


def test_there_are_messages_to_check():
    assert len(MESSAGES) >= 25
    assert len(WARNINGS) >= 10


@pytest.mark.parametrize("message", MESSAGES)
def test_headings_of_troubleshooting_are_our_own_words(message: str):
    pattern = ".*".join(map(re.escape, fixed_parts(message)))
    assert any(re.search(pattern, template, re.S) for template in TEMPLATES)


@pytest.mark.parametrize("warning", WARNINGS)
def test_warnings_explained_are_our_own_words(warning: str):
    for part in fixed_parts(warning):
        assert any(part.removeprefix("classes have ") in template for template in TEMPLATES), part


def test_every_heading_of_troubleshooting_below_a_section_is_a_message():
    headings = re.findall(r"^### (.*)$", TEXT["troubleshooting.md"], re.M)
    assert [heading for heading in headings if not heading.startswith("`")] == []
