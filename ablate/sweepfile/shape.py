"""The shape of a sweep file: which keys there are and which type each value has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ablate.errors import choices_text, same_word, shown
from ablate.sweepfile.positions import Findings, Keys, Place
from ablate.tasks import catalog

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""Names of sweeps, profiles, axes, arms and choices: they become folders, tags and labels."""
RESERVED_NAMES = ("ledger", "data", "mlflow", "mlruns", "mlartifacts", "checkpoints", "weights", "default")
"""Names of what lies beside a sweep's folder, or of MLflow's own experiment."""
RESERVED_PREFIX = "mlflow."
"""Of MLflow's database, and of what SQLite and its making put beside it."""


def _scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise PydanticCustomError("rule", "must be a single value")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("rule", "must be a number")
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise PydanticCustomError("rule", "must be letters, digits and . _ + - (at most 100)")
    return value


def _gpus(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise PydanticCustomError("rule", "must be a part of one GPU or a whole number")
    return value


def _sweep_name(value: str) -> str:
    if value.lower() in RESERVED_NAMES:
        raise PydanticCustomError("rule", f"must not be one of {', '.join(RESERVED_NAMES)}")
    if value.lower().startswith(RESERVED_PREFIX):
        raise PydanticCustomError("rule", f"must not begin with {RESERVED_PREFIX}")
    return _name(value)


Scalar = Annotated[
    Any, AfterValidator(_scalar), WithJsonSchema({"type": ["null", "boolean", "integer", "number", "string"]})
]
Number = Annotated[Any, AfterValidator(_number), WithJsonSchema({"type": "number"})]
NumCpus = Annotated[float, Field(ge=0.01, le=10_000, allow_inf_nan=False)]
NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME.pattern}$"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _either(value: Any) -> str | None:
    """Tag a value as a list or a mapping. Tags are in <> so that they are no keys of a file."""
    return "<list>" if isinstance(value, list) else "<mapping>" if isinstance(value, dict) else None


