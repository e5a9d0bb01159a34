"""Every mistake in a sweep file ends in one line that says where it is and which rule it breaks."""

import os
import pickle
import re
import socket
import sys
from pathlib import Path

import pytest

from ablate.errors import SpecError
from ablate.sweepfile.spec import load_spec
from ablate.tasks import registry

HEAD = "name: s\nbudget: {trials_per_cell: 1}\n"

# What follows the two lines of HEAD, the place of the mistake, and what is said about it.
MISTAKES = {
    # keys and types
    "unknown_key": ("fixxed: {}", "3:1", r"unknown key 'fixxed'. Did you mean 'fixed'\? Available: axes, "),
    "unknown_report_key": ("report: {row: depth}", "3:10", r"unknown key 'row'. Did you mean 'rows'\?"),
    "unknown_range_key": ("tune: {lr: {low: 1, high: 2, lag: 1}}", "3:30", r"unknown key 'lag'. .*log, low"),
    "unknown_choices_key": (
        "tune: {lr: {choices: [1], low: 1}}", "3:27", "unknown key 'low'. Available: choices, when",
    ),
    "section_is_a_list": ("confirm: [3]", "3:10", r"confirm must be a mapping, but got \[3\]"),
    "section_is_a_number": ("fixed: 3", "3:8", "fixed must be a mapping, but got 3"),
    "tune_is_text": ("tune: lr", "3:7", "tune must be a mapping, but got 'lr'"),
    "axis_is_a_number": ("axes: {depth: 20}", "3:15", "depth must be a list of levels or a mapping of named arms"),
    "level_is_a_list": ("axes: {depth: [[20]]}", "3:16", r"depth must be a single value, but got \[20\]"),
    "arm_is_null": ("axes:\n  arm:\n    plain:\n", "5:5", "plain must be a mapping, but got null"),
    "arm_is_a_list": ("axes: {arm: {plain: [he]}}", "3:21", "plain must be a mapping"),
    "definition_is_a_number": ("tune: {lr: 0.1}", "3:12", r"lr must be \{low, high\}, .*, but got 0.1"),
    "definition_in_list": ("tune: {lr: [{low: 1, high: 2}, 3]}", "3:32", r"lr must be a definition: .*, but got 3"),
    "choices_is_a_number": ("tune: {lr: {choices: 3}}", "3:22", "choices must be a list of values or a mapping"),
    "low_is_text": ("tune: {lr: {low: a, high: 2}}", "3:18", "low must be a number, but got 'a'"),
    "low_is_missing": ("tune: {lr: {high: 2}}", "3:8", "the key 'low' is required in tune.lr"),
    "low_is_misspelt": ("tune: {lr: {lwo: 1, high: 2}}", "3:13", r"unknown key 'lwo'. Did you mean 'low'\?"),
    "log_is_text": ("tune: {lr: {low: 1, high: 2, log: yes}}", "3:35", "log must be a boolean, but got 'yes'"),
    "when_is_text": ("tune: {lr: {low: 1, high: 2, when: sgd}}", "3:36", "when must be a mapping"),
    "when_is_nested": (
        "tune: {lr: {low: 1, high: 2, when: {optimizer: {a: 1}}}}", "3:48", "optimizer must be a single value",
    ),
    "negative_seed": ("seed: -1", "3:7", "seed must be greater than or equal to 0, but got -1"),
    "seed_is_text": ("seed: x", "3:7", "seed must be an integer, but got 'x'"),
    "seed_is_null": ("seed:", "3:1", "seed must be an integer, but got null"),
    "question_is_a_number": ("question: 3", "3:11", "question must be a string, but got 3"),
    "imports_is_text": ("imports: a.py", "3:10", "imports must be a list, but got 'a.py'"),
    "no_cpus": ("resources: {cpus: 0}", "3:19", "cpus must be greater than or equal to 0.01, but got 0"),
    "next_to_no_cpus": ("resources: {cpus: 1e-308}", "3:19", "cpus must be greater than or equal to 0.01, but got"),
    "endless_cpus": ("resources: {cpus: 1e+308}", "3:19", "cpus must be less than or equal to 10000, but got 1e"),
    "endless_gpus": ("resources: {gpus: 1e+300}", "3:19", "gpus must be less than or equal to 10000, but got 1e"),
    # sizes: each would take minutes, all memory or a number too large for a float
    "too_many_seeds": ("confirm: {seeds: 1000000000}", "2:.*", "at most 1000000 trials, but 1 cells make 100000000"),
    "step_of_next_to_nothing": (
        "tune: {lr: {low: 1, high: 1e+30, step: 1e-300}}", "3:40", "step must divide high - low = 1e.30, but got",
    ),
    "too_many_definitions": (
        f"tune: {{lr: [{', '.join(['{low: 0.1, high: 1, when: {optimizer: sgd}}'] * 101)}]}}", "3:12",
        "a parameter has at most 100 definitions, but got 101",
    ),
    "too_many_profiles": (
        f"profiles: {{{', '.join(f'p{i}: {{}}' for i in range(101))}}}", "3:1", "at most 100 profiles",
    ),
    "gpus_are_a_boolean": ("resources: {gpus: true}", "3:19", "gpus must be a number, but got true"),
    "negative_confirm_seeds": ("confirm: {seeds: -1}", "3:18", "seeds must be greater than or equal to 0"),
    "unknown_metric": (
        "report: {metric: test_acuracy}", "3:18",
        r"unknown metric 'test_acuracy'\. Did you mean 'test_accuracy'\? Available: test_accuracy, ",
    ),
    "unknown_parameter_in_a_profile": (
        "profiles: {a: {fixed: {epoch: 3}}}", "3:24", r"unknown parameter 'epoch'\. Did you mean 'epochs'\?",
    ),
    "wrong_value_in_a_profile": (
        "profiles: {a: {tune: {lr: [-1]}}}", "3:28", r"lr must be a number > 0, but got -1",
    ),
    "condition_that_a_profile_breaks": (
        "tune: {optimizer: [sgd, adam], lr: {low: 1, high: 2, when: {optimizer: adam}}}\n"
        "profiles: {a: {tune: {optimizer: null}}}", "3:72",
        "with --profile a: optimizer is never adam here. It takes: sgd",
    ),
    "defined_again_in_a_profile": (
        "tune: {lr: [1, 2]}\nprofiles: {a: {fixed: {lr: 1}}}", "3:8",
        r"with --profile a: lr is defined in fixed and in tune: .* \(the other is in line 4\)",
    ),
    "metric_name": ("report: {metric: [a]}", "3:18", "metric must be a string"),
    # YAML
    "duplicate_key": ("seed: 1\nseed: 2", "4:1", "duplicate key 'seed', first given in line 3"),
    "duplicate_merge": (
        "fixed: {<<: {width: 9}, <<: {width: 7}}", "3:25", "duplicate key '<<', first given in line 3"
    ),
    "duplicate_entry": ("fixed: {lr: 1, lr: 2}", "3:16", "duplicate key 'lr', first given in line 3"),
    "key_is_a_number": ("axes: {arm: {1: {init: he}}}", "3:14", 'the key 1 must be text: quote it, "1"'),
    "key_is_a_boolean": ("axes: {arm: {true: {init: he}}}", "3:14", "the key true must be text"),
    "key_is_null": ("fixed: {~: 1}", "3:9", "the key ~ must be text"),
    "key_is_a_list": ("fixed: {[1]: 1}", "3:9", "a key must be text, but got a list or a mapping"),
    "not_a_number": ("fixed: {lr: .nan}", "3:13", "a number must be finite, but got '.nan'"),
    "infinite": ("tune: {lr: {low: 1, high: .inf}}", "3:27", "a number must be finite"),
    "huge_integer": ("fixed: {epochs: 0xffffffffffffffffff}", "3:17", r"an integer must be below 2\*\*63"),
    "many_digits": ("fixed: {epochs: " + "9" * 5000 + "}", "3:17", "is not a number"),
    "python_tag": ("fixed: !!python/object/apply:os.abort []", "3:8", "the tag .* is not allowed"),
    "own_tag": ("fixed: {lr: !x 3}", "3:13", "the tag '!x' is not allowed"),
    "wrong_tag": ("seed: !!int x", "3:7", "'x' is not a number"),
    "recursive_alias": ("fixed: &a {lr: *a}", "3:8", "an alias must not contain itself"),
    "recursive_merge": ("fixed: &a\n  <<: *a", "4:3", "'<<' must merge a mapping"),
    "merged_text": ("fixed: {<<: a}", "3:9", "'<<' must merge a mapping"),
    "deep": ("fixed: {lr: " + "[" * 50 + "]" * 50 + "}", "3:31", "nested deeper than 20 levels"),
    "very_deep": ("fixed: " + "[" * 1500, "1:1", "not YAML: nested deeper than 20 levels"),
    "surrogate": ('question: "\\ud800"', "3:11", "a lone surrogate"),
    "surrogate_key": ('"\\ud800": 1', "3:1", "a lone surrogate"),
    "underscores": ("fixed: {epochs: 1_4}", "3:17", "'1_4' is no plain number: leave out _, : and leading"),
    "octal_of_yaml_1_1": ("seed: 010", "3:7", "'010' is no plain number"),
    "leading_zero": ("fixed: {lr: 01.5}", "3:13", "'01.5' is no plain number"),
    "binary": ("fixed: {epochs: 0b11}", "3:17", "'0b11' is no plain number"),
    "underscored_level": ("axes: {depth: [20, 3_2]}", "3:20", "'3_2' is no plain number"),
    "underscored_choice": ("tune: {lr: [0.1, 0.0_1]}", "3:18", "'0.0_1' is no plain number"),
    "tagged_underscores": ("seed: !!int 1_4", "3:7", "'1_4' is no plain number"),
    "sexagesimal": ("fixed: {epochs: 1:30}", "3:17", "epochs must be an integer >= 1, but got '1:30'"),
    "nearly_zero": ("fixed: {lr: 1e-400}", "3:13", "a number must not be so near to 0, but got '1e-400'"),
    # numbers that nets cannot compute with
    "beyond_float32": (
        "fixed: {lr: 1e+39}", "3:13",
        r"lr must be a number > 0 that float32 can hold \(a size from 1.2e-38 to 1e\+32\), but got 1e\+39",
    ),
    "below_float32": ("fixed: {lr: 1e-46}", "3:13", "lr must be a number > 0 that float32 can hold"),
    "level_beyond_float32": ("axes: {lr: [0.1, 1e+300]}", "3:18", "lr must be a number > 0 that float32 can hold"),
    "choice_beyond_float32": ("tune: {lr: [0.1, 1e+39]}", "3:18", "lr must be a number > 0 that float32 can hold"),
    "range_beyond_float32": (
        "tune: {lr: {low: 0.1, high: 1e+39, log: true}}", "3:29", "lr must be a number > 0 that float32 can hold",
    ),
    "option_beyond_float32": (
        "fixed: {regularizer: l2, weight_decay: 1e+39}", "3:40", "weight_decay must be a number >= 0 that float32 can",
    ),
    "option_of_an_arm_below_float32": (
        "axes: {arm: {a: {regularizer: orthonormal, ortho_weight: 1e-60}}}", "3:58", "ortho_weight must be a number",
    ),
    "integer_beyond_all_sizes": (
        "fixed: {width: 9e30}", "3:16", "width must be an integer >= 1 and at most 2147483647, but got 9e",
    ),
    "open_bracket": ("fixed: {lr: 1", "3:14", "not YAML: expected ',' or '}'"),
    "tab": ("fixed:\n\tlr: 1", "4:1", "not YAML: found character"),
    "two_documents": ("---\nseed: 1", "3:1", "not YAML: but found another document"),
    "unknown_alias": ("fixed: *a", "3:8", "not YAML: found undefined alias"),
    "control_character": ("question: \x01", "3:11", "not YAML: a character or escape is not allowed"),
    "wrong_escape": ('question: "\\UFFFFFFFF"', "1:1", "not YAML: a character or escape is not allowed"),
    # parameters
    "unknown_parameter": ("fixed: {widht: 3}", "3:9", r"unknown parameter 'widht'. Did you mean 'width'\?"),
    "unknown_in_arm": ("axes: {arm: {a: {widht: 3}}}", "3:18", "unknown parameter 'widht'"),
    "unknown_axis": ("axes: {dpeth: [20]}", "3:8", r"an axis with a list .* unknown 'dpeth'. Did you mean 'depth'\?"),
    "unknown_tuned": ("tune: {rl: {low: 1, high: 2}}", "3:8", "unknown parameter 'rl'"),
    "unknown_row": ("fixed: {optimizer: adma}", "3:20", r"unknown optimizer 'adma'. Did you mean 'adam'\? Available: "),
    "unknown_level": ("axes: {optimizer: [sgd, adma]}", "3:25", "unknown optimizer 'adma'"),
    "unknown_choice": ("tune:\n  optimizer: [sgd, adma]", "4:20", "unknown optimizer 'adma'"),
    "unknown_named_choice": ("tune: {optimizer: {choices: {a: adma}}}", "3:33", "unknown optimizer 'adma'"),
    "out_of_range": ("fixed: {warmup: 2}", "3:17", "warmup must be a number >= 0 and <= 0.9, but got 2"),
    "no_value": ("fixed: {lr: }", "3:9", "lr must be a number > 0, but got null"),
    "nothing_in_a_list": ("fixed: {lr: [null, true]}", "3:13", r"must be a number > 0, but got \[null, true\]"),
    "wrong_type": ("fixed: {epochs: 1.5}", "3:17", "epochs must be an integer >= 1, but got 1.5"),
    "window_is_text": ("fixed: {modulation: top, modulation_window: '01'}", "3:45", r"must be a pair \[start, end\]"),
    "window_is_a_mapping": (
        "fixed: {modulation: top, modulation_window: {'0': 0, '1': 1}}", "3:45", r"must be a pair \[start, end\]",
    ),
    "steps_are_fractions": (
        "fixed: {modulation: top, modulation_window_steps: [0, 0.5]}", "3:51",
        r"modulation_window_steps must be a pair \[start, end\] of whole numbers with 0 <= start <= end",
    ),
    "post_hoc_with_shortcuts": (
        "fixed: {modulation: top, shortcut: identity, modulation_form: post_hoc}", "3:63",
        "'post_hoc' holds in nets without shortcuts only, .* but got shortcut 'identity'",
    ),
    "post_hoc_in_one_arm": (
        "fixed: {modulation: top}\naxes:\n  arm:\n    a: {shortcut: none}\n"
        "    b: {shortcut: identity, modulation_form: post_hoc}", "7:46", "'post_hoc' holds in nets without shortcuts",
    ),
    "fixed_only_in_tune": ("tune: {max_loss: {low: 1, high: 2}}", "3:8", "max_loss must be the same for all trials"),
    "fixed_only_axis": ("axes: {max_loss: [1, 2]}", "3:8", "max_loss must be the same for all trials"),
    "fixed_only_in_arm": ("axes: {arm: {a: {max_loss: 1}}}", "3:18", "max_loss must be the same for all trials"),
    # definitions
    "inverted_range": ("tune: {lr: {low: 2, high: 1}}", "3:18", "low must be below high, but got low=2.0 and high=1.0"),
    "equal_ends": ("tune: {lr: {low: 1, high: 1}}", "3:18", "low must be below high"),
    "log_from_zero": ("tune: {warmup: {low: 0, high: 0.5, log: true}}", "3:22", "low must be > 0 where log is true"),
    "range_too_wide": ("tune: {warmup: {low: 0, high: 2}}", "3:31", "warmup must be a number >= 0 and <= 0.9"),
    "integer_range_of_fractions": ("tune: {width: {low: 1.5, high: 4}}", "3:21", "width must be an integer"),
    "range_of_names": ("tune: {optimizer: {low: 1, high: 2}}", "3:20", "optimizer is not a number: give choices"),
    "step_zero": ("tune: {width: {low: 2, high: 4, step: 0}}", "3:39", "step must be > 0, but got 0"),
    "step_of_fractions": ("tune: {width: {low: 2, high: 4, step: 0.5}}", "3:39", "step must be an integer for width"),
    "step_does_not_fit": ("tune: {width: {low: 2, high: 7, step: 3}}", "3:39", "step must divide high - low = 5"),
    "step_and_log": (
        "tune: {lr: {low: 1, high: 2, log: true, step: 0.5}}", "3:47", "step and log cannot be combined",
    ),
    "no_choices": ("tune: {lr: []}", "3:12", "lr has no choices"),
    "no_listed_choices": ("tune: {lr: {choices: []}}", "3:22", "lr has no choices"),
    "no_named_choices": ("tune: {lr: {choices: {}}}", "3:22", "lr has no choices"),
    "choice_twice": ("tune: {lr: [1, 1.0]}", "3:16", "lr has the choice 1 twice"),
    "named_choice_twice": ("tune: {lr: {choices: {a: 1, b: 1}}}", "3:32", "lr has the choice 1 twice"),
    "choice_name": ("tune: {lr: {choices: {'a b': 1}}}", "3:23", "the name of a choice must be letters"),
    # conditions
    "condition_on_unknown": (
        "tune: {lr: {low: 1, high: 2, when: {optimiser: sgd}}}", "3:37", r"unknown parameter 'optimiser'. Did you mean",
    ),
    "condition_value": ("tune: {lr: {low: 1, high: 2, when: {optimizer: adma}}}", "3:48", "unknown optimizer 'adma'"),
    "condition_without_values": (
        "tune: {lr: {low: 1, high: 2, when: {optimizer: []}}}", "3:48", "the condition on optimizer has no values",
    ),
    "condition_never_true": (
        "tune: {optimizer: [sgd, nesterov], lr: {low: 1, high: 2, when: {optimizer: [sgd, adam]}}}", "3:82",
        "optimizer is never adam here. It takes: sgd, nesterov",
    ),
    "condition_on_default": (
        "tune: {lr: {low: 1, high: 2, when: {optimizer: adam}}}", "3:48", "optimizer is never adam here. It takes: sgd",
    ),
    "condition_on_itself": ("tune: {lr: {low: 1, high: 2, when: {lr: 1}}}", "3:37", "lr cannot depend on itself"),
    "condition_on_range": (
        "tune: {lr: {low: 1, high: 2}, warmup: {low: 0, high: 0.1, when: {lr: 1}}}", "3:66",
        "warmup cannot depend on lr, which is searched over a range",
    ),
    "cycle": (
        "tune:\n"
        "  width: {choices: [4, 8], when: {epochs: 1}}\n"
        "  epochs: {choices: [1, 2], when: {width: 4}}", "4:28|5:29",
        "must not form a cycle, but got (width|epochs) → ",
    ),
    "cycle_through_row": (
        "tune:\n"
        "  momentum: {choices: [0.5, 0.9]}\n"
        "  optimizer: {choices: [sgd, adam], when: {momentum: 0.5}}", "5:37", "must not form a cycle",
    ),
    "overlap_without_conditions": (
        "tune:\n  lr:\n    - {low: 1, high: 2}\n    - {low: 3, high: 4}", "6:7",
        "two definitions of lr can hold together",
    ),
    "overlap": (
        "tune:\n  optimizer: [sgd, adam]\n  lr:\n"
        "    - {low: 1, high: 2, when: {optimizer: [sgd, adam]}}\n"
        "    - {low: 3, high: 4, when: {optimizer: adam}}", "7:7", "two definitions of lr can hold together",
    ),
    "overlap_on_other_parameters": (
        "tune:\n  lr:\n"
        "    - {low: 1, high: 2, when: {optimizer: sgd}}\n"
        "    - {low: 3, high: 4, when: {regularizer: none}}", "6:7", "two definitions of lr can hold together",
    ),
    # axes
    "empty_axis": ("axes: {depth: []}", "3:15", "the axis depth has no levels"),
    "no_arms": ("axes: {arm: {}}", "3:13", "the axis arm has no levels"),
    "level_twice": ("axes: {depth: [20, 32, 20]}", "3:24", "the axis depth has the level 20 twice"),
    "axis_name": ("axes: {'a b': {x: {width: 3}}}", "3:8", "an axis must be letters, digits"),
    "arm_name": ("axes: {arm: {a/b: {width: 3}}}", "3:14", "an arm's name must be letters, digits"),
    "too_many_cells": (
        f"axes: {{epochs: {list(range(1, 90))}, width: {list(range(1, 90))}}}", "3:1", "at most 5000 cells.* make 7921",
    ),
    # one place
    "fixed_and_tuned": ("fixed: {lr: 1}\ntune: {lr: [1, 2]}", "4:8", "lr is defined in fixed and in tune"),
    "axis_and_tuned": ("tune: {lr: [1, 2]}\naxes: {lr: [1, 2]}", "3:8", "lr is defined in axes.lr and in tune"),
    "axis_and_fixed": ("fixed: {depth: 20}\naxes: {depth: [20]}", "4:8", "depth is defined in fixed and in axes.depth"),
    "arm_and_tuned": ("axes: {arm: {a: {lr: 1}}}\ntune: {lr: [1, 2]}", "4:8", "lr is defined in axes.arm and in tune"),
    "two_axes": (
        "axes: {depth: [20], arm: {a: {depth: 20}}}", "3:31", "depth is defined in axes.depth and in axes.arm",
    ),
    # report
    "rows_are_no_axis": (
        "axes: {depth: [20]}\nreport: {rows: dpeth}", "4:16", r"rows must be an axis, but got 'dpeth'. Did",
    ),
    "columns_are_no_axis": (
        "report: {columns: arm}", "3:19", "columns must be an axis, but got 'arm'. Available: none",
    ),
    "rows_are_columns": (
        "axes: {depth: [20], width: [4]}\nreport: {rows: depth, columns: depth}", "4:32", "must be two axes",
    ),
    "baseline_is_no_level": (
        "axes: {arm: {plain: {width: 4}, wide: {width: 8}}}\nreport: {baseline: plian}", "4:20",
        r"baseline must be a level of the column axis arm, but got 'plian'. Did you mean 'plain'\? .*: plain, wide",
    ),
    "baseline_without_axes": (
        "report: {baseline: a}", "3:20", "baseline must be a level of the column axis, but there is none$",
    ),
    # cells
    "infeasible_level": ("axes: {depth: [20, 21]}", "3:20", "depth must be 6n.2 .* but got 21. Nearest: 20 and 26"),
    "infeasible_arm": ("axes: {arm: {a: {depth: 20}, b: {depth: 9}}}", "3:41", "depth must be 6n.2 .* but got 9"),
    "infeasible_fixed": ("fixed: {depth: 9}", "3:16", "depth must be 6n.2 .* but got 9"),
    "infeasible_choice": ("tune: {depth: [20, 21]}", "3:20", "depth must be 6n.2 .* but got 21"),
    "infeasible_listed_choice": ("tune: {depth: {choices: [20, 21]}}", "3:30", "depth must be 6n.2 .* but got 21"),
    "infeasible_named_choice": ("tune: {depth: {choices: {a: 20, b: 21}}}", "3:36", "depth must be 6n.2 .* but got 21"),
    "infeasible_range": ("tune: {depth: {low: 8, high: 14, step: 3}}", "3:15", "depth must be 6n.2 .* but got 11"),
    "infeasible_under_condition": (
        "tune:\n  optimizer: [sgd, adam]\n  depth:\n    - {choices: [8], when: {optimizer: sgd}}\n"
        "    - {choices: [9], when: {optimizer: adam}}", "7:18", "depth must be 6n.2 .* but got 9",
    ),
    "unused_tuned": ("tune: {ortho_weight: {low: 0.1, high: 1}}", "3:8", "ortho_weight is used by no cell"),
    "unused_fixed": ("fixed: {beta1: 0.5}", "3:9", "beta1 is used by no cell"),
    "unused_axis": ("axes: {beta1: [0.5, 0.9]}", "3:8", "beta1 is used by no cell"),
    "unused_in_arm": (
        "axes: {arm: {a: {regularizer: l2, ortho_weight: 1}, b: {regularizer: orthonormal}}}", "3:35",
        "ortho_weight is used by no cell",
    ),
    "unused_definition": (
        "tune:\n  optimizer: [sgd, adam]\n  momentum:\n    - {low: 0.1, high: 0.5, when: {optimizer: sgd}}\n"
        "    - {low: 0.1, high: 0.5, when: {optimizer: adam}}", "7:7", "momentum is used by no cell",
    ),
    # profiles that were not asked for
    "profiles_are_a_list": ("profiles: [a]", "3:11", r"profiles must be a mapping, but got \['a'\]"),
    "profile_is_null": ("profiles: {a: }", "3:12", "the profile 'a' must be a mapping, but got null"),
    "profile_name": ("profiles: {a@b: {}}", "3:12", "a profile's name must be letters"),
    "profile_in_profile": ("profiles: {a: {profiles: {}}}", "3:16", "a profile cannot hold profiles"),
    "name_in_profile": ("profiles: {a: {name: x}}", "3:16", "unknown key 'name'. Available: axes"),
    "unknown_key_in_profile": ("profiles: {a: {budget: {trails: 3}}}", "3:25", "unknown key 'trails'"),
    "wrong_type_in_profile": ("profiles: {a: {seed: x}}", "3:22", "seed must be a"),
    "section_in_profile": ("profiles: {a: {fixed: 3}}", "3:23", "fixed must be a mapping, but got 3"),
    "nothing_to_remove": (
        "profiles: {a: {fixed: {lr: }}}", "3:24", "null removes an entry, but there is no 'fixed.lr'",
    ),
    # methods and nets that do not go together
    "post_hoc_is_tuned_with_shortcuts": (
        "fixed: {shortcut: identity}\ntune: {modulation: [none, anchor], "
        "modulation_form: {choices: [auto, post_hoc], when: {modulation: anchor}}}", "4:70",
        "modulation_form 'post_hoc' holds in nets without shortcuts only",
    ),
    "imagenet_net_on_digits": (
        "fixed: {dataset: digits, model: imagenet, depth: 34}", "3:33",
        "the model 'imagenet' divides images by 32, so they must be at least 64×64, but those of digits are 8×8",
    ),
    "imagenet_net_on_reduced_images": (
        "fixed: {dataset: cifar10, image_size: 16, model: imagenet, depth: 34}", "3:39",
        "at least 64×64, but those of cifar10 are 16×16. Nets for small images: cifar, dirac",
    ),
    # imports
    "import_that_is_a_device": (
        "imports: [/dev/zero]", "3:11", "the import /dev/zero: an import must be a regular file, but this is a device",
    ),
    "missing_import": ("imports: [none.py]", "3:11", "cannot read the import .*none.py"),
}  # fmt: skip


