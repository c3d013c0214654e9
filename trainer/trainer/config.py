"""Settings of a run: one pydantic model, fed from YAML files, the environment and flags.

Precedence: flags, then PSUEDOPTIMAL_* variables, then --config files (the last wins), then defaults. A key
or a variable nobody knows is an error that names the nearest known one. Nothing here knows what one means.
"""

from __future__ import annotations

import argparse
import difflib
import os
import types
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from trainer.unique_keys import UniqueKeys

# In a wheel the configs lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent
CONFIGS = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE)
ENV_PREFIX = "PSUEDOPTIMAL_"
# No setting of a run: where tests and benchmarks find their data sets.
OTHER_VARIABLES = frozenset({"PSUEDOPTIMAL_DATA"})


class ConfigError(ValueError):
    """A setting is unknown, out of bounds or contradicts another. The message says which, and the way out."""


def service_url(url: str) -> str:
    """Return the address of a service as it is given. Raises ConfigError if it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{url!r} is not the URL of a service; use e.g. http://127.0.0.1:8001")
    return url


ServiceUrl = Annotated[str, AfterValidator(service_url)]


class Section(BaseModel):
    """The base of every settings model: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Section)


def resolve(
    model: type[C], files: Sequence[Path], flags: Mapping[str, Any], over: Mapping[str, Any] = {}, *,
    variables: Collection[str] | None = None,
) -> C:  # fmt: skip
    """Merge the layers and validate the result.

    files      YAML files, later ones win
    flags      what the command line gave, nested as the model is
    over       a layer between the files and the environment, e.g. what --debug shrinks
    variables  the settings that PSUEDOPTIMAL_* variables may give; None is all of them
    raises     ConfigError with one line per fault
    """
    merged: dict[str, Any] = {}
    for file in files:
        layer = load_yaml(file)
        _check_keys(model, layer, str(file))
        merged = _merge(merged, layer)
    told = {n: value for n, value in environment(model).items() if variables is None or n in variables}
    merged = _merge(_merge(_merge(merged, over), told), flags)
    return validated(model, merged)


def validated(model: type[C], settings: Mapping[str, Any]) -> C:
    """Return the model with these settings. Raises ConfigError with one line per fault."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_fault(model, item) for item in error.errors())) from error


def load_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML file into a nested dict; dashes in keys become underscores.

    file    a path, or the bare name of a file in the configs folder
    raises  ConfigError if it is not there, not YAML or not a mapping
    """
    found = next((f for f in (file, CONFIGS / file, CONFIGS / f"{file}.yaml") if f.is_file()), None)
    if found is None:
        known = ", ".join(sorted(f.name for f in CONFIGS.glob("*.yaml"))) or "none"
        raise ConfigError(f"--config {file}: no such file; give a path or one of: {known}")
    try:
        text = found.read_text(encoding="utf-8")
        data = yaml.load(text, UniqueKeys)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{found}: not YAML: {error}") from error
    if not text.strip():
        raise ConfigError(f"{found}: is empty; settings are `key: value` lines")
    if not isinstance(data, dict | None):  # None: nothing but comments
        raise ConfigError(f"{found}: expected `key: value` lines, found a {type(data).__name__}")
    return {str(key).replace("-", "_"): value for key, value in (data or {}).items()}


