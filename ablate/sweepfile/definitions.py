"""Checks `tune`: each definition by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ablate.errors import choices_text, shown
from ablate.sweepfile.positions import Findings, Keys
from ablate.sweepfile.shape import NAME, Choices, Range
from ablate.sweepfile.space import Definition, Label, label, labels
from ablate.tasks.parameters import ConfigError, Parameters
from ablate.tasks.registry import Parameter, Value

Tune = dict[str, list[tuple[Keys, Definition]]]
"""The definitions of each tuned parameter, with the place of each in the file."""
MAX_DEFINITIONS = 100
"""Of one parameter: each is compared with every other one."""


def read_tune(tune: Mapping[str, Any], parameters: Parameters, findings: Findings) -> Tune:
    """Return the definitions that hold no mistake."""
    known = parameters.all()
    found: Tune = {}
    for name, entry in tune.items():
        keys: Keys = ("tune", name)
        if name not in known:
            findings.at_key(keys, f"unknown parameter '{name}'. {choices_text(name, known)}")
        elif known[name].fixed_only:
            findings.at_key(keys, f"{name} must be the same for all trials: give it in 'fixed'")
        elif entry == []:
            findings.at_value(keys, f"{name} has no choices")
        else:
            found[name] = _read_entry(parameters, known[name], keys, entry, findings)
    return found


def _read_entry(
    parameters: Parameters, parameter: Parameter, keys: Keys, entry: Any, findings: Findings
) -> list[tuple[Keys, Definition]]:
    if isinstance(entry, list) and not any(isinstance(part, Range | Choices) for part in entry):
        choices = _read_choices(parameters, parameter, keys, entry, findings)
        return [(keys, _categorical(parameter, parameter.name, choices, {}))] if choices else []
    parts = [((*keys, i), part) for i, part in enumerate(entry)] if isinstance(entry, list) else [(keys, entry)]
    if len(parts) > MAX_DEFINITIONS:
        findings.at_value(keys, f"a parameter has at most {MAX_DEFINITIONS} definitions, but got {len(parts)}")
        return []
    found = []
    for place, part in parts:
        when = _read_when(parameters, parameter, (*place, "when"), part.when, findings)
        name = parameter.name if len(parts) == 1 else f"{parameter.name}[{_condition_text(when)}]"
        definition = _read_part(parameters, parameter, name, place, part, when, findings)
        if definition:
            found.append((place, definition))
    return found


def _read_part(
    parameters: Parameters,
    parameter: Parameter,
    name: str,
    keys: Keys,
    part: Any,
    when: dict[str, tuple[Value, ...]],
    findings: Findings,
) -> Definition | None:
    if isinstance(part, Choices):
        choices = _read_choices(parameters, parameter, (*keys, "choices"), part.choices, findings)
        return _categorical(parameter, name, choices, when) if choices else None
    if parameter.type not in ("int", "float"):
        findings.at_key((*keys, "low"), f"{parameter.name} is not a number: give choices, not a range")
        return None
    return _read_range(parameters, parameter, name, keys, part, when, findings)


def _categorical(
    parameter: Parameter, name: str, choices: dict[Label, Value], when: dict[str, tuple[Value, ...]]
) -> Definition:
    return Definition(parameter=parameter.name, sampled_name=name, kind="categorical", choices=choices, when=when)


def _read_choices(
    parameters: Parameters, parameter: Parameter, keys: Keys, choices: Any, findings: Findings
) -> dict[Label, Value]:
    if not choices:
        findings.at_value(keys, f"{parameter.name} has no choices")
        return {}
    named = choices.items() if isinstance(choices, dict) else enumerate(choices)
    found: dict[Label, Value] = {}
    for key, raw in named:
        place = (*keys, key)
        if isinstance(key, str) and not NAME.fullmatch(key):
            findings.at_key(place, f"the name of a choice must be letters, digits and . _ + -, but got {shown(key)}")
            continue
        value = checked(parameters, parameter.name, place, raw, findings)
        if value is not None and isinstance(key, int) and isinstance(value, tuple):
            findings.at_value(place, f"a choice of {parameter.name} needs a name: choices: {{NAME: {shown(raw)}}}")
            continue
        choice: Label = key if isinstance(key, str) else value  # type: ignore[assignment]
        if place not in findings.spoiled and (choice in found or value in found.values()):
            findings.at_value(place, f"{parameter.name} has the choice {label(value)} twice")
        found[choice] = value
    return found


def _read_range(
    parameters: Parameters,
    parameter: Parameter,
    name: str,
    keys: Keys,
    part: Range,
    when: dict[str, tuple[Value, ...]],
    findings: Findings,
) -> Definition | None:
    low = checked(parameters, parameter.name, (*keys, "low"), part.low, findings)
    high = checked(parameters, parameter.name, (*keys, "high"), part.high, findings)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    if low >= high:
        findings.at_value((*keys, "low"), f"low must be below high, but got low={low} and high={high}")
        return None
    if part.log and low <= 0:
        findings.at_value((*keys, "low"), f"low must be > 0 where log is true, but got {low}")
        return None
    refusal = _step_refusal(parameter, part, high - low)
    if refusal:
        findings.at_value((*keys, "step"), refusal)
        return None
    return Definition(
        parameter=parameter.name, sampled_name=name, kind="int" if parameter.type == "int" else "float",
        low=low, high=high, log=part.log, step=part.step, when=when,
    )  # fmt: skip


def _step_refusal(parameter: Parameter, part: Range, span: float) -> str | None:
    step = part.step
    if step is None:
        return None
    if step <= 0:
        return f"step must be > 0, but got {step}"
    if part.log:
        return f"step and log cannot be combined, but got step={step}"
    if parameter.type == "int" and step != int(step):
        return f"step must be an integer for {parameter.name}, but got {step}"
    steps = span / step
    if not math.isfinite(steps) or abs(steps - round(steps)) > 1e-9 * max(1, steps) or round(steps) < 1:
        return f"step must divide high - low = {span:g}, but got {step}"
    return None


def _read_when(
    parameters: Parameters, parameter: Parameter, keys: Keys, when: Mapping[str, Any], findings: Findings
) -> dict[str, tuple[Value, ...]]:
    found: dict[str, tuple[Value, ...]] = {}
    for name, raw in when.items():
        place = (*keys, name)
        if name == parameter.name:
            findings.at_key(place, f"{name} cannot depend on itself")
        elif name not in parameters.all():
            findings.at_key(place, f"unknown parameter '{name}'. {choices_text(name, parameters.all())}")
        elif raw == []:
            findings.at_value(place, f"the condition on {name} has no values")
        elif isinstance(raw, list):
            found[name] = tuple(checked(parameters, name, (*place, i), value, findings) for i, value in enumerate(raw))
        else:
            found[name] = (checked(parameters, name, place, raw, findings),)
    return found


def _condition_text(when: Mapping[str, tuple[Value, ...]]) -> str:
    return ",".join(f"{name}={labels(values)}" for name, values in when.items())


def checked(parameters: Parameters, name: str, keys: Keys, value: Any, findings: Findings) -> Value:
    """Return the value in its parameter's type; None after a mistake, which makes `keys` spoiled."""
    try:
        return parameters.check(name, value)
    except ConfigError as error:
        if name in parameters.all():
            findings.at_value(keys, str(error))
        else:
            findings.at_key(keys, str(error))
        return None
