"""Nothing that runs what it reads: by the syntax tree of the package, and by reading all that an audit writes."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from worlds import World, png

import hf_mia
from hf_mia.audits.experiment import experiment
from hf_mia.audits.folder import read_evidence
from hf_mia.config import read_yaml
from hf_mia.data.texts import Texts
from hf_mia.models.pixels import decode
from hf_mia.publish.outcome import read_outcome
from hf_mia.queries.opened import opened
from hf_mia.queries.query import query, user
from hf_mia.queries.refit import refitted
from hf_mia.storage.shards import Shards, intact

ROOT = Path(hf_mia.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py")) + sorted((ROOT.parent / "spaces").rglob("*.py"))
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "copyreg", "runpy"}
RUNNERS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "input"}
LOADERS = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "yaml.unsafe_load", "yaml.full_load"}
LOADERS |= {"np.save", "numpy.save", "np.loadtxt", "importlib.import_module", "yaml.load_all", "yaml.unsafe_load_all"}
UNSAFE = {("allow_pickle", "True"), ("shell", "True"), ("safe_serialization", "False"), ("weights_only", "False")}
ARRAYS = {"np.load", "numpy.load"}
SAFE = {"Loader", "yaml.SafeLoader", "SafeLoader", "yaml.CSafeLoader"}
WEIGHTLESS = ("AutoConfig", "AutoTokenizer", "AutoImageProcessor", "AutoFeatureExtractor")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT.parent).as_posix()


def imported(tree: ast.AST) -> set[str]:
    return {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }


def faults(source: str) -> Iterator[str]:
    """What a source does that it must not, one sentence each."""
    tree = ast.parse(source)
    yield from (f"imports {name}" for name in imported(tree) & PICKLES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from misuse(node, ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords})


def misuse(node: ast.Call, called: str, given: dict[str | None, str]) -> Iterator[str]:
    loads_yaml = called == "yaml.load" and ({*given.values()} | {ast.unparse(a) for a in node.args}).isdisjoint(SAFE)
    pretrained = called.endswith(".from_pretrained")
    weights = pretrained and not called.startswith(WEIGHTLESS)
    rules = {
        f"calls {called}": called in RUNNERS | LOADERS or called.endswith((".to_pickle", ".read_pickle")),
        "loads YAML by an unsafe loader": loads_yaml,
        "writes YAML of objects": called == "yaml.dump",
        "trusts remote code": given.get("trust_remote_code", "False") != "False",
        f"gives {called} what makes it unsafe": bool(UNSAFE & set(given.items())),
        "loads arrays without allow_pickle=False": called in ARRAYS and given.get("allow_pickle") != "False",
        f"leaves trust_remote_code to {called}": (pretrained or called.endswith(".from_config"))
        and "trust_remote_code" not in given,
        f"leaves use_safetensors to {called}": weights and given.get("use_safetensors") != "True",
    }
    yield from (rule for rule, broken in rules.items() if broken)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unsafe(path: Path) -> None:
    assert not list(faults(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import dill as d",
        "torch.load('x')",
        "eval('1')",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text)",
        "yaml.dump({})",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "AutoConfig.from_pretrained(f, trust_remote_code=True)",
        "AutoConfig.from_pretrained(f)",
        "AutoModel.from_pretrained(f, trust_remote_code=False)",
        "AutoModel.from_pretrained(f, trust_remote_code=False, use_safetensors=False)",
        "model.save_pretrained(f, safe_serialization=False)",
        "subprocess.run('ls', shell=True)",
        "frame.to_pickle('x')",
    ],
)
def test_what_is_unsafe_is_found(source: str) -> None:
    assert list(faults(source))


@pytest.fixture
def without_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pickle` reads nothing from here on; `datasets` only writes by it, for fingerprints."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr("dill.load", refuse)
    monkeypatch.setattr("dill.loads", refuse)
    monkeypatch.setattr("joblib.load", refuse)
    monkeypatch.setattr("torch.load", refuse)


def read(path: Path) -> object:
    """A file by the reader of its kind; AssertionError for a kind that nothing of ours writes."""
    match path.suffix:
        case ".parquet":
            return pq.read_table(path).num_rows
        case ".json":
            return json.loads(path.read_text())
        case ".yaml":
            return yaml.safe_load(path.read_text())
        case ".safetensors":
            return load_file(path)
        case ".npy" | ".npz":
            return np.load(path, allow_pickle=False)
        case ".png":
            return Image.open(path).size
        case ".md" | ".txt" | ".jinja" | ".lock":
            return path.read_text()
    raise AssertionError(f"{path} is of no kind that is known to be safe")


def test_all_that_an_audit_writes_is_read_without_pickle(
    run_folder: Path, overfitted: World, tmp_path: Path, without_pickle: None
) -> None:
    """The folder and the cache, each file by a plain reader, then the run by our own: opened, asked, refitted."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    paths = [path for place in (folder, overfitted.cache) for path in place.rglob("*") if path.is_file()]
    assert {path.suffix for path in paths} >= {".parquet", ".json", ".yaml", ".safetensors", ".png"}
    for path in paths:
        read(path)
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))  # a pickle's
    assert isinstance(read_outcome(folder).verdict, str)
    assert experiment(read_yaml(folder / "config.yaml")) == opened(folder).experiment
    assert query(opened(folder), "auditmi-relative").ask([user("x", ["w001 w002"])])
    assert refitted(folder, Texts(), "mean-loss").name == "mean-loss"
    for path in folder.glob("evidence/*/*.parquet"):
        assert read_evidence(path).names
    shards = sorted(path for path in overfitted.cache.rglob("*.parquet") if intact(path))
    assert shards
    assert all(len(chunk) for chunk in Shards(tuple(shards)))


def test_twenty_megapixels_are_an_image_and_a_bomb_is_none() -> None:
    """5,000 x 4,000 pixels are decoded; a file of kilobytes that tells of more than Pillow's bound is refused."""
    large = io.BytesIO()
    Image.new("L", (5000, 4000)).save(large, "PNG")
    assert decode({"bytes": large.getvalue(), "path": None}, "photo").size == (5000, 4000)
    bomb = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 50_000
    with pytest.raises(ValueError, match=r"it is too large .* shrink it"):
        decode({"bytes": bomb.getvalue(), "path": None}, "bomb")
    assert decode({"bytes": png(np.zeros((2, 2), dtype=np.uint8)), "path": None}, "small").size == (2, 2)