def dump_yaml(config: Section) -> str:
    """Return the config as YAML that `--config` reads back to an equal config."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def environment(model: type[Section]) -> dict[str, Any]:
    """Return the settings that PSUEDOPTIMAL_<FIELD> variables give; those of another channel are left alone.

    raises  ConfigError for a variable with this prefix that is no setting of any channel
    """
    fields = {ENV_PREFIX + name.upper(): name for name in model.model_fields}
    given = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    unknown = [name for name in given if name not in fields and name not in OTHER_VARIABLES]
    if unknown:
        settings = (name for channel in _channels().values() for name in channel.model_fields)
        known = [*fields, *(ENV_PREFIX + name.upper() for name in settings)]
        _refuse_variables([name for name in unknown if name not in known], known)
    return {
        fields[name]: _from_text(model.model_fields[fields[name]], os.environ[name], name)
        for name in given
        if name in fields
    }


def _channels() -> dict[str, type[Section]]:
    """Return the settings of every channel by its name, as `train` has it."""
    modules = {name: import_module(f"{__package__}.config_{name}") for name in ("text", "program", "latent")}
    return {name: getattr(module, f"{name.capitalize()}Config") for name, module in modules.items()}


def _refuse_variables(unknown: Sequence[str], known: Sequence[str]) -> None:
    lines = []
    for name in unknown:
        settings = [each.removeprefix(ENV_PREFIX) for each in known]
        near = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), settings, n=1, cutoff=0.6)
        way_out = f"did you mean {ENV_PREFIX}{near[0]}?" if near else "unset it"
        lines.append(f"{name}={os.environ[name][:100]!r}: no such setting; {way_out}")
    if lines:
        raise ConfigError("\n".join(lines))


# --- flags -------------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, model: type[Section]) -> None:
    """Add one flag per field, in both spellings: --student-model and --student_model.

    Fields of a nested model become --lora-r; one that may be absent also gets --no-lora. The help groups them
    by the class that declares them.
    """
    for owner in reversed(model.__mro__):
        own = getattr(owner, "__annotations__", {})
        fields = {name: field for name, field in model.model_fields.items() if name in own}
        if fields:
            group = parser.add_argument_group((owner.__doc__ or owner.__name__).splitlines()[0].rstrip("."))
            for name, field in fields.items():
                _add_field(group, name, name, field)


def _add_field(group: argparse._ArgumentGroup, dest: str, name: str, field: FieldInfo) -> None:
    spellings = list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))
    nested = _nested(field)
    help_text = (field.description or "").replace("%", "%%")
    if nested is not None:
        for inner, inner_field in nested.model_fields.items():
            _add_field(group, f"{dest}.{inner}", f"{name}_{inner}", inner_field)
        if _optional(field):
            group.add_argument(f"--no-{name.replace('_', '-')}", dest=dest, action="store_const", const=None,
                               default=argparse.SUPPRESS, help=f"without: {help_text}")  # fmt: skip
        return
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = "" if default is None else f" [{_plain(default)}]"
    if bool in _members(field):
        group.add_argument(*spellings, dest=dest, action=argparse.BooleanOptionalAction,
                           default=argparse.SUPPRESS, help=help_text + shown)  # fmt: skip
        return
    many = list in {get_origin(member) for member in _members(field)}
    group.add_argument(*spellings, dest=dest, default=argparse.SUPPRESS, nargs="+" if many else None,
                       metavar=_metavar(field), help=help_text + shown)  # fmt: skip


def given_flags(model: type[Section], namespace: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line gave, as a nested dict; fields not given are absent.

    raises  ConfigError if a section is switched off and one of its settings given
    """
    given, flags = dict[str, Any](), vars(namespace)
    for dest, value in flags.items():
        path = dest.split(".")
        field = model.model_fields.get(path[0])
        if field is None:
            continue
        if len(path) > 1 and path[0] in flags:
            raise ConfigError(f"--no-{path[0]} and --{'-'.join(path)} exclude one another; give one of them")
        target = given
        for key in path[:-1]:
            nested = _nested(field)
            assert nested is not None
            field = nested.model_fields[path[-1]]
            target = target.setdefault(key, {})
        if isinstance(value, list):
            value = [part for item in value for part in item.split(",") if part]
            value = [] if value in (["none"], ["null"]) else value
        flag = "--" + dest.replace(".", "-").replace("_", "-")
        target[path[-1]] = _from_text(field, value, flag) if isinstance(value, str) else value
    return given


# --- the model's own shape ---------------------------------------------------------------------------


def _members(field: FieldInfo) -> tuple[Any, ...]:
    """Return the members of a field's union type, or the type itself."""
    union = get_origin(field.annotation) in (Union, types.UnionType)
    return get_args(field.annotation) if union else (field.annotation,)


def _optional(field: FieldInfo) -> bool:
    return type(None) in _members(field)


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    models = [m for m in _members(field) if isinstance(m, type) and issubclass(m, BaseModel)]
    return models[0] if models else None


def _metavar(field: FieldInfo) -> str:
    for member in _members(field):
        if get_origin(member) is Literal:
            return "{" + ",".join(str(choice) for choice in get_args(member)) + "}"
        if get_origin(member) is Annotated:
            member = get_args(member)[0]
        if isinstance(member, type) and member in (int, float, str, Path):
            return {int: "N", float: "X", str: "TEXT", Path: "PATH"}[member]
    return "VALUE"


def _plain(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _from_text(field: FieldInfo, text: str, where: str) -> Any:
    """Read the text of `where`, a flag or variable; `none` stands for null where the field may be null."""
    if _optional(field) and text.lower() in ("none", "null", ""):
        return None
    if _nested(field) is not None or dict in {get_origin(member) or member for member in _members(field)}:
        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            said = getattr(error, "problem", None) or error
            raise ConfigError(f"{where}={text!r}: not YAML ({said}); write e.g. '{{key: value}}'") from error
    if list in {get_origin(member) for member in _members(field)}:
        return [part for part in text.split(",") if part]
    return text


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` on top, nested mappings merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _check_keys(model: type[BaseModel], layer: Mapping[str, Any], where: str) -> None:
    for key, value in layer.items():
        field = model.model_fields.get(key)
        if field is None:
            raise ConfigError(f"{where}: {key}: no such setting{_suggest(key, model)}")
        nested = _nested(field)
        if nested is not None and isinstance(value, Mapping):
            _check_keys(nested, value, f"{where}: {key}")


def _suggest(key: str, model: type[BaseModel]) -> str:
    channels = _channels()
    own = next((f"train {name}" for name, channel in channels.items() if channel is model), "")
    having = [f"`train {name}`" for name, channel in channels.items() if key in channel.model_fields]
    if own and having and key not in model.model_fields:
        return f"; it is one of {' and '.join(having)}, not of `{own}`"
    near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.6)
    known = f"`psuedoptimal {own} --help` lists them all" if own else f"take {', '.join(model.model_fields)}"
    return f"; did you mean {near[0]}?" if near else f"; {known}"


def _fault(model: type[Section], item: Any) -> str:
    """Return one validation error as a line: the setting, what is wrong, the value."""
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{path}: no such setting{_suggest(str(item['loc'][-1]), model)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "string_pattern_mismatch" and path in model.model_fields:
        message = f"it does not fit: {model.model_fields[path].description}"
    return message if not path else f"{path}={item['input']!r}: {message[:1].lower() + message[1:]}"