def _condition_tag(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<one>"


def _definition_tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return "<choices>" if "choices" in value else "<range>"


def _tune_tag(value: Any) -> str | None:
    if isinstance(value, list):
        return "<definitions>" if any(isinstance(entry, dict) for entry in value) else "<list>"
    return _definition_tag(value)


def _discriminator(function: Any, message: str) -> Discriminator:
    return Discriminator(function, custom_error_type="rule", custom_error_message=message)


Condition = Annotated[
    Annotated[list[Scalar], Tag("<list>")] | Annotated[Scalar, Tag("<one>")], Discriminator(_condition_tag)
]


class Range(_Section):
    """A tuned number between `low` and `high`, both inclusive; `log` searches its logarithm."""

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None
    when: dict[str, Condition] = {}


class Choices(_Section):
    """A tuned parameter that takes one of some values; values that are no scalars have names."""

    choices: Annotated[
        Annotated[list[Scalar], Tag("<list>")] | Annotated[dict[str, Any], Tag("<mapping>")],
        _discriminator(_either, "must be a list of values or a mapping of named values"),
    ]
    when: dict[str, Condition] = {}


_TaggedRange = Annotated[Range, Tag("<range>")]
_TaggedChoices = Annotated[Choices, Tag("<choices>")]
_ONE = "must be a definition: {low, high} or {choices}"
OneDefinition = Annotated[_TaggedRange | _TaggedChoices, _discriminator(_definition_tag, _ONE)]
Tuning = Annotated[
    _TaggedRange
    | _TaggedChoices
    | Annotated[list[OneDefinition], Tag("<definitions>")]
    | Annotated[list[Scalar], Tag("<list>")],
    _discriminator(_tune_tag, "must be {low, high}, {choices}, a list of choices, or a list of definitions"),
]
Axis = Annotated[
    Annotated[list[Scalar], Tag("<list>")] | Annotated[dict[str, dict[str, Any]], Tag("<mapping>")],
    _discriminator(_either, "must be a list of levels or a mapping of named arms"),
]


def _version(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or not NAME.fullmatch(str(value)):
        raise PydanticCustomError("rule", "must be a number or a name of letters, digits and . _ + -")
    return value


def _task_tag(value: Any) -> str:
    return "<mapping>" if isinstance(value, dict) else "<name>"


class OwnMetric(_Section):
    """A metric of a user's own training.

    `direction` says which way is better; that of the objective where both end alike, as val_loss and test_loss do.
    `unit` percent is for fractions. `low` and `high` are the least and the largest value, `floor` is what a useless
    trial scores.
    """

    name: Annotated[str, AfterValidator(_name), WithJsonSchema(NAME_SCHEMA)]
    direction: Literal["max", "min"] | None = None
    unit: Literal["percent", "raw"] | None = None
    low: Number | None = None
    high: Number | None = None
    floor: Number | None = None


_MetricEntry = Annotated[
    Annotated[OwnMetric, Tag("<mapping>")]
    | Annotated[str, AfterValidator(_name), WithJsonSchema(NAME_SCHEMA), Tag("<name>")],
    Discriminator(_task_tag),
]


class OwnTask(_Section):
    """A user's own training: a function, FILE.py:NAME, or a command, a list of arguments.

    `objective` is the metric that tuning optimises, `metrics` are the others; the first of them is what the table
    shows. A command runs in `folder`, by default that of the file. `length` is the parameter that says how often a
    trial reports, by default epochs or steps. `version` pins the code by hand. `unread: allow` lets parameters be
    that are never read. `trial_timeout` is in seconds.
    """

    function: str | None = None
    command: Annotated[list[str], Field(min_length=1)] | None = None
    objective: _MetricEntry
    metrics: list[_MetricEntry] = []
    folder: str | None = None
    length: str | None = None
    version: Annotated[Any, AfterValidator(_version), WithJsonSchema({"type": ["integer", "string"]})] = None
    unread: Literal["error", "allow"] = "error"
    trial_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


DEFAULT_STUDIES = 5
Positive = Annotated[int, Field(ge=1), WithJsonSchema({"type": "integer", "minimum": 1})]
ONE_FORM: dict[str, Any] = {
    "oneOf": [
        {"required": ["trials"]},
        {"required": ["trials_per_cell"], "not": {"required": ["studies"]}},
    ]
}


NO_TRIALS, TWO_FORMS = "no_trials", "two_forms"
OTHER_FORM = {
    "studies": "To have studies, set budget.trials too, and remove budget.trials_per_cell with null",
    "trials": "Set budget.trials_per_cell instead, or remove it with null",
    "trials_per_cell": "Set budget.trials instead",
}
"""What to do about the key of a budget that is of another form than the rest."""


class Budget(_Section):
    """How each cell is tuned: in `studies` independent studies of `trials` tune trials each.

    `trials_per_cell` is the form for a single study, whose confirm seeds are the replicates. `batch` is the number of
    trials proposed at once. `start_from` are known points, tried first in every cell. `audit` is the number of stopped
    trials a cell that run to their end after tuning, to judge the pruner.
    """

    model_config = ConfigDict(json_schema_extra=ONE_FORM)

    studies: Positive | None = None
    trials: Positive | None = None
    trials_per_cell: Positive | None = None
    sampler: Literal["auto", "tpe", "random", "qmc", "grid"] = "auto"
    pruner: Literal["median", "successive_halving", "hyperband", "none"] = "median"
    batch: Annotated[int, Field(ge=1)] = 1
    start_from: list[dict[str, Scalar]] = []
    audit: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.trials_per_cell is None and self.trials is None:
            text = "the key 'trials' is required in budget: the tune trials of each study"
            raise PydanticCustomError(NO_TRIALS, text)
        if self.trials_per_cell is not None and (self.trials is not None or self.studies is not None):
            text = "a budget has studies and trials, or trials_per_cell for a single study, but this has both"
            raise PydanticCustomError(TWO_FORMS, text)
        return self

    @property
    def num_tune(self) -> int:
        """How many tune trials a study has."""
        return self.trials or self.trials_per_cell or 1

    @property
    def num_studies(self) -> int:
        """How many studies a cell has."""
        return 1 if self.trials is None else self.studies or DEFAULT_STUDIES

    @property
    def searched(self) -> str:
        """What has a search of its own: a "study" of several, or the "cell"."""
        return "study" if self.num_studies > 1 else "cell"

    @property
    def key(self) -> tuple[str, str]:
        """Where a file has the number of tune trials."""
        return ("budget", "trials_per_cell" if self.trials is None else "trials")


class Confirm(_Section):
    """How the winner of each study is confirmed: trained again with this many fresh seeds.

    `runner_up` confirms the second best configuration too, for the appendix. `keep_weights` keeps the weights of
    confirm trials.
    """

    seeds: Annotated[int, Field(ge=0)] = 1
    runner_up: bool = False
    keep_weights: bool = False


class ReportOptions(_Section):
    """How the table is laid out; left out, the first axis gives the rows and the second the columns.

    `margin` is the smallest difference that matters, with its unit: "2 points", or "0.02 in val_rmse".
    """

    rows: str | None = None
    columns: str | None = None
    metric: Annotated[str, AfterValidator(_name), WithJsonSchema({})] = ""
    baseline: Scalar = None
    margin: Scalar = None


class Resources(_Section):
    """What one pack of trials occupies. Ray gives out parts of one GPU, or whole GPUs."""

    cpus: NumCpus = 1
    gpus: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False), AfterValidator(_gpus)] = 0