def problems_of(tmp_path, text, profile=None, overrides=()):
    file = tmp_path / "s.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        load_spec(file, profile, overrides)
    for line in str(caught.value).split("\n"):
        assert line.startswith((str(file), "--set")), line
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_told_with_place_and_rule(tmp_path, case):
    text, place, message = MISTAKES[case]
    problems = problems_of(tmp_path, HEAD + text)
    assert len(problems) == 1, problems
    assert re.match(f"({place}): .*{message}", problems[0]), problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", r"1:1: a sweep file must be a mapping, but got an empty file"),
        (b"# only a comment\n", r"1:1: .* but got an empty file"),
        (b"- a\n", r"1:1: a sweep file must be a mapping, but got \['a'\]"),
        (b"a", r"1:1: a sweep file must be a mapping, but got 'a'"),
        (b"name: s\nquestion: \xff\n", r"2:11: a sweep file must be UTF-8 text, but got the byte 0xff"),
        (b"name: s\n", r"1:1: the key 'budget' is required"),
        (b"budget: {trials_per_cell: 1}\n", r"1:1: the key 'name' is required"),
        (b"name: s\nbudget: {}\n", r"2:1: the key 'trials' is required in budget: the tune"),
        (b"name: s\nbudget:\n", r"2:1: the key 'trials' is required in budget: the tune"),
        (b"name: s\nbudget: {trails_per_cell: 1}\n", r"2:10: unknown key 'trails_per_cell'. Did you mean 'trials_per_"),
        (b"nmae: s\nbudget: {trials_per_cell: 1}\n", r"1:1: unknown key 'nmae'. Did you mean 'name'\?"),
        (b"name: s\nbudget: {trials_per_cell: 0}\n", r"2:27: trials_per_cell must be greater than or equal to 1"),
        (b"name: s\nbudget: {trials_per_cell: .nan}\n", r"2:27: a number must be finite"),
        (b"name: s\nbudget: {trials_per_cell: 1, sampler: tep}\n", r"2:39: unknown sampler 'tep'. Did you mean 'tpe'"),
        (b"name: s\nbudget: {trials_per_cell: 1, pruner: [a]}\n", r"2:38: unknown pruner \['a'\]. Available: h"),
        (b"name: a/b\nbudget: {trials_per_cell: 1}\n", r"1:7: name must be letters, digits .*, but got 'a/b'"),
        (b"name: 3\nbudget: {trials_per_cell: 1}\n", r"1:7: name must be a string, but got 3"),
        (b"name: Ledger\nbudget: {trials_per_cell: 1}\n", r"1:7: name must not be one of ledger, "),
        (b"name: MLartifacts\nbudget: {trials_per_cell: 1}\n", r"1:7: name must not be one of ledger, .*mlartifacts"),
        (b"name: mlruns\nbudget: {trials_per_cell: 1}\n", r"1:7: name must not be one of ledger, "),
        (b"name: Default\nbudget: {trials_per_cell: 1}\n", r"1:7: name must not be one of ledger, .*default"),
        (
            b"name: mlflow.db\nbudget: {trials_per_cell: 1}\n",
            r"1:7: name must not begin with mlflow\., but got 'mlflow",
        ),
        (b"name: MLflow.db-journal\nbudget: {trials_per_cell: 1}\n", r"1:7: name must not begin with mlflow\."),
        (b'name: "a\\n"\nbudget: {trials_per_cell: 1}\n', r"1:7: name must be letters"),
    ],
)
def test_wrong_file_is_one_line(tmp_path, text, problem):
    problems = problems_of(tmp_path, text)
    assert len(problems) == 1, problems
    assert re.match(problem, problems[0]), problems


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "--set takes KEY=VALUE"),
        ("=3", "--set takes KEY=VALUE"),
        ("seed=", "a value is missing after 'seed='"),
        ("sed=3", r"unknown key 'sed'. Did you mean 'seed'\?"),
        ("profiles=3", "unknown key 'profiles'"),
        ("budgte.batch=3", r"unknown key 'budgte'. Did you mean 'budget'\?"),
        ("seed.x=3", "unknown key 'seed'. Available: axes, "),
        ("tune={}", "tune has entries: set one of them as tune.ENTRY=VALUE"),
        ("tune.=3", "--set reaches one level deep: set tune.ENTRY as a whole"),
        ("axes.arm.plain={}", "--set reaches one level deep: set axes.arm as a whole"),
        ("fixed.lr=[", "not YAML: "),
        ("fixed.lr=.nan", "a number must be finite"),
        ("fixed.lr={a: 1, a: 2}", "duplicate key 'a'$"),
        ("fixed.lr=fast", "lr must be a number > 0, but got 'fast'"),
        ("fixed.rl=1", "unknown parameter 'rl'"),
        ("fixed.lr=null", "null removes an entry, but there is no 'fixed.lr'"),
        ("budget.trails=3", "unknown key 'trails'. Did you mean 'trials'\\?"),
        (
            "budget.trials=3",
            "a budget has studies and trials, or trials_per_cell for a single study, but this has both. "
            "Set budget.trials_per_cell instead, or remove it with null",
        ),
        (
            "budget.studies=3",
            "a budget has studies and trials, or trials_per_cell for a single study, but this has both. "
            "To have studies, set budget.trials too, and remove budget.trials_per_cell with null",
        ),
        ("resources={cpus: 1, gpu: 1}", "unknown key 'gpu'. Did you mean 'gpus'\\?"),
        ("resources=1", "resources has entries: set one of them as resources.ENTRY=VALUE, or some as resources={ENTRY"),
        ("fixed.learning_rate=1", "unknown parameter 'learning_rate'. Did you mean 'lr'\\?"),
        ("budget.trials_per_cell=0", "trials_per_cell must be greater than or equal to 1"),
        ("seed=x", "seed must be a"),
        ("axes.depth=[20, 21]", "depth must be 6n"),
        ("tune.lr={low: 2, high: 1}", "low must be below high"),
        ("name=a b", "name must be letters"),
    ],
)
def test_mistake_in_override_names_the_override(tmp_path, override, problem):
    problems = problems_of(tmp_path, HEAD, overrides=[override])
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"--set {override}: ")
    assert re.search(problem, problems[0].removeprefix(f"--set {override}: ")), problems


