"""The JSON Schema of a sweep file, for completion and checks in an editor."""

from __future__ import annotations

from typing import Any

from ablate.sweepfile.merge import SECTIONS, WHOLE
from ablate.sweepfile.shape import NAME_SCHEMA, SweepFile
from ablate.tasks.base import Task
from ablate.tasks.registry import Parameter

Schema = dict[str, Any]
OF_PARAMETERS = ("fixed", "axes", "components", "tune")
"""Sections whose entries are parameters, or hold them."""
NULL: Schema = {"type": "null"}
WITH_IMPORTS: Schema = {
    "anyOf": [{"required": ["imports"]}, {"required": ["task"], "properties": {"task": {"type": "object"}}}]
}


def json_schema(task: Task) -> Schema:
    """Return the schema for a task, with every registered parameter, its type, range, choices and summary.

    Where a file has `imports`, parameters and rows that the schema does not know are let through. What connects
    several entries (conditions, parameters defined twice) is checked by `load_spec` alone.
    """
    schema = SweepFile.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    definitions |= _definitions(task, properties, is_open=False) | _definitions(task, properties, is_open=True)
    names = [metric.name for metric in task.metrics]
    definitions["ReportOptions"]["properties"]["metric"] |= {"enum": names, "default": task.shown}
    for section in SECTIONS:
        if section in OF_PARAMETERS:
            properties[section] = {"type": ["object", "null"]}
        elif section != "budget":
            properties[section] = _or_null(properties[section])
    properties["profiles"] = {"type": "object", "propertyNames": NAME_SCHEMA}
    closed, opened = _ref("profile", is_open=False), _ref("profile", is_open=True)
    either = {"if": WITH_IMPORTS, "then": opened, "else": closed}
    for section, entries in _sections(definitions).items():
        definitions[f"profile.{section}"] = {
            "type": ["object", "null"],
            "properties": {name: _or_null(entry) for name, entry in entries.items()},
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Sweep file",
        "if": WITH_IMPORTS,
        "then": {"properties": _branch(opened, is_open=True)},
        "else": {"properties": _branch(either, is_open=False)},
    }


def _branch(profile: Schema, *, is_open: bool) -> Schema:
    sections = {section: _ref(section, is_open=is_open) for section in OF_PARAMETERS}
    return {**sections, "profiles": {"additionalProperties": profile}}


def _sections(definitions: Schema) -> dict[str, Schema]:
    """Return the entries of the sections that hold no parameters."""
    classes = {"budget": "Budget", "confirm": "Confirm", "report": "ReportOptions", "resources": "Resources"}
    return {section: definitions[name]["properties"] for section, name in classes.items()}


def _definitions(task: Task, properties: Schema, *, is_open: bool) -> dict[str, Schema]:
    """Return what is referred to: values, definitions, sections and a profile; open ones let unknown names through."""
    known = task.parameters.all()
    variable = [name for name in known if not known[name].fixed_only]
    values = {name: _value_ref(parameter, is_open=is_open) for name, parameter in known.items()}
    arms = _ref("arms", is_open=is_open)
    unknown = properties["tune"]["additionalProperties"] if is_open else False
    levels = {name: arms if _is_pair(known[name]) else {"anyOf": [_some(values[name]), arms]} for name in variable}
    content: dict[str, Schema] = {
        "arm": _object({name: values[name] for name in variable}, is_open),
        "arms": {**_object({}, _ref("arm", is_open=is_open)), "propertyNames": NAME_SCHEMA, "minProperties": 1},
    }
    entries: dict[str, tuple[Schema, Any]] = {
        "fixed": (values, is_open),
        "axes": (levels, {"anyOf": [_some({}), arms]} if is_open else arms),
        "components": ({}, {"allOf": [_ref("arm", is_open=is_open), {"minProperties": 1}]}),
        "tune": ({name: _ref(f"tune.{name}", is_open=is_open) for name in variable}, unknown),
    }
    profile: Schema = {key: _or_null(properties[key]) for key in WHOLE}
    for section, (named, others) in entries.items():
        removable = {name: _or_null(entry) for name, entry in named.items()}
        for key, schema in (
            (section, _object(named, others)),
            (f"profile.{section}", _object(removable, _or_null(others) if isinstance(others, dict) else others)),
        ):
            content[key] = {**schema, "type": ["object", "null"], "propertyNames": NAME_SCHEMA}
        profile[section] = _ref(f"profile.{section}", is_open=is_open)
    profile |= {section: _ref(f"profile.{section}", is_open=False) for section in SECTIONS if section not in entries}
    content["profile"] = _object(profile, False)
    content |= {f"tune.{name}": _tuning(known[name], is_open=is_open) for name in variable}
    content |= {
        f"value.{name}": _value(known[name], is_open=is_open) for name in known if known[name].row_kind or not is_open
    }
    if not is_open:
        content["when"] = _object({name: {"anyOf": [value, _some(value)]} for name, value in values.items()}, False)
    return {f"{name}.open" if is_open else name: schema for name, schema in content.items()}


def _tuning(parameter: Parameter, *, is_open: bool) -> Schema:
    """Return the schema of what `tune` says about a parameter."""
    value = _value_ref(parameter, is_open=is_open)
    condition = {} if is_open else {"when": _ref("when", is_open=False)}
    named = {**_object({}, value), "propertyNames": NAME_SCHEMA, "minProperties": 1}
    # A pair in a list has no name to be shown by.
    choices = [named] if _is_pair(parameter) else [_some(value), named]
    definitions = [_narrowed("Choices", {"choices": {"anyOf": choices}, **condition})]
    if parameter.type in ("int", "float"):
        definitions.insert(0, _narrowed("Range", {"low": value, "high": value, **condition}))
    lists = [_some({"anyOf": definitions})] + ([] if _is_pair(parameter) else [_some(value)])
    return {"description": parameter.summary, "anyOf": [*definitions, *lists]}


def _narrowed(name: str, properties: Schema) -> Schema:
    # By allOf: some editors let what stands beside a $ref replace what it refers to.
    return {"allOf": [_ref(name, is_open=False), {"properties": properties}]}


def _value(parameter: Parameter, *, is_open: bool) -> Schema:
    types = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    content: Schema = {"type": types.get(parameter.type, "array")}
    if parameter.optional:
        content["type"] = [content["type"], "null"]
    if parameter.type == "window":
        content |= {"items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 2, "maxItems": 2}
    if parameter.type == "steps":
        content |= {"items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    if parameter.low is not None:
        content["exclusiveMinimum" if parameter.low_open else "minimum"] = parameter.low
    if parameter.high is not None:
        content["maximum"] = parameter.high
    allowed = list(parameter.allowed())
    if allowed:
        # With imports, the known rows are still offered for completion.
        content["examples" if is_open and parameter.row_kind else "enum"] = allowed
    default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    return content | {"default": default, "description": parameter.summary}


def _value_ref(parameter: Parameter, *, is_open: bool) -> Schema:
    return _ref(f"value.{parameter.name}", is_open=is_open and bool(parameter.row_kind))


def _is_pair(parameter: Parameter) -> bool:
    return parameter.type in ("window", "steps")


def _ref(name: str, *, is_open: bool) -> Schema:
    return {"$ref": f"#/$defs/{name}.open" if is_open else f"#/$defs/{name}"}


def _object(properties: Schema, others: Any) -> Schema:
    return {"type": "object", **({"properties": properties} if properties else {}), "additionalProperties": others}


def _some(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}