class SweepFile(_Section):
    """A sweep file after its profile and overrides are merged. `task` names what each trial does, or describes it.

    `design` makes the axis `arm` of `components`, bundles of settings that are on or off; `combinations` says which
    for the design "list".
    """

    name: Annotated[str, AfterValidator(_sweep_name), WithJsonSchema(NAME_SCHEMA)]
    question: str = ""
    task: Annotated[
        Annotated[OwnTask, Tag("<mapping>")]
        | Annotated[str, AfterValidator(_name), WithJsonSchema(NAME_SCHEMA), Tag("<name>")],
        Discriminator(_task_tag),
    ] = catalog.DEFAULT
    fixed: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    design: Literal["full", "leave-one-out", "add-one", "list"] | None = None
    components: dict[str, dict[str, Any]] = {}
    combinations: list[list[str]] = []
    tune: dict[str, Tuning] = {}
    budget: Budget
    confirm: Confirm = Confirm()
    report: ReportOptions = ReportOptions()
    resources: Resources = Resources()
    seed: Annotated[int, Field(ge=0)] = 0
    imports: list[str] = []
    claims: list[str] = []


_SECTION_CLASSES: dict[str, type[BaseModel]] = {
    "budget": Budget, "confirm": Confirm, "report": ReportOptions, "resources": Resources,
}  # fmt: skip
MISSING = ("missing", NO_TRIALS)
"""Mistakes that a profile or an override can mend."""
_PLACEHOLDERS: dict[str, Any] = {"name": "wrong", "budget": {"trials_per_cell": 1}}


def check_shape(tree: dict[str, Any], findings: Findings, *, is_complete: bool = True) -> SweepFile | None:
    """Return the file in its types, without the entries that hold a mistake; add the mistakes to `findings`.

    `is_complete` says whether a key that is missing is a mistake. None if nothing can be made of the file.
    """
    try:
        return SweepFile.model_validate(_without(tree, findings.spoiled))
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail in details:
            if _is_misspelt(detail, details):
                findings.spoiled.add(_keys(detail))
            elif (is_complete or detail["type"] not in MISSING) and not _is_spoiled(detail, findings):
                _add(detail, findings)
            elif detail["type"] in MISSING:
                findings.spoiled.add(_keys(detail))
    try:
        return SweepFile.model_validate({**_PLACEHOLDERS, **_without(tree, findings.spoiled)})
    except ValidationError:
        return None