def test_an_override_of_another_form_of_the_budget_is_told_the_right_one(tmp_path):
    file = "name: s\nbudget: {studies: 1, trials: 3}\n"
    (problem,) = problems_of(tmp_path, file, overrides=["budget.trials_per_cell=8"])
    assert problem == (
        "--set budget.trials_per_cell=8: a budget has studies and trials, or trials_per_cell for a single study, but "
        "this has both. Set budget.trials instead"
    )


def test_a_parameter_that_an_override_defines_again_is_told_at_the_override(tmp_path):
    text = HEAD + "tune: {lr: [1, 2]}\n"
    (problem,) = problems_of(tmp_path, text, overrides=["fixed.lr=0.1"])
    line = text.splitlines().index("tune: {lr: [1, 2]}") + 1
    message = "lr is defined in fixed and in tune: define it in one place"
    assert problem == f"--set fixed.lr=0.1: {message} (the other is in line {line})"


@pytest.mark.parametrize("override", ["report.rows=depth", "report.columns=width"])
def test_two_axes_that_an_override_makes_one_are_told_at_the_override(tmp_path, override):
    text = HEAD + "axes: {depth: [20], width: [4]}\nreport: {rows: width, columns: depth}\n"
    (problem,) = problems_of(tmp_path, text, overrides=[override])
    axis = override.partition("=")[2]
    assert problem == f"--set {override}: rows and columns must be two axes, but got '{axis}' for both"


