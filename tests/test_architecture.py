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

ALLOWED = {  # what a part may import from the package: the picture of DESIGN.md
    "core": {"collate", "report"},
    "collate": set(),
    "estimates": set(),
    "report": {"delong", "estimates"},
    "controls": {"estimates"},
    "keys": set(),
    "progress": set(),
    "probes": {"collate", "core", "respondents"},
    "augmentation": set(),
    "views": {"augmentation", "collate", "core"},
    "units": {"core"},
    "parts": {"augmentation", "backbones", "collate", "views"},
    "posteriors": {"collate", "core"},
    "gradients": {"collate", "core", "posteriors"},
    "signals": {"continuations", "core", "gradients", "parts", "posteriors", "probes", "signals", "units"}
    | {"versions", "views"},
    "networks": set(),
    "gaussians": set(),
    "attacks": {"attacks", "core", "estimates", "gaussians", "networks"},
    "papers": {"attacks", "core", "posteriors", "signals", "versions"},
    "privacy": {"estimates"},
    "exposure": {"core", "estimates", "report"},
    "twins": {"core", "estimates", "pixels"},
    "config": set(),
    "locks": set(),
    "shards": {"", "core", "keys"},
    "runner": {"collate", "core", "keys", "progress", "shards"},
    "sources": set(),
    "classes": {"core", "sources"},
    "checkpoints": set(),
    "pixels": {"core", "keys"},
    "data": {"core", "overlap", "twins"},
    "portraits": {"backbones", "core", "data", "figures", "models", "posteriors", "probes", "respondents"}
    | {"signals", "views"},
    "knn": {"core", "signals"},
    "downstream": {"core", "keys", "knn", "signals"},
    "images": {"classes", "controls", "core", "data", "keys", "knn", "pixels", "portraits", "sources"}
    | {"twins", "views", "vision"},
    "classifying": {"collate", "sounds", "vision"},
    "logits": {"checkpoints", "collate", "recipes", "vision"},
    "classifiers": {"checkpoints", "classifying", "core", "keys", "logits", "models", "vision"},
    "classified": {"classes", "classifiers", "controls", "core", "data", "dates", "docstrings", "gradients"}
    | {"images", "overlap", "portraits", "posteriors", "sources", "texts", "twins"},
    "classified_sounds": {"classes", "classified", "classifiers", "controls", "core", "data", "keys"}
    | {"sounds", "sources"},
    "backbones": {"checkpoints", "recipes"},
    "vision": {"backbones", "checkpoints", "collate", "core", "keys", "pixels"},
    "models": {"checkpoints", "collate", "core", "keys", "recipes"},
    "shadows": {"core", "keys", "locks", "progress", "recipes"},
    "recipes": {"augmentation", "checkpoints", "classifiers", "classifying", "collate", "core", "keys"}
    | {"logits", "models", "paired", "recipes", "vision"},
    "texts": {"continuations", "controls", "core", "data", "dates", "docstrings", "models", "overlap"}
    | {"portraits", "probes", "sources", "versions"},
    "docstrings": set(),
    "plan": {"attacks", "config", "core", "data", "papers", "privacy", "recipes", "targets", "texts"},
    "experiment": {"classified", "classified_sounds", "config", "core", "data", "images", "pairs", "papers"}
    | {"plan", "recipes", "targets", "texts"},
    "setting": {"config", "core", "members", "plan", "recipes", "rehearsal", "shadows", "targets", "units"},
    "games": {"attacks", "core", "plan", "setting", "shadows", "targets"},
    "sounds": {"keys"},
    "outputs": {"core", "posteriors", "signals"},
    "arrays": {"attacks", "config", "core", "estimates", "experiment", "outputs", "papers", "posteriors"} | {"report"},
    "saved": {"core", "outputs"},
    "saved_cli": {"arrays", "config", "controls", "core", "estimates", "exposure", "figures", "folder"}
    | {"outputs", "played", "privacy", "progress", "report", "saved", "table"},
    "delong": {"estimates"},
    "membership": {"estimates", "report"},
    "refit": {"attacks", "config", "core", "data", "experiment", "folder", "plan"},
    "inquiry": {"config", "core", "data", "keys", "membership", "papers", "refit", "report", "runner"},
    "metric": {"core", "data", "images", "inquiry", "membership", "texts"},
    "gate": {"config", "estimates", "report"},
    "outcome": {"config", "estimates", "played", "report"},
    "frontmatter": set(),
    "card": {"estimates", "frontmatter", "outcome", "played", "report", "table"},
    "hub": {"card", "folder", "outcome"},
    "callback": {"core", "estimates", "models", "papers", "probes", "report", "runner"},
    "learnt": {"core"},
    "calibration": {"attacks", "core", "folder", "games", "learnt", "played", "progress", "spoken", "units"},
    "keeping": {"checkpoints", "games", "played"},
    "opened": {"calibration", "config", "core", "experiment", "folder", "keeping", "learnt", "plan", "report"},
    "askable": {
        "recipes",
        "attacks",
        "checkpoints",
        "core",
        "keeping",
        "learnt",
        "opened",
        "papers",
        "plan",
        "targets",
    },
    "words": {"core", "models"},
    "query": {"askable", "calibration", "config", "core", "exposure", "keys", "learnt", "opened", "runner"}
    | {"spoken", "units", "words"},
    "app": {"app", "askable", "calibration", "checkpoints", "config", "console", "core", "demo", "estimates"}
    | {"experiment", "figures", "folder", "images", "keeping", "keys", "membership", "models", "opened"}
    | {"papers", "plan", "portraits", "probes", "query", "recipes", "report", "run", "runner", "setting"}
    | {"signals", "texts", "units", "views", "words"},
    "query_cli": {"data", "query", "texts", "words"},
    "inference": set(),
    "versions": {"collate", "core", "models", "probes"},
    "respondents": {"collate"},
    "spoken": {"collate", "continuations", "core", "keys", "models", "probes", "respondents"},
    "continuations": {"collate", "core", "respondents"},
    "replies": set(),
    "endpoints": {"replies"},
    "terms": set(),
    "calls": {"endpoints", "keys", "progress", "replies", "terms"},
    "services": {"calls", "continuations", "core", "endpoints", "keys", "replies", "respondents", "terms"},
    "paired": {"checkpoints", "collate", "core", "keys", "models", "recipes"},
    "pairs": {"core", "paired", "texts"},
    "targets": {"checkpoints", "core", "data", "endpoints", "services", "terms"},
    "rehearsal": {"continuations", "core", "papers", "probes", "respondents", "runner", "services"},
    "overlap": {"core", "twins"},
    "dates": {"core", "estimates"},
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
    if part in ALLOWED:
        found = {part_of(module) for module in imports(path) if module.startswith("hf_mia")}
        assert found <= ALLOWED[part], f"{part} may not know {sorted(found - ALLOWED[part])}"


def test_no_module_needs_itself() -> None:
    modules = {name_of(path) for path in SOURCES}
    graph = {
        name_of(path): {m for m in imports(path, types=False) if m in modules and m != name_of(path)}
        for path in SOURCES
    }
    assert sum(map(len, graph.values())) > 40
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("part", ["signals", "attacks", "papers", "report", "estimates"])
def test_what_decides_knows_no_model(part: str) -> None:
    paths = [path for path in SOURCES if part_of(name_of(path)) == part]
    assert paths
    outside = {module.split(".")[0] for path in paths for module in imports(path)}
    assert not outside & {"torch", "transformers", "datasets", "accelerate"}


@pytest.mark.parametrize("part", ["runner", "shadows"])
def test_accelerate_stays_at_the_edge(part: str) -> None:
    edge = {"runner", "shadows", "recipes", "dry", "cli"}
    for path in SOURCES:
        if any(module.split(".")[0] == "accelerate" for module in imports(path, types=False)):
            assert part_of(name_of(path)) in edge


def test_report_knows_numpy_and_scipy_only() -> None:
    for name in ("report", "estimates"):
        outside = {module.split(".")[0] for module in imports(ROOT / f"{name}.py")}
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


@pytest.mark.parametrize("module", ["hf_mia.core", "hf_mia.papers", "hf_mia.report"])
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
