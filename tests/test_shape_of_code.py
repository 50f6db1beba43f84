"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import labelsieve

ROOT = Path(labelsieve.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")

# What each part may import. Imports point one way: nothing imports what stands above it.
GROUND = {"errors", "files", "config"}
WORK = GROUND | {"records", "run", "loop", "data", "features", "neighbors", "methods", "report"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "config": {"errors"},
    "records": {"errors", "files"},
    "run": {"errors", "files"},
    "loop": GROUND | {"run"},
    "data": GROUND | {"records"},
    "features": GROUND | {"records", "loop", "data"},
    "neighbors": GROUND | {"records"},
    "methods": GROUND | {"records", "loop", "data", "features", "neighbors"},
    "report": GROUND | {"records", "data", "features", "neighbors"},
    "stages": WORK - {"methods", "report"},
    "auditing": WORK | {"stages"},
    "clustering": WORK | {"stages"},
    "training": WORK | {"stages", "auditing"},
    "retrieval": WORK | {"stages", "auditing", "training"},
    "tagging": WORK | {"stages"},
    "exports": WORK,
    "prediction": WORK | {"stages", "clustering", "training", "retrieval", "tagging", "exports"},
    "jobs": WORK | {"stages", "auditing", "clustering", "training", "retrieval", "tagging"},
}


def part(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(module: Path) -> set[str]:
    """The parts of this package that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("labelsieve."):
                found.add(name.split(".")[1])
    return {name for name in found if name != "__version__"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(module: Path):
    here = part(module)
    if here in MAY_IMPORT:
        assert imports(module) <= MAY_IMPORT[here] | {here}


def test_methods_do_not_import_each_other():
    folders = [path.name for path in (ROOT / "methods").iterdir() if path.is_dir()]
    for folder in folders:
        for module in (ROOT / "methods" / folder).glob("*.py"):
            others = [name for name in folders if name != folder]
            text = module.read_text()
            assert not any(f"methods.{other}" in text for other in others), module


def test_neighbors_know_no_networks():
    for module in (ROOT / "neighbors").glob("*.py"):
        assert "torch.nn" not in module.read_text(), module


def mentions(module: Path) -> set[str]:
    """Dotted names that a module imports or reaches by attributes, such as torch.distributed."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("known", ["accelerate", "torch.distributed"])
def test_only_the_runtime_knows_about_processes(known: str):
    knowing = {
        module.name
        for module in MODULES
        if any(f"{name}.".startswith(f"{known}.") for name in mentions(module))
    }
    assert knowing == {"runtime.py"}


def test_only_the_command_line_prints():
    for module in MODULES:
        calls = [
            node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)
        ]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert "print" not in names or part(module) == "cli", module


def test_all_is_true():
    for name in labelsieve.__all__:
        assert getattr(labelsieve, name) is not None
    assert set(labelsieve.__all__) <= set(dir(labelsieve))


def test_no_public_name_is_a_modules():
    # importing the module would put it in the name's place
    modules = {path.stem for path in ROOT.iterdir()}
    assert not modules & set(labelsieve.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(f"labelsieve.{home}", name) for name, home in labelsieve._HOME_OF.items()}


def test_a_wrong_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'aduit'"):
        labelsieve.aduit  # noqa: B018


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_docstrings_are_true(module: Path):
    name = ".".join(module.relative_to(ROOT.parent).with_suffix("").parts)
    if name.endswith("__main__"):
        pytest.skip("importing it would run the command line")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["audit", "--help"], ["demo", "-h"]])
def test_help_does_not_import_torch(words: list[str]):
    program = (
        "import sys; from labelsieve.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imports {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