def test_independent_mistakes_are_all_told_by_line(tmp_path):
    text = (
        "name: a b\nbudget: {trials_per_cell: 0}\nfixed: {widht: 3, warmup: 5}\n"
        "axes: {depth: []}\ntune:\n  lr: {low: 2, high: 1, when: {optimiser: sgd}}\nsedd: 3\nreport: {rows: depht}\n"
    )
    places = [problem.split(" ")[0] for problem in problems_of(tmp_path, text)]
    assert places == ["1:7:", "2:27:", "3:9:", "3:27:", "4:15:", "6:13:", "6:32:", "7:1:", "8:16:"]


def test_unknown_profile_lists_the_profiles(tmp_path):
    problems = problems_of(tmp_path, HEAD + "profiles: {smoke: {}, deep: {}}", "smoek")
    assert re.search(r"unknown profile 'smoek'. Did you mean 'smoke'\? Available: deep, smoke", problems[0])
    assert problems_of(tmp_path, HEAD, "smoke")[0].endswith("unknown profile 'smoke'. Available: none")


def test_mistake_in_chosen_profile_points_into_the_profile(tmp_path):
    text = HEAD + "axes: {depth: [20]}\nprofiles:\n  a:\n    axes: {depth: [20, 21]}\n"
    assert problems_of(tmp_path, text, "a")[0].startswith("6:24: depth must be 6n+2")


