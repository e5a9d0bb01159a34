"""YAML text → plain values and their positions. YAML 1.2: `yes` is text, `1e-3` is a number."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ablate.errors import Problem, SpecError, shown
from ablate.sweepfile.positions import Findings, Keys, Place, Positions

MAX_NESTING = 20
MAX_NODES = 20_000  # aliases of aliases grow without bound
_TOO_MANY = f"the file has more than {MAX_NODES} entries, aliases and merges counted"

_TAG = "tag:yaml.org,2002:"
_TEXT = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}  # dates and "=" are text in YAML 1.2
_CONSTRUCTED = {_TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float"}
_MERGE = _TAG + "merge"
_VERSION = re.compile(r"%YAML[ \t]+(\S+)")
_PLAIN = {
    _TAG + "bool": re.compile("true|True|TRUE|false|False|FALSE"),
    # YAML 1.1 reads 1_4 as 14, 010 as 8 and 1:30 as 90; the library knows some of that still.
    _TAG + "int": re.compile("[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+"),
    _TAG + "float": re.compile(
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
"""How a value other than text may be written, by its tag."""


class _ShortComposer(Composer):
    """Ends before a long file is read to its end, which would take minutes."""

    _num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise MarkedYAMLError(problem=_TOO_MANY, problem_mark=self.parser.peek_event().start_mark)
        return super().compose_node(parent, index)


class Document:
    """One YAML document: `tree` of plain values, and `findings` with positions and mistakes.

    Every key of the tree is text. Duplicate keys, tags, numbers that are not finite or written in two ways, and
    recursive aliases are mistakes; the document is read to its end all the same. `has_lines` is false for a value of
    the command line.

    Raises:
        SpecError: The text is not YAML, or too long: every visit of an entry counts, by way of an alias or `<<` too.
    """

    def __init__(self, text: str, file: str, *, has_lines: bool = True) -> None:
        self._file = file
        self._has_lines = has_lines
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.Composer = _ShortComposer
        self._num_nodes = 0
        self._open: list[Node] = []
        self.findings = Findings(Positions(self._place(0, 0)))
        node = self._compose(text)
        self.positions = self.findings.positions
        self.tree: Any = None
        if node is not None:
            self.positions.add((), self._start(node), self._start(node))
            self.tree = self._convert(node, ())

    def _check_version(self, text: str) -> None:
        """Refuse another version of YAML, which the library would read in its own way, with warnings."""
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines()):
            found = _VERSION.match(line)
            if found and found[1] != "1.2":
                place = self._place(number, 0)
                message = f"'%YAML {shown(found[1])[1:-1]}' is refused: a sweep file is YAML 1.2; leave this line out"
                raise SpecError(Problem(message, place.file, place.line, place.column))
            if line.strip() and not line.startswith(("%", "#")):
                return

    def _compose(self, text: str) -> Node | None:
        self._check_version(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an anchor may be used again
                node: Node | None = self._yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place(mark.line, mark.column) if mark else self._place(0, 0)
            if error.problem == _TOO_MANY:
                raise SpecError(Problem(_TOO_MANY, place.file, place.line, place.column)) from None
            raise self._not_yaml(place, error.problem or "wrong syntax") from None
        except RecursionError:
            raise self._not_yaml(self._place(0, 0), f"nested deeper than {MAX_NESTING} levels") from None
        except Exception as error:  # the scanner raises plain errors on bad escapes and characters
            position = getattr(error, "position", 0) or 0
            before = text[:position]
            place = self._place(before.count("\n"), position - before.rfind("\n") - 1)
            reason = getattr(error, "reason", None) or type(error).__name__
            raise self._not_yaml(place, f"a character or escape is not allowed ({reason})") from None
        return node

    def _not_yaml(self, place: Place, reason: str) -> SpecError:
        return SpecError(Problem(f"not YAML: {' '.join(reason.split())}", place.file, place.line, place.column))

    def _place(self, line: int, column: int) -> Place:
        return Place(self._file, line + 1, column + 1) if self._has_lines else Place(self._file)

    def _start(self, node: Node) -> Place:
        return self._place(node.start_mark.line, node.start_mark.column)

    def _mistake(self, node: Node, keys: Keys, message: str) -> None:
        self.findings.spoiled.add(keys)
        self.findings.at(self._start(node), message)

    def _visit(self, node: Node) -> None:
        """Count one more look at a node."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            place = self._start(node)
            raise SpecError(Problem(_TOO_MANY, place.file, place.line, place.column))

    def _convert(self, node: Node, keys: Keys) -> Any:
        self._visit(node)
        if node in self._open:
            return self._mistake(node, keys, "an alias must not contain itself")
        if len(self._open) >= MAX_NESTING:
            return self._mistake(node, keys, f"nested deeper than {MAX_NESTING} levels")
        if isinstance(node, ScalarNode):
            return self._scalar(node, keys)
        self._open.append(node)
        try:
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, keys)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return self._sequence(node, keys)
        finally:
            self._open.pop()
        return self._mistake(node, keys, f"the tag {shown(node.tag)} is not allowed; leave it out")

    def _sequence(self, node: SequenceNode, keys: Keys) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            place = self._start(child)
            self.positions.add((*keys, index), place, place)
            values.append(self._convert(child, (*keys, index)))
        return values

    def _mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in self._pairs(node, keys):
            name = self._name(key, keys)
            is_left_out = value.start_mark.index == value.end_mark.index
            self.positions.add((*keys, name), self._start(key), self._start(key if is_left_out else value))
            result[name] = self._convert(value, (*keys, name))
        return result

    def _pairs(self, node: MappingNode, keys: Keys) -> list[tuple[Node, Node]]:
        """Return the entries of a mapping, those merged by `<<` last; a key that is given wins over a merged one."""
        found: dict[str, tuple[Node, Node]] = {}
        merged: list[tuple[Node, Node]] = []
        merge: Node | None = None
        for key, value in node.value:
            self._visit(key)
            if key.tag == _MERGE and merge is not None:
                self._mistake(key, keys, _duplicate("<<", self._start(merge).line))
            elif key.tag == _MERGE:
                merge = key
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    self._visit(source)
                    merged.append((key, source))
            elif _key_text(key) in found:
                first = self._start(found[_key_text(key)][0]).line
                self._mistake(key, keys, _duplicate(_key_text(key), first))
            else:
                found[_key_text(key)] = (key, value)
        for merge_key, source in merged:
            for key, value in self._merged(merge_key, source, keys):
                self._visit(key)
                found.setdefault(_key_text(key), (key, value))
        return list(found.values())

    def _merged(self, merge_key: Node, source: Node, keys: Keys) -> list[tuple[Node, Node]]:
        """Return the entries that one `<<` brings."""
        if not isinstance(source, MappingNode) or source in self._open:
            self._mistake(merge_key, keys, "'<<' must merge a mapping, and not the one that it is in")
            return []
        if len(self._open) >= MAX_NESTING:
            self._mistake(merge_key, keys, f"nested deeper than {MAX_NESTING} levels")
            return []
        self._open.append(source)
        pairs = self._pairs(source, keys)
        self._open.pop()
        return pairs

    def _name(self, key: Node, keys: Keys) -> str:
        name = _key_text(key)
        if not isinstance(key, ScalarNode):
            self._mistake(key, keys, "a key must be text, but got a list or a mapping")
        elif key.tag not in _TEXT:
            self._mistake(key, (*keys, name), f'the key {name or "null"} must be text: quote it, "{name}"')
        elif not _is_encodable(name):
            self._mistake(key, (*keys, name), "text must not hold half a character (a lone surrogate)")
        return name

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        if node.tag in _TEXT:
            if not _is_encodable(node.value):
                self._mistake(node, keys, "text must not hold half a character (a lone surrogate)")
            return str(node.value)
        if node.tag not in _CONSTRUCTED:
            return self._mistake(node, keys, f"the tag {shown(node.tag)} is not allowed; leave it out")
        if node.tag in _PLAIN and not _PLAIN[node.tag].fullmatch(node.value):
            return self._mistake(node, keys, _unclear(node))
        try:
            value = self._yaml.constructor.construct_object(node, deep=True)
        except Exception:  # !!int on text, or thousands of digits
            return self._mistake(node, keys, f"{shown(node.value)} is not a number")
        if isinstance(value, float) and not math.isfinite(value):
            return self._mistake(node, keys, f"a number must be finite, but got {shown(node.value)}")
        if value == 0 and re.search("[1-9]", re.split("[eE]", node.value)[0]):
            return self._mistake(node, keys, f"a number must not be so near to 0, but got {shown(node.value)}")
        if isinstance(value, int) and abs(value) >= 2**63:
            return self._mistake(node, keys, f"an integer must be below 2**63, but got {shown(node.value)}")
        return value


def _duplicate(name: str, first: int | None) -> str:
    return f"duplicate key '{name}'" + (f", first given in line {first}" if first else "")


def _unclear(node: ScalarNode) -> str:
    """Return what is wrong with a value that one reader takes for a number or a boolean and another one for text."""
    if node.tag == _TAG + "bool":
        return f"{shown(node.value)} is no boolean: write true or false, or quote it if it is text"
    if not any(character.isdigit() for character in node.value):
        return f"{shown(node.value)} is not a number"
    return f"{shown(node.value)} is no plain number: leave out _, : and leading zeros, or quote it if it is text"


def _key_text(key: Node) -> str:
    return str(key.value) if isinstance(key, ScalarNode) else f"<{key.start_mark.line}:{key.start_mark.column}>"


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
