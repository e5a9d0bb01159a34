"""Bad input for the tests: what it is made of, and how one input is judged."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ablate.errors import AblateError

EXAMPLES = int(os.environ.get("ABLATE_FUZZ_EXAMPLES", "0"))
COUNTS: dict[str, Counter[str]] = {}
"""Inputs tried so far, by kind: how many were accepted and how many refused."""
TIMEOUT_S = 120
MAX_LINE = 2_000


def fuzz(few: int, share: float = 1) -> settings:
    """Try `few` inputs, always the same; in a long run others, ABLATE_FUZZ_EXAMPLES times `share` of them."""
    return settings(
        max_examples=max(1, round(EXAMPLES * share)) if EXAMPLES else few,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Hang(BaseException):
    """One input took longer than TIMEOUT_S."""


class Raw(str):
    """Text that goes into a YAML file as it is."""


@contextlib.contextmanager
def one_input(kind: str) -> Iterator[None]:
    """Try one input: it may end in success or in an AblateError of clear lines, within TIMEOUT_S."""
    counts = COUNTS.setdefault(kind, Counter())
    counts["inputs"] += 1
    with deadline():
        try:
            yield
        except AblateError as error:
            counts["refused"] += 1
            check_message(str(error))
        else:
            counts["accepted"] += 1


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """Raise Hang where the block takes longer than TIMEOUT_S."""

    def stop(*_: object) -> None:
        raise Hang("".join(traceback.format_stack(limit=12)))

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_message(text: str) -> None:
    """A message is lines that a terminal can print."""
    assert text.strip()
    for line in text.split("\n"):
        assert line.isprintable(), repr(line)
        assert len(line) <= MAX_LINE, line[:300]
        assert "Traceback" not in line


NAMES = [
    "a", "a b", "", " ", ".", "..", "../x", "../../x", "/abs", "a/b", "a\\b", "C:\\x", "~", "-x", "--help", "x" * 101,
    "x" * 50_000, "x\0y", "\x1b[31mred", "\u202eevil", "\u2028", "é", "e\u0301", "😀", "<script>alert(1)</script>",
    "=1+1",
    "\\input{/etc/passwd}", "{{7*7}}", "${HOME}", "%s%n", "ledger", "Data", "mlflow", "con", "null", "1", "1e3", "a\nb",
    "name", "axes", "depth", "profiles", "arm", "lr", "optimizer", "adam", "<list>", "<mapping>", "<choices>",
    "<range>",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 3, 0.5, -0.0, 0.1, 1e-320, 1e300, 1e308, -1e308, 2**31, 2**53 + 1, 2**63 - 1, -(2**63) + 1, 10**9,
    10**15,
]  # fmt: skip
RAW = [
    Raw(text)
    for text in (
        ".nan", ".inf", "-.inf", "9" * 5_000, "0x1F", "0o17", "0b1", "1_000", "1e400", "-", "~", "*a", "*b", "&a 1",
        "&a [1, *a]", "&b {<<: *b}", "{<<: 3}", "{<<: [{a: 1}]}", "!!python/object/apply:os.system [touch pwned]",
        "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!int x", "!!float x", "!!str 3",
        "!local 3", "!<tag:x,2000:y> 3", "2020-01-01", "2020-01-01T00:00:00Z", "{? [1] : 2}", "{1: 2}", "{null: 2}",
        "{true: 2}", "{a: 1, a: 2}", '"\\ud800"', '"\\x00"', '"\\U0010ffff"', "[" * 30 + "]" * 30, "[" * 2_000,
        "'unclosed", "|\n  block", ">-\n folded", "# comment", "%YAML 1.1", "---", "...", "@x", "`x",
    )
]  # fmt: skip
WEIRD = [None, True, False, *NUMBERS, *RAW, [], {}, [[]], [None], [{}], {"a": None}, {"": {}}, [1, "1", 1.0, True]]


def values() -> st.SearchStrategy[Any]:
    """Values that a key may get: odd ones, names, numbers, small trees."""
    leaves = st.one_of(
        st.sampled_from(WEIRD), st.sampled_from(NAMES), st.integers(), st.floats(allow_nan=False), st.text(max_size=12)
    )
    return st.one_of(
        leaves,
        st.lists(leaves, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), leaves, max_size=3),
    )


def paths(tree: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a tree but its root."""
    found: list[tuple[Any, ...]] = []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        found += [(*way, key), *paths(value, (*way, key))]
    return found