def test_missing_file_and_directory_are_told(tmp_path):
    with pytest.raises(SpecError, match=r"none.yaml: cannot read the sweep file: No such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="but this is a directory"):
        load_spec(tmp_path)


def test_long_file_and_long_names_are_told_in_short(tmp_path):
    assert problems_of(tmp_path, HEAD + "#" * 1_000_000)[0].endswith("a sweep file has at most 1000000 bytes")
    lines = problems_of(tmp_path, HEAD, overrides=[f"fixed.lr='{'x' * 50_000}'", f"{'y' * 50_000}=1"])
    assert [len(line) < 2000 and line.startswith("--set ") for line in lines] == [True, True]


def test_a_grid_of_a_long_range_is_counted_no_further_than_needed(tmp_path):
    text = "tune: {lr: {low: 1, high: 1000000000000, step: 0.5}}\nbudget: {sampler: grid, pruner: none, "
    problems = problems_of(tmp_path, "name: s\n" + text + "trials_per_cell: 4}\n")
    assert re.search("4 and points the only cell: more than 10000", problems[0])


def test_many_aliases_end_in_an_error(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 20000 entries" in problems_of(tmp_path, "\n".join(lines))[0]


MERGES = {
    "nested": ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]" for i in range(1, 30)],
    "of_merged_lists": ["a0: &a0 [{x: 1}, {y: 1}]"]
    + [f"a{i}: &a{i} [{{<<: *a{i - 1}}}, {{<<: *a{i - 1}}}]" for i in range(1, 30)],
    "of_aliases": ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{i}: &a{i} {{<<: *a{i - 1}, x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 30)],
    "of_one_long_list": [f"a0: &a0 [{'{},' * 5000}]", "a1:", *["- <<: *a0"] * 5000],
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", MERGES)
def test_merges_of_merges_end_in_an_error(tmp_path, case):
    assert "more than 20000 entries, aliases and merges counted" in problems_of(tmp_path, "\n".join(MERGES[case]))[0]


def test_a_long_chain_of_merges_ends_in_errors(tmp_path):
    chain = [f"a{i}: &a{i} {{<<: *a{i - 1}}}" for i in range(1, 400)]
    problems = problems_of(tmp_path, "\n".join([HEAD + "a0: &a0 {x: 1}", *chain]))
    assert any("nested deeper than 20 levels" in problem for problem in problems)


@pytest.mark.timeout(120)
def test_a_file_with_too_many_entries_is_read_no_further(tmp_path):
    problems = problems_of(tmp_path, f"{HEAD}tune: {{lr: [{'1,' * 400_000}]}}")
    assert re.match("3:.*: the file has more than 20000 entries", problems[0])


def test_of_very_many_mistakes_the_first_hundred_are_told(tmp_path):
    fixed = "".join(f"  k{i}: 1\n" for i in range(1000))
    problems = problems_of(tmp_path, f"{HEAD}profiles: {{a: {{axes: null}}}}\nfixed:\n{fixed}")
    assert len(problems) == 100
    assert problems[1].startswith("6:3: unknown parameter 'k1'")


@pytest.mark.parametrize(("text", "line"), [("%YAML 1.1", 1), ("# Of old\n\n%YAML  1.1", 3), ("\ufeff%YAML 1.1", 1)])
def test_another_version_of_yaml_is_refused(tmp_path, text, line):
    rule = "'%YAML 1.1' is refused: a sweep file is YAML 1.2; leave this line out"
    assert problems_of(tmp_path, f"{text}\n---\n{HEAD}seed: 010\n") == [f"{line}:1: {rule}"]


def test_a_directive_brings_no_other_yaml(tmp_path):
    text = f"%YAML 1.2\n---\n{HEAD}seed: 010\nfixed: {{epochs: 1:30}}\ntune: {{lr: {{low: 1, high: 2, log: yes}}}}"
    problems = problems_of(tmp_path, text)
    assert [problem.partition(": ")[0] for problem in problems[:3]] == ["5:7", "6:17", "7:35"]
    assert "log must be a boolean, but got 'yes'" in problems[2]


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("make", "kind"), [(_fifo, "a pipe"), (_socket, "a socket"), (Path.mkdir, "a directory")])
def test_only_regular_files_are_read(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    make(Path("odd.yaml"))
    (tmp_path / "link.yaml").symlink_to("odd.yaml")
    for name in ("odd.yaml", "link.yaml"):
        with pytest.raises(SpecError, match=f"^{name}: cannot read .* must be a regular file, but this is {kind}$"):
            load_spec(Path(name))
    problems = problems_of(tmp_path, HEAD + "imports: [odd.yaml]")
    assert re.match(f"3:11: cannot read the import .*must be a regular file, but this is {kind}$", problems[0])


def test_failing_import_is_told_at_its_line(tmp_path):
    (tmp_path / "failing.py").write_text("1 / 0")
    problems = problems_of(tmp_path, HEAD + "imports:\n  - failing.py\n")
    assert re.match("4:5: the import .* failed: ZeroDivisionError", problems[0])


@pytest.mark.parametrize(
    "raised", ["KeyboardInterrupt", "SystemExit(0)", "GeneratorExit", "type('Own', (BaseException,), {})"]
)
def test_whatever_an_import_raises_is_an_error_of_the_import(tmp_path, raised):
    (tmp_path / "ending.py").write_text(f"raise {raised}")
    problems = problems_of(tmp_path, HEAD + "imports: [ending.py]")
    name = re.search(r"\w+", raised.replace("type('", ""))[0]
    assert re.match(f"3:11: the import .*ending.py failed: {name}", problems[0])


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit"])
def test_whatever_the_check_of_a_row_raises_is_an_error_of_the_row(tmp_path, monkeypatch, raised):
    monkeypatch.setattr(registry, "_rows", {kind: dict(rows) for kind, rows in registry._rows.items()})
    code = "from ablate.registry import Row, register\ndef check(config):\n    raise {0}\n"
    code += "register(Row(kind='init', name='ends_{0}', target='math:exp', summary='-', check=check))"
    (tmp_path / f"{raised}.py").write_text(code.format(raised))
    problems = problems_of(tmp_path, f"{HEAD}imports: [{raised}.py]\nfixed: {{init: ends_{raised}}}")
    assert re.match(f"4:15: the check of init 'ends_{raised}' .*failed: {raised}", problems[0])


def test_error_survives_pickling(tmp_path):
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "none.yaml")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_recursion_limit_is_left_alone(tmp_path):
    before = sys.getrecursionlimit()
    problems_of(tmp_path, "[" * 1500)
    assert sys.getrecursionlimit() == before
