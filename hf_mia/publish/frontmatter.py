"""One result in the `model-index` of a card's YAML, spliced in by lines: all else stays as it was, to the byte."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import yaml

KEY = "model-index"

Json = Mapping[str, object]


def spliced(block: str, result: Json, name: str, newline: str = "\n") -> str:
    """A YAML block, ended by a newline, with a result in its model-index in the place of an earlier one of its kind.

    Of its kind is a result with the same `task`. Where there is no model-index, one for the model `name` is added at
    the end (before a last text in a block, whose end would change); where it has results, the new one stands after the
    first entry's last. No other line is touched. ValueError for malformed YAML, for a model-index that is not made as
    the Hub asks, or where a shape cannot be spliced.
    """
    before = _load(_bare(block))
    index = _index(before)
    expected = _updated(index, result, name)
    lines = block.splitlines(keepends=True)
    root = yaml.compose(block, Loader=yaml.SafeLoader) if before else None
    if isinstance(root, yaml.CollectionNode) and root.flow_style:
        raise ValueError("the front matter is written in braces, where no line can be added: write one key a line.")
    value = _value(root, KEY)
    if value is None:
        place = _last(root, len(lines))
        lines[place:place] = _dump({KEY: expected}, 0, newline)
    elif (results := _block_results(value, index)) is None:
        _replace_key(lines, cast(yaml.MappingNode, root), value, _dump({KEY: expected}, 0, newline))
    else:
        _splice(lines, results, _places(index, result), result, newline)
    made = "".join(lines)
    after = _load(_bare(made))
    if _text(after.pop(KEY, None)) != _text(expected) or _text(after) != _text(_others(before)):
        raise ValueError(f"its {KEY} has a shape in which no result can be added alone: write it one item a line.")
    return made


def _load(block: str) -> dict[str, object]:
    try:
        found = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"its front matter is not valid YAML: {' '.join(str(error).split())}. Mend it first."
        ) from error
    if not isinstance(found, dict | None):
        raise ValueError(f"its front matter must be keys and values, not a {type(found).__name__}.")
    return found or {}


def _others(found: Json) -> Json:
    return {name: value for name, value in found.items() if name != KEY}


def _bare(block: str) -> str:
    """The block as the Hub reads it: without the newline before the closing line."""
    return re.sub(r"(\r\n|\r|\n)\Z", "", block)


def _last(root: yaml.Node | None, lines: int) -> int:
    """The line for a new key: after all others, or before the last one where that ends in a text in a block."""
    node = root.value[-1][1] if isinstance(root, yaml.MappingNode) and root.value else None
    while isinstance(node, yaml.CollectionNode) and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    block = isinstance(root, yaml.MappingNode) and isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return int(root.value[-1][0].start_mark.line) if block and root is not None else lines


def _index(before: Json) -> list[Json]:
    """The entries of the model-index, each a mapping whose results, if any, are a list of mappings with a task."""
    index = before.get(KEY)
    if index is None:
        return []
    wrong = not isinstance(index, list)
    for entry in [] if wrong else cast("list[object]", index):
        results = entry.get("results", []) if isinstance(entry, Mapping) else None
        wrong = wrong or not isinstance(results, list | None) or not isinstance(entry, Mapping)
        wrong = wrong or not all(isinstance(one, Mapping) for one in results or [])
    if wrong:
        raise ValueError(f"its {KEY} must be a list of entries with a name and a list of results: mend it first.")
    return cast("list[Json]", index)


def _results(entry: Json) -> list[Json]:
    return cast("list[Json]", entry.get("results") or [])


def _places(index: Sequence[Json], result: Json) -> list[tuple[int, int]]:
    """Where results of the same task stand: entry and place in it."""
    rows = enumerate(index)
    return [(e, i) for e, entry in rows for i, one in enumerate(_results(entry)) if one.get("task") == result["task"]]


def _updated(index: Sequence[Json], result: Json, name: str) -> list[Json]:
    """The entries with the result in the first place of its kind, else at the end of the first entry's."""
    if not index:
        return [{"name": name, "results": [result]}]
    first, *others = _places(index, result) or [(0, len(_results(index[0])))]
    entries = []
    for e, entry in enumerate(index):
        rows = [one for i, one in enumerate(_results(entry)) if (e, i) not in others]
        if e == first[0]:
            rows[first[1] : first[1] + 1] = [result]
        changed = rows != _results(entry)
        entries.append({**entry, "results": rows} if changed else entry)
    return entries


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The node under a key; ValueError where the key stands twice."""
    found = [value for one, value in node.value if one.value == key] if isinstance(node, yaml.MappingNode) else []
    if len(found) > 1:
        raise ValueError(f"its front matter has the key {key!r} twice: leave one out.")
    return found[0] if found else None


def _block_results(value: yaml.Node, index: Sequence[Json]) -> list[yaml.SequenceNode] | None:
    """Each entry's results where all are written one item a line and the first entry has some, else None."""
    if not isinstance(value, yaml.SequenceNode) or value.flow_style or not index or not _results(index[0]):
        return None
    found = [_value(entry, "results") for entry in value.value]
    nodes = [node for node in found if isinstance(node, yaml.SequenceNode) and not node.flow_style]
    return nodes if len(nodes) == len(found) else None


def _splice(
    lines: list[str],
    results: Sequence[yaml.SequenceNode],
    places: Sequence[tuple[int, int]],
    result: Json,
    newline: str,
) -> None:
    """Put the result in the first of the places and empty the others, from the last line to the first."""
    if not places:
        node = results[0]
        end = _end(node.value[-1])
        lines[end:end] = _dump([result], node.start_mark.column, newline)
    for number, (entry, place) in reversed(list(enumerate(places))):
        node = results[entry]
        own = node.value[place]
        made = _dump([result], node.start_mark.column, newline) if number == 0 else []
        lines[own.start_mark.line : _end(own)] = made


def _replace_key(lines: list[str], root: yaml.MappingNode, value: yaml.Node, made: Sequence[str]) -> None:
    """Write the whole key anew: for one that is empty or in brackets; ValueError where a comment would be lost."""
    start = next(key.start_mark.line for key, own in root.value if own is value)
    end = max(_end(value), start + 1)
    if any("#" in line for line in lines[start:end]):
        raise ValueError(f"its {KEY} is empty or in brackets and holds a comment: write it one item a line.")
    lines[start:end] = made


def _end(node: yaml.Node) -> int:
    """The line after the last one on which a node says something; comments and empty lines after it do not count."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        pairs = cast("Iterable[object]", node.value)
        return max(_end(cast(yaml.Node, one[-1] if isinstance(one, tuple) else one)) for one in pairs)
    mark = node.end_mark
    return int(mark.line + (mark.column > 0 or mark.line == node.start_mark.line))


def _dump(value: object, indent: int, newline: str) -> list[str]:
    text = _text(value)
    return [" " * indent + line + newline for line in text.splitlines()]


def _text(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6))
