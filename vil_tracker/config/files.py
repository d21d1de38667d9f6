"""Configurations from and to YAML, and the ``section.key=value`` of the command line.

Unknown or mistyped keys are errors that name the nearest key; values are checked against the types of the dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import yaml

from vil_tracker.config.sections import MODEL_SIZES, Config, ModelConfig
from vil_tracker.errors import UserError, read_text

Dataclass = TypeVar("Dataclass")

log = logging.getLogger(__name__)

#: Former keys, read for one more version.
RENAMED = {
    "train.loss_inside": "loss_foreground",
    "track.look_score": "sure_above",
    "track.look_interval": "compare_interval",
    "track.doubt_below": "redetect_below",
    "track.doubt_after": "redetect_after",
}


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a YAML file; UserError where it cannot be read, for an unknown key (it names the nearest), a wrong type or a
    value out of range.
    """
    text = read_text(path, "config")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(
            f"config {os.fspath(path)}{where} is not valid YAML ({first}): check the brackets and indents there"
        ) from error
    try:
        return config_from_dict(content if content is not None else {})
    except UserError as error:
        raise UserError(f"config {os.fspath(path)}: {error}") from error


def config_from_dict(content: object) -> Config:
    """Build a :class:`Config` from nested mappings, as :func:`config_to_dict` makes; raises as :func:`load_config`."""
    if not isinstance(content, dict):
        raise UserError(f"expected sections model, data, train, track, found {_kind(content)}")
    _check_keys(content, Config, "")
    sections = {
        f.name: _build(typing.get_type_hints(Config)[f.name], content.get(f.name) or {}, f.name)
        for f in dataclasses.fields(Config)
    }
    return Config(**sections)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Nested plain mappings, lists and numbers, ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def override(config: Config, assignments: Sequence[str]) -> Config:
    """A configuration with some values replaced by ``section.key=value`` each, the value as in YAML; UserError where it
    is not of that form, or as :func:`load_config`.
    """
    content = config_to_dict(config)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot):
            raise UserError(f"{assignment!r} is not of the form section.key=value, such as train.steps=1000")
        if section not in content:
            _check_keys({section: None}, Config, "")
        try:
            content[section][key] = yaml.safe_load(text) if text else ""  # YAML reads nothing as null
        except yaml.YAMLError as error:
            raise UserError(
                f"the value of {assignment!r} is not valid YAML: write KEY=VALUE, such as train.steps=2000"
            ) from error
    return config_from_dict(content)


def dump_config(config: Any) -> str:
    """The configuration as YAML text."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def model_config_from_dict(content: dict[str, Any]) -> ModelConfig:
    """Build a :class:`ModelConfig` as it is stored beside weights; raises as :func:`load_config`."""
    return _build(ModelConfig, content, "model")


def _kind(value: object) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), repr(value))


def _check_keys(content: dict[Any, Any], cls: Any, where: str) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise UserError(f"unknown key {where}{key}: did you mean {where}{near[0]}?")


def _build(cls: type[Dataclass], content: object, where: str) -> Dataclass:
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of keys to values, found {_kind(content)}")
    content = _with_present_names(content, where)
    _check_keys(content, cls, f"{where}.")
    hints = typing.get_type_hints(cls)
    values = {key: _coerce(value, hints[key], f"{where}.{key}") for key, value in content.items()}
    preset = MODEL_SIZES.get(values.get("name", "")) if cls is ModelConfig else None
    if preset is not None:
        return dataclasses.replace(typing.cast(Any, preset), **values)
    return cls(**values)


def _with_present_names(content: dict[Any, Any], where: str) -> dict[Any, Any]:
    """The same with former keys under their present names; a warning names each."""
    former = {key: RENAMED[f"{where}.{key}"] for key in content if f"{where}.{key}" in RENAMED}
    for key, name in former.items():
        log.warning("%s.%s is now called %s.%s; the former name is read for one more version", where, key, where, name)
    kept = {key: value for key, value in content.items() if key not in former}
    return kept | {name: content[key] for key, name in former.items()}


def _coerce(value: Any, hint: Any, key: str) -> Any:
    """Check one YAML value against a field's type; whole numbers pass as floats, nothing else is converted."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise UserError(f"{key} is {value!r}, expected one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{key} must be a list, found {_kind(value)}")
        item = typing.get_args(hint)[0]
        return tuple(_coerce(entry, item, f"{key}[{index}]") for index, entry in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            pass
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{key} is {value!r}, expected {hint.__name__}")
    if hint is float and not (abs(value) < float("inf")):
        raise UserError(f"{key} is {value!r}, expected a finite number")
    return value
