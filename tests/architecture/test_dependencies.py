"""Dependencies point one way: what CONTRIBUTING.md says, checked on every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "graphpass": ROOT / "graphpass",
    "graphpass_exporters": ROOT / "exporters",
    "graphpass_models": ROOT / "models",
    "graphpass_runtime": ROOT / "runtime",
}
MAX_LINES = 400

# A module or subpackage may import what stands on its own line or below it.
LAYERS = (
    {"__main__"},
    {"cli", "commands"},
    {"__init__"},  # the public API
    {
        *("pipeline", "conversion_run", "inspection", "verification"),
        *("quantised_verification", "reports", "step_allocation", "step_search"),
    },
    {"diagnosis", "rounding_reach"},
    {"stages", "instrument", "integer_reference", "options"},
    {"population_choice"},
    {"forms"},
    {"passes", "calibration", "consistency", "plan"},
    {"candidates"},
    {"charging", "fanout", "grids", "work"},
    {"verdicts"},
    {"populations"},
    {"neurons"},
    {"curves"},
    {"timeflow"},
    {
        *("activation", "admission", "dialect", "dialect_bodies", "editing", "files", "model"),
        *("large_weights", "regions", "running", "shape_inference", "shape_values", "weights"),
    },
    {"batch"},
)
LAYER_OF = {part: len(LAYERS) - row for row, parts in enumerate(LAYERS) for part in parts}

NOT_IN_RUNTIME = {
    "click",
    "graphpass",
    "graphpass_exporters",
    "graphpass_models",
    "onnx",
    "onnx_graphsurgeon",
    "rich",
    "torch",
}
NOT_IN_COMPILER = {"graphpass_exporters", "matplotlib", "torch"}
LEARNS = "graphpass.calibration.finetune"  # the one part of the compiler that needs torch
FILE_ACCESS = {
    "onnx.load",
    "onnx.load_model",
    "onnx.save",
    "onnx.save_model",
    "onnx_graphsurgeon.export_onnx",
    "onnx_graphsurgeon.import_onnx",
}


@dataclass(frozen=True)
class Import:
    """One imported name, `from a import b` being a.b, and where it is imported."""

    module: str
    target: str
    line: int
    in_function: bool

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.target}"


@dataclass(frozen=True)
class Module:
    """A parsed source file and the name it is imported by."""

    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def part(self) -> str:
        """What of graphpass it belongs to: a key of LAYER_OF."""
        return self.name.split(".")[1] if "." in self.name else "__init__"

    def imports(self) -> list[Import]:
        return list(self._walk(self.tree, in_function=False))

    def _walk(self, node: ast.AST, *, in_function: bool) -> Iterator[Import]:
        for target in self._targets(node):
            yield Import(self.name, target, getattr(node, "lineno", 0), in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from self._walk(child, in_function=inside)

    def _targets(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (self._anchor(node.level), node.module) if part)
            return [f"{base}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in {"__import__", "import_module", "importlib.import_module"}:
                return [str(node.args[0].value)]
        return []

    def _anchor(self, level: int) -> str:
        if level == 0:
            return ""
        parts = self.name.split(".")
        return ".".join(parts[: len(parts) - level + self.is_package])

    def calls_of(self, functions: set[str]) -> Iterator[str]:
        """Uses of these functions, by whatever name their module goes here."""
        aliases = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = f"{aliases.get(node.value.id, node.value.id)}.{node.attr}"
                if used in functions:
                    yield f"{self.name}, line {node.lineno}: uses {used}"
        for found in self.imports():
            if found.target in functions:
                yield str(found)


def module(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name, ast.parse(source), is_package)


def modules_of(package: str) -> list[Module]:
    folder = FOLDERS[package]
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join([package, *(parts[:-1] if is_package else parts)])
        found.append(module(name, path.read_text(encoding="utf-8"), is_package=is_package))
    return found


def forbidden(modules: Iterable[Module], names: set[str]) -> list[str]:
    return [str(found) for each in modules for found in each.imports() if found.top in names]


def upward(modules: Iterable[Module]) -> list[str]:
    """Imports inside graphpass that point to a higher layer."""
    problems = []
    for importer in modules:
        if importer.part not in LAYER_OF:
            problems.append(f"{importer.name}: give {importer.part!r} a place in LAYERS")
            continue
        for found in importer.imports():
            top, _, rest = found.target.partition(".")
            if top != "graphpass":
                continue
            part = rest.partition(".")[0]
            # A name that is no layer is one that the public API offers.
            above = LAYER_OF.get(part, LAYER_OF["__init__"]) > LAYER_OF[importer.part]
            if above and part != "__version__":
                problems.append(str(found))
    return problems


def eager_models(modules: Iterable[Module]) -> list[str]:
    """Imports of graphpass_models other than those inside the functions of the cli."""
    return [
        str(found)
        for each in modules
        for found in each.imports()
        if found.top == "graphpass_models"
        and not (found.in_function and each.name == "graphpass.commands.demo")
    ]


def learns(name: str) -> bool:
    return name == LEARNS or name.startswith(f"{LEARNS}.")


def eager_learning(modules: Iterable[Module]) -> list[str]:
    """Imports of what needs torch, by what does not, other than inside functions."""
    return [
        str(found)
        for each in modules
        for found in each.imports()
        if learns(found.target) and not learns(each.name) and not found.in_function
    ]


def test_runtime_knows_nothing_of_the_compiler():
    assert forbidden(modules_of("graphpass_runtime"), NOT_IN_RUNTIME) == []


def test_compiler_imports_neither_the_exporters_nor_torch_nor_matplotlib():
    core = [each for each in modules_of("graphpass") if not learns(each.name)]
    learning = [each for each in modules_of("graphpass") if learns(each.name)]
    assert forbidden(core, NOT_IN_COMPILER) == []
    assert forbidden(learning, NOT_IN_COMPILER - {"torch"}) == []


def test_what_needs_torch_is_imported_only_when_asked():
    assert eager_learning(modules_of("graphpass")) == []


def test_only_the_cli_imports_the_models_and_only_when_asked():
    assert eager_models(modules_of("graphpass")) == []


def test_layers_of_the_compiler_point_down():
    assert upward(modules_of("graphpass")) == []


def test_only_two_modules_load_and_save():
    allowed = ("graphpass.model", "graphpass.files")
    others = [each for each in modules_of("graphpass") if each.name not in allowed]
    assert [use for each in others for use in each.calls_of(FILE_ACCESS)] == []


@pytest.mark.parametrize("folder", [*FOLDERS, "tests", "benchmarks"])
def test_files_are_short(folder: str):
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(FOLDERS.get(folder, ROOT / folder).rglob("*.py"))
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_importing_graphpass_is_light():
    heavy = ["matplotlib", "onnxruntime", "sklearn", "torch"]
    script = f"import sys, graphpass; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# A rule that cannot fail protects nothing: each is shown a violation.


@pytest.mark.parametrize(
    "source",
    [
        "import onnx.helper",
        "from onnx import helper",
        "def f():\n    import onnx",
        "import importlib\nimportlib.import_module('onnx')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx",
    ],
)
def test_forbidden_import_is_found(source: str):
    assert len(forbidden([module("graphpass_runtime.x", source)], NOT_IN_RUNTIME)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("graphpass.neurons.lif", "from graphpass.passes import fold"),
        ("graphpass.neurons.lif", "from graphpass import passes"),
        ("graphpass.neurons.lif", "from ..passes.fold import fold"),
        ("graphpass.passes.fold", "from graphpass import convert"),
        ("graphpass.passes.fold", "import graphpass"),
        ("graphpass.pipeline", "def f():\n    from graphpass.cli import main"),
        ("graphpass.dialect", "from .neurons import lif"),
        ("graphpass.without_a_layer", ""),
    ],
)
def test_upward_import_is_found(name: str, source: str):
    assert len(upward([module(name, source)])) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("graphpass.cli", "from graphpass import convert\nfrom graphpass.pipeline import x"),
        ("graphpass.passes.fold", "from graphpass.neurons import lif\nfrom . import other"),
        ("graphpass.passes.fold", "import onnx\nfrom graphpass_runtime import errors"),
    ],
)
def test_downward_import_is_fine(name: str, source: str):
    assert upward([module(name, source)]) == []


def test_relative_import_in_a_package_is_anchored_at_the_package():
    found = module("graphpass.passes", "from .fold import fold", is_package=True).imports()
    assert [each.target for each in found] == ["graphpass.passes.fold.fold"]


@pytest.mark.parametrize(
    ("name", "source", "problems"),
    [
        ("graphpass.commands.demo", "def demo():\n    from graphpass_models import lenet", 0),
        ("graphpass.cli", "from graphpass_models import lenet", 1),
        ("graphpass.pipeline", "def f():\n    import graphpass_models", 1),
    ],
)
def test_import_of_the_models_is_found(name: str, source: str, problems: int):
    assert len(eager_models([module(name, source)])) == problems


@pytest.mark.parametrize(
    ("name", "source", "problems"),
    [
        (f"{LEARNS}.rule", f"from {LEARNS} import network", 0),
        ("graphpass.calibration.rules", f"def f():\n    from {LEARNS} import rule", 0),
        ("graphpass.calibration.rules", f"from {LEARNS} import rule", 1),
        ("graphpass.calibration.rules", "from graphpass.calibration import finetune", 1),
    ],
)
def test_eager_import_of_what_needs_torch_is_found(name: str, source: str, problems: int):
    assert len(eager_learning([module(name, source)])) == problems


@pytest.mark.parametrize(
    "source",
    [
        "import onnx_graphsurgeon as gs\ngs.export_onnx(graph)",
        "from onnx_graphsurgeon import import_onnx",
        "import onnx\nonnx.save(model, path)",
    ],
)
def test_loading_or_saving_is_found(source: str):
    assert len(list(module("graphpass.passes.fold", source).calls_of(FILE_ACCESS))) == 1


def test_editing_a_graph_is_not_loading():
    source = "import onnx_graphsurgeon as gs\ngs.Node(op='Add')"
    assert list(module("graphpass.passes.fold", source).calls_of(FILE_ACCESS)) == []
