"""The shape of the package, asserted from its sources: imports run one way, nothing unsafe, light at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_mia

ROOT = Path(hf_mia.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "sklearn",
    "matplotlib",
    "accelerate",
    "scipy",
    "pyarrow",
    "typer",
    "pydantic",
}

ALLOWED = {  # what a part may import from the package, bottom first: the picture of DESIGN.md
    "reports": set(),
    "collate": set(),
    "config": set(),
    "progress": set(),
    "estimators": set(),
    "core": {"collate", "reports"},
    "units": {"core"},
    "architectures": set(),
    "storage": {"", "core"},
    "models": {"architectures", "collate", "core", "storage"},
    "probes": {"collate", "core", "models", "storage"},
    "signals": {"core", "probes", "units"},
    "attacks": {"core", "estimators", "reports"},
    "papers": {"attacks", "core", "probes", "signals"},
    "controls": {"core", "models", "reports"},
    "data": {"controls", "core", "models", "probes", "reports", "signals", "storage"},
    "recipes": {"architectures", "collate", "core", "models", "probes", "storage"},
    "launch": set(),
    "runner": {"collate", "core", "launch", "models", "progress", "storage"},
    "shadows": {"core", "launch", "models", "progress", "recipes", "storage"},
    "services": {"collate", "core", "models", "papers", "probes", "progress", "runner", "storage"},
    "console": {"launch", "services"},
    "callback": {"core", "models", "papers", "probes", "reports", "runner"},
    "audits": {"attacks", "config", "controls", "core", "data", "models", "papers", "probes", "progress", "recipes"}
    | {"reports", "runner", "services", "shadows", "signals", "storage", "units"},
    "publish": {"audits", "config", "reports", "storage"},
    "saved": {"attacks", "audits", "config", "core", "papers", "probes", "reports", "signals"},
    "queries": {"attacks", "audits", "config", "core", "data", "models", "papers", "progress", "recipes", "reports"}
    | {"runner", "services", "storage", "units"},
    "metric": {"core", "data", "queries", "reports"},
    "app": {"audits", "config", "console", "core", "data", "models", "papers", "probes", "progress", "queries"}
    | {"recipes", "reports", "runner", "signals", "storage", "units"},
    "cli": {
        "app",
        "audits",
        "config",
        "console",
        "controls",
        "core",
        "data",
        "launch",
        "papers",
        "progress",
        "publish",
        "queries",
        "recipes",
    }
    | {"reports", "runner", "saved", "storage"},
    "__main__": {"cli"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, types: bool = True) -> Iterator[str]:
    """Modules of this package that a file imports, anywhere in it; without `types`, only those it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports by dots"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(name_of(path))
    if part:
        found = {part_of(module) for module in imports(path) if module.startswith("hf_mia")} - {part}
        assert found <= ALLOWED[part], f"{part} may not know {sorted(found - ALLOWED[part])}"


def test_parts_stand_in_one_order() -> None:
    list(TopologicalSorter(ALLOWED).static_order())  # raises CycleError
    assert set(ALLOWED) == {part_of(name_of(path)) for path in SOURCES} - {""}


def test_no_module_needs_itself() -> None:
    modules = {name_of(path) for path in SOURCES}
    graph = {
        name_of(path): {m for m in imports(path, types=False) if m in modules and m != name_of(path)}
        for path in SOURCES
    }
    assert sum(map(len, graph.values())) > 40
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("part", ["signals", "attacks", "papers", "reports"])
def test_what_decides_knows_no_model(part: str) -> None:
    paths = [path for path in SOURCES if part_of(name_of(path)) == part]
    assert paths
    outside = {module.split(".")[0] for path in paths for module in imports(path)}
    assert not outside & {"torch", "transformers", "datasets", "accelerate"}


@pytest.mark.parametrize("part", ["runner", "shadows"])
def test_accelerate_stays_at_the_edge(part: str) -> None:
    edge = {"launch", "runner", "shadows", "recipes", "audits", "cli"}
    for path in SOURCES:
        if any(module.split(".")[0] == "accelerate" for module in imports(path, types=False)):
            assert part_of(name_of(path)) in edge


def test_report_knows_numpy_and_scipy_only() -> None:
    for name in ("report", "estimates"):
        outside = {module.split(".")[0] for module in imports(ROOT / "reports" / f"{name}.py")}
        assert outside - set(sys.stdlib_module_names) <= {"numpy", "scipy", "hf_mia"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unsafe(path: Path) -> None:
    """No pickle, no torch.load, no remote code, no eval, no shell; by the syntax tree, so that comments may say so."""
    assert not {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"} & {
        m.split(".")[0] for m in imports(path)
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "eval", "exec", "os.system", "__import__", "yaml.unsafe_load"}
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) == "False"
                assert (keyword.arg, ast.unparse(keyword.value)) not in {("allow_pickle", "True"), ("shell", "True")}
            if called.endswith(".from_pretrained"):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}


def test_the_door_is_light() -> None:
    code = "import sys, hf_mia; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "hf_mia" in loaded
    assert not loaded & (HEAVY | {"numpy", "yaml", "rich"})


@pytest.mark.parametrize("module", ["hf_mia.core", "hf_mia.papers", "hf_mia.reports.report"])
def test_the_core_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize("name", hf_mia.__all__)
def test_every_public_name_resolves(name: str) -> None:
    found = getattr(hf_mia, name)
    assert name == "PAPERS" or found.__name__ == name
    assert name in dir(hf_mia)


def test_public_names_are_sorted_and_typed() -> None:
    """The names for type checkers are those that are loaded on use."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {a.asname: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    assert hf_mia.__all__ == sorted(typed)
    assert all(typed[name] == f"hf_mia.{home}" for name, home in hf_mia._HOMES.items())
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hf_mia.Nothing  # noqa: B018


def test_core_is_read_standing_up() -> None:
    assert len((ROOT / "core.py").read_text(encoding="utf-8").splitlines()) < 200
