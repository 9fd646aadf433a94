"""The house: each room imports only the rooms below it, nothing goes in circles, and settings come without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from checkout import REPOSITORY

GOC = REPOSITORY / "goc"
# from the ground up; the modules at the entrance are rooms of their own
ROOMS = ("system", "models", "caching", "sampling", "metrics", "methods", "plugin", "config", "planning", "pipelines",
         "report", "runs", "train", "tracking", "cli", "check", "api", "mask", "reference", "__main__")  # fmt: skip
HEAVY = ("torch", "torchvision", "timm", "torch_fidelity", "scipy", "diffusers", "wandb")


def name_of(path: Path) -> str:
    """The module in a file, as it is imported."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(GOC.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """The modules of goc that a module imports anywhere in its text, in functions and for types only as well."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_is_in_a_room_that_imports_only_from_below() -> None:
    assert {room(module) for module in MODULES if module != "goc"} == set(ROOMS)
    upward = [
        f"{module} imports {imported}"
        for module in MODULES
        if module != "goc"  # the front door, through which a few names of any room can be had
        for imported in imports(module)
        if imported != "goc" and ROOMS.index(room(imported)) > ROOMS.index(room(module))
    ]
    assert upward == []


def test_no_imports_go_in_a_circle() -> None:
    def others(module: str) -> set[str]:
        package = MODULES[module].parent / "__init__.py"  # gathers what its modules give: not one of their imports
        return {name for name in imports(module) if name != module and MODULES[name] != package}

    graph = {module: others(module) for module in MODULES if module != "goc"}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_rooms_are_few_and_know_few_others() -> None:
    """A bound, so that it is noticed when the house grows: it was 24 rooms on 13 levels with 115 arrows.

    More than one in ten are those of goc check, which measures everything.
    """
    arrows = {
        (room(module), room(name))
        for module in MODULES
        if module != "goc"
        for name in imports(module)
        if name != "goc" and room(name) != room(module)
    }
    levels: dict[str, int] = {}
    for name in ROOMS:  # from the ground up
        levels[name] = 1 + max((levels[other] for importer, other in arrows if importer == name), default=0)
    assert (len(ROOMS), max(levels.values()), len(arrows)) <= (20, 11, 92)


def test_caching_knows_nothing_of_hydra_files_or_pictures() -> None:
    for module in MODULES:
        if room(module + ".") == "caching":
            assert {room(name) for name in imports(module)} <= {"caching", "models"}, module


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["goc", "goc.config", "goc.cli.application", "goc.report.study", "goc.mask", "goc.reference"]
)
def test_settings_and_reports_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(loaded.stdout.split()) == set()


def test_errors_become_a_line_in_one_place() -> None:
    """Where every command's main() runs: none of them catches what `run_command` does."""
    files = [*MODULES.values(), *(REPOSITORY / "scripts").rglob("*.py")]
    returned = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "fail"
    ]
    assert returned == []
