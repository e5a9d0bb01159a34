"""Writes docs/parameters.md from the registry: `python docs/generate.py`. A test checks that it is current."""

from __future__ import annotations

from pathlib import Path

from ablate.tasks import registry
from ablate.tasks.image_classification.config import CORE, KINDS
from ablate.tasks.registry import Parameter

FILE = Path(__file__).with_name("parameters.md")
HEADER = """# Parameters

Everything that `fixed`, `axes`, arms and `tune` can name. This page is generated from the registry by
`python docs/generate.py`. A parameter of a row matters only where that row is chosen.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEADER, "\n## Of every trial\n\n", _parameter_table(list(CORE.values()))]
    for kind in KINDS:
        parts.append(
            f"\n## Rows of `{kind}`\n\n| name | what it is | parameters | source | version |\n|---|---|---|---|---|\n"
        )
        for row in registry.rows(kind):
            own = "<br>".join(f"`{p.name}` ({_default(p)}): {_rule(p)}" for p in row.parameters) or "–"
            parts.append(_table_row(f"`{row.name}`", row.summary, own, row.source, str(row.version)) + "\n")
    return "".join(parts)


def _parameter_table(parameters: list[Parameter]) -> str:
    lines = ["| parameter | default | values | what it is |", "|---|---|---|---|"]
    lines += [_table_row(f"`{p.name}`", _default(p), _rule(p), p.summary) for p in parameters]
    return "\n".join(lines) + "\n"


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(parameter: Parameter) -> str:
    value = parameter.default
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{part:g}' for part in value)}]`"
    return "`null`" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _rule(parameter: Parameter) -> str:
    if parameter.row_kind:
        return f"a row of `{parameter.row_kind}`"
    rule = ", ".join(f"`{choice}`" for choice in parameter.choices) or parameter.rule()
    suffix = " or null" if parameter.optional else ""
    return rule + suffix + (", only in `fixed`" if parameter.fixed_only else "")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