def at(tree: Any, way: tuple[Any, ...]) -> Any:
    """Return a part of a tree."""
    for key in way:
        tree = tree[key]
    return tree


@st.composite
def mutated_trees(draw: st.DrawFn, trees: list[Any], new_values: st.SearchStrategy[Any], most: int = 3) -> Any:
    """Draw one of the trees with one to `most` changes: parts deleted, renamed, exchanged, wrapped, repeated."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, most))):
        ways = paths(tree)
        if not ways:
            break
        way = draw(st.sampled_from(ways))
        parent, key = at(tree, way[:-1]), way[-1]
        change = draw(
            st.sampled_from(["replace", "replace", "number", "delete", "rename", "exchange", "wrap", "nest", "repeat"])
        )
        numbers = [way for way in ways if isinstance(at(tree, way), int | float)]
        if change == "number" and numbers:
            way = draw(st.sampled_from(numbers))
            at(tree, way[:-1])[way[-1]] = draw(st.sampled_from(NUMBERS))
        elif change == "delete":
            del parent[key]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(NAMES) | st.text(max_size=8))] = parent.pop(key)
        elif change == "exchange":
            parent[key] = copy.deepcopy(at(tree, draw(st.sampled_from(ways))))
        elif change == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"low": parent[key]}, {str(key): parent[key]}]))
        elif change == "nest":
            for _ in range(draw(st.sampled_from([1, 5, 19, 25, 200]))):
                parent[key] = [parent[key]]
        elif change == "repeat":
            if isinstance(parent, list):
                parent.extend([parent[key]] * draw(st.sampled_from([1, 2, 30])))
            else:
                parent[f"{key}2"] = copy.deepcopy(parent[key])
        else:
            parent[key] = draw(new_values)
    return tree


def to_yaml(value: Any) -> str:
    """Write a tree as YAML in flow style; `Raw` text as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_yaml(key)}: {to_yaml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_yaml, value)) + "]"
    return json.dumps(value)


def to_file(tree: Any) -> str:
    """Write a sweep file: one line for each key at the top."""
    if not isinstance(tree, dict):
        return to_yaml(tree)
    return "".join(f"{to_yaml(key)}: {to_yaml(value)}\n" for key, value in tree.items())


SNIPPETS = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xfe\xff", b"\r\n", b"\r", b"\t", b"\xc2\x85", b"\xe2\x80\xa8",
    b"\xed\xa0\x80", b"&a ",
    b"*a", b"<<: *a\n", b"- ", b"? ", b": ", b"{", b"}", b"[", b"]", b"'", b'"', b"|\n", b">\n", b"#", b"%",
    b"---\n", b"...\n",
    b"!!python/object/apply:os.system [touch pwned]", b"\x1b[2J", b"\\", b"\\x", b"9" * 400, b"null",
    b"PK\x03\x04", b"PAR1",
    b"\x80\x02.", b"cos\nsystem\n(S'touch pwned'\ntR.", b"\x00" * 64, b"\xff" * 64,
]  # fmt: skip


@st.composite
def mutated_bytes(draw: st.DrawFn, contents: list[bytes], most: int = 4) -> bytes:
    """Draw one of the contents with one to `most` changes of its bytes."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(content)))
        if draw(st.integers(0, 3)) == 0:  # file formats keep what matters most at both ends
            place = min(len(content), draw(st.integers(0, 32))) if draw(st.booleans()) else max(0, len(content) - 40)
        change = draw(st.sampled_from(["cut", "delete", "insert", "flip", "set", "snippet", "double", "exchange"]))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 40, 1000]))
        if change == "cut":
            del content[place:]
        elif change == "delete":
            del content[place : place + length]
        elif change == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif change == "snippet":
            content[place:place] = draw(st.sampled_from(SNIPPETS))
        elif change == "double":
            content[place:place] = content[place : place + length]
        elif change == "exchange":
            content[place : place + length] = content[place : place + length][::-1]
        elif place < len(content):
            content[place] = (
                content[place] ^ (1 << draw(st.integers(0, 7)))
                if change == "flip"
                else draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            )
    return bytes(content)