def _without(tree: dict[str, Any], spoiled: set[Keys]) -> dict[str, Any]:
    """Return the tree without the entries, one level down, that hold a mistake."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for keys in spoiled:
        section = result.get(str(keys[0])) if keys else None
        if len(keys) > 1 and isinstance(section, dict) and keys[0] != "budget":
            section.pop(str(keys[1]), None)
        elif keys:
            result.pop(str(keys[0]), None)
    return result


def _keys(detail: ErrorDetails) -> Keys:
    return tuple(part for part in detail["loc"] if not (isinstance(part, str) and part[:1] == "<" and part[-1:] == ">"))


def _is_spoiled(detail: ErrorDetails, findings: Findings) -> bool:
    """A required entry that was left out of the check because it is spoiled is not missing."""
    keys = _keys(detail)
    return detail["type"] == "missing" and any(spoiled[: len(keys)] == keys for spoiled in findings.spoiled)


def _is_misspelt(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Say whether a required entry is missing beside an unknown one that is probably meant to be it."""
    *way, name = detail["loc"]
    unknown = [str(other["loc"][-1]) for other in details if other["type"] == "extra_forbidden"
               and [*other["loc"][:-1]] == way]  # fmt: skip
    return detail["type"] == "missing" and bool(difflib.get_close_matches(str(name), unknown, n=1))


def _add(detail: ErrorDetails, findings: Findings) -> None:
    keys = _keys(detail)
    name = next((part for part in reversed(keys) if isinstance(part, str)), "the file")
    value = shown(detail["input"])
    match detail["type"]:
        case "missing":
            within = f" in {'.'.join(str(part) for part in keys[:-1])}" if keys[1:] else ""
            findings.spoiled.add(keys)
            findings.at(findings.positions.key(keys[:-1]), f"the key '{name}' is required{within}")
        case "no_trials":
            findings.spoiled.add(keys)
            findings.at(findings.positions.key(keys), detail["msg"])
        case "two_forms":
            findings.spoiled.add(keys)
            name, place = _second_form(detail["input"], findings)
            findings.at(place, f"{detail['msg']}. {OTHER_FORM[name]}")
        case "extra_forbidden":
            known = _known_keys(detail)
            elsewhere = "" if same_word(name, known) else _elsewhere(str(name), keys)
            findings.at_key(keys, f"unknown key '{name}'. {elsewhere or choices_text(name, known)}")
        case "literal_error":
            known = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
            findings.at_value(keys, f"unknown {name} {value}. {choices_text(detail['input'], known)}")
        case _:
            rule = _rule(detail["msg"])
            findings.at_value(keys, f"{name} {rule}, but got {value}")


def _second_form(budget: dict[str, Any], findings: Findings) -> tuple[str, Place]:
    """Return the key of a budget's other form that an override gave, or that comes later in the file, and its place."""
    places = [(name, findings.positions.key(("budget", name))) for name in OTHER_FORM if budget.get(name) is not None]
    return max(places, key=lambda each: (each[1].line is None, each[1].line or 0, each[1].column or 0))


def _elsewhere(name: str, keys: Keys) -> str:
    """Return the hint that a key belongs into another section; "" where none has it."""
    found = [f"{section}.{near}" for section, kind in _SECTION_CLASSES.items()
             if section != keys[0] and (near := same_word(name, kind.model_fields))]  # fmt: skip
    return f"Did you mean {found[0]}?" if found else ""


def _rule(message: str) -> str:
    """Return pydantic's message as "must be …"."""
    rule = re.sub(r"^Input should be", "must be", message)
    rule = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", rule)
    return rule.replace("a valid integer", "an integer").replace("valid ", "")


def _known_keys(detail: ErrorDetails) -> list[str]:
    loc = detail["loc"]
    if len(loc) == 1:
        return [*SweepFile.model_fields, "profiles"]
    if loc[0] == "task":
        return list((OwnMetric if "objective" in loc or "metrics" in loc else OwnTask).model_fields)
    if loc[0] == "tune":
        return list((Choices if "<choices>" in loc else Range).model_fields)
    return list(_SECTION_CLASSES[str(loc[0])].model_fields)
