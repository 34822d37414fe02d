"""Real text that every installation has: the prose of the docstrings in the installed dependencies' source files.

A unit is a module and its records are sentences, so a model trained on some of the modules can be audited without a
download. Source files are found through `importlib.util.find_spec` and read with `ast`; nothing is imported or
executed. Other versions of the dependencies hold other text: a corpus can be repeated on one installation only.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import random
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

# The dependencies of hf_mia and what they bring along. One that is not installed is passed over.
PACKAGES = (
    *("torch", "transformers", "scipy", "sklearn", "numpy", "datasets", "matplotlib", "pandas", "accelerate"),
    *("huggingface_hub", "evaluate", "pyarrow", "networkx", "sympy", "fsspec", "joblib", "PIL", "aiohttp"),
)
SHORTEST, LONGEST = 4, 60  # words in a sentence
LARGEST = 200_000  # bytes: the one file in a hundred that is larger takes a fifth of the time

# Tests; copies of other packages' files and of transformers' modeling files.
_SKIPPED = re.compile(r"test_.*|(.*_|conf)?tests?|testing|modular_.*|_*vendor.*|_?externals?|third_party|array_api_.*")
_QUOTED = re.compile(r'("""|\'\'\').*?\1', re.DOTALL)
_FULL_STOP = re.compile(r"[.!?](?=[\s\"']|$)")
_RULE = re.compile(r"[^A-Za-z]*$|[|+]")  # underlines, tables
_ADMONITION = re.compile(r"\.\. (note|warning|tip|important|caution|attention|hint)::")
_HEAD = re.compile(
    r"(:\w[^:]*:|[-*+•]|\(?(\d{1,2}|[a-z])[.)]|\.\. \w+::)(\s+|$)"  # :param x:   -   1.   (a)   .. note::
    r"|[\w.*`'\"\[\]]+(, *[\w.*`'\"]+)*(\s*\((?:[^()]|\([^()]*\))*\))?(?P<numpy>\s*):(\s+|$)"  # x (int):   x : int
)
_MARKED = re.compile(r"[`\[*<\\]")
_MARKUP = (
    (re.compile(r"(:[\w:+-]+:)?`{1,2}[~.!]*([^`<]*?)\s*(<[^`>]*>)?`{1,2}_{0,2}"), r"\2"),  # :class:`~a.B`, `it <url>`_
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),  # [text](url)
    (re.compile(r"(?<!\w)\[([A-Z][\w.]+)\](?!_)"), r"\1"),  # [`~a.B`]
    (re.compile(r"\*{1,2}(\S[^*]*?)\*{1,2}"), r"\1"),
    (re.compile(r"</?[A-Za-z]+(\s[^<>]*)?>|\\\\? (?=\w)|\\(?=[*_`])"), ""),  # <Tip>, `Field`\ s, \*args
)
_BOUNDARY = re.compile(
    r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)(?<!\bal\.)(?<!\bpp\.)(?<!\bSec\.)"
    r"(?<!\b[Ff]ig\.)(?<!\b[Ee]q\.)(?<!\b[Rr]ef\.)(?<!\b[Nn]o\.) (?=[A-Z\"'(])"
)
_CODE = re.compile(r"[=|\\{}<>~^@#$*`\[\]]|//|--|::|\w\(|\.\.|[.!?]\s+[a-z]|\d{3}")
_NAME = re.compile(r"\w[_.]\w|\b_|\w[a-z][A-Z]")
_GLUE = re.compile(r"\b(the|an?|of|is|are|to|be|in|for|that|this|it|by|with|if|on|as|and|or|not|from|can|will|at)\b")


def docstring_sentences(units: int, sentences: int = 20, seed: int = 0) -> Dataset:
    """Sentences from the docstrings of installed modules, for games whose unit is the module.

    Modules are read in a random order over all packages until `units` of them hold `sentences` sentences that stand in
    no other module read (up to case and figures); a random choice of these is kept. Returns `units * sentences` rows:
    `user` (string, dotted module name) and `text` (string, a sentence of 4 to 60 words), a unit's rows together and
    the units in the random order. The same installation and seed give the same rows. ValueError for an argument below
    1, or if fewer than `units` installed modules qualify.
    """
    from datasets import Dataset

    if units < 1 or sentences < 1:
        raise ValueError(f"units and sentences must be at least 1, but are {units} and {sentences}: ask for more.")
    users, texts = [], []
    for module, found in _modules(_sources(seed), units, sentences):
        chosen = sorted(random.Random(f"{seed} {module}").sample(range(len(found)), sentences))
        users += [module] * sentences
        texts += [found[i] for i in chosen]
    return Dataset.from_dict({"user": users, "text": texts})


def _sources(seed: int) -> list[tuple[str, Path]]:
    """(module name, path) of every source file that is neither a test nor a copy of another, in a random order."""
    found: list[tuple[str, Path]] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in root.rglob("*.py"):
                parts = path.relative_to(root).with_suffix("").parts
                if not any(_SKIPPED.fullmatch(part) for part in parts):
                    found.append((".".join((package, *parts)).removesuffix(".__init__"), path))
    return random.Random(seed).sample(sorted(found), len(found))


def _modules(sources: Iterable[tuple[str, Path]], units: int, sentences: int) -> list[tuple[str, list[str]]]:
    """The first `units` modules to hold `sentences` sentences of their own, with all of these, in the order read."""
    owner: dict[str, str] = {}  # a sentence's key -> the first module it was read in
    kept: dict[str, dict[str, str]] = {}  # module -> key -> sentence, without those read elsewhere
    full: dict[str, None] = {}  # the modules that qualify, in the order read
    most = 0
    for module, path in sources:
        kept[module] = {}
        for text in _module_sentences(path, sentences):
            key = re.sub(r"\d+", "0", text.casefold())
            first = owner.setdefault(key, module)
            if first == module:
                kept[module].setdefault(key, text)
            elif kept[first].pop(key, None) is not None and len(kept[first]) < sentences:
                full.pop(first, None)
        if len(kept[module]) >= sentences:
            full[module] = None
        most = max(most, len(full))
        if len(full) == units:  # one more a step at most, so never passed over
            return [(name, list(kept[name].values())) for name in full]
    raise ValueError(
        f"units must be at most {most}, the installed modules with {sentences} sentences of their own, "
        f"but is {units}: lower units to {most}, or lower sentences."
    )


def _module_sentences(path: Path, least: int) -> list[str]:
    """The sentences of one file's docstrings; none if it does not parse, is too large or clearly has too few."""
    try:
        source = path.read_text("utf-8") if path.stat().st_size <= LARGEST else ""
        if sum(len(_FULL_STOP.findall(quoted[0])) for quoted in _QUOTED.finditer(source)) < least:
            return []  # parsing everything would take twice as long
        with _collector_paused(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            docs = list(_docstrings(ast.parse(source)))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    return [text for doc in docs for text in _sentences(doc)]


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection inside: a syntax tree holds no cycles, and looking for them takes longer than parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        (gc.enable if enabled else gc.disable)()


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module, its classes and functions in the source's order; functions are not looked into."""
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    for child in () if function else ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)


def _sentences(doc: str) -> Iterator[str]:
    for paragraph in filter(_FULL_STOP.search, _paragraphs(doc)):
        if _MARKED.search(paragraph):
            for pattern, plain in _MARKUP:
                paragraph = pattern.sub(plain, paragraph)
        yield from filter(_is_prose, _BOUNDARY.split(" ".join(paragraph.split())))


def _paragraphs(doc: str) -> Iterator[str]:
    """Runs of prose lines, joined. A blank line, another indent or the head of a list entry ends a run."""
    run: list[str] = []
    indent: int | None = None  # the run's; None while the line after a head may set it
    for at, line in _prose_lines(doc):
        head = _HEAD.match(line)
        if run and (not line or head or indent not in (None, at)):
            yield " ".join(run)
            run = []
        if head:
            indent, line = None, "" if head["numpy"] else line[head.end() :]
        elif line:
            indent = at
        run += [line] if line else []
    yield " ".join(run)


def _prose_lines(doc: str) -> Iterator[tuple[int, str]]:
    """(indent, stripped line) for every line; code, doctests, directives, tables and underlines come as blank ones."""
    literal: int | None = None  # lines indented more than this belong to a literal block or a directive
    doctest = fence = False
    for raw in doc.splitlines():
        line, at = raw.strip(), len(raw) - len(raw.lstrip())
        if line.startswith(("```", "~~~")):
            fence, line = not fence, ""
        doctest = bool(line) and (doctest or line.startswith((">>>", "In [")))
        if literal is not None and line and at <= literal:
            literal = None
        if literal is None and line.startswith(".. ") | line.endswith("::") and not _ADMONITION.match(line):
            literal = at
        hidden = fence or doctest or literal is not None or _RULE.match(line)
        yield at, "" if hidden else line


def _is_prose(text: str) -> bool:
    """Whether a piece of a paragraph is one whole English sentence with little code or notation in it."""
    words = text.split()
    whole = text[:1].isupper() and text[-1] in ".!?" and text.count("(") == text.count(")") and text.count('"') % 2 == 0
    plain = text.isascii() and not _CODE.search(text) and 6 * len(_NAME.findall(text)) <= len(words)
    letters = 4 * sum(map(str.isalpha, text)) >= 3 * sum(map(len, words))
    return SHORTEST <= len(words) <= LONGEST and whole and plain and letters and _GLUE.search(text) is not None
