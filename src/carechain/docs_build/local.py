"""Pages about one node: limits, settings and commands."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any

from carechain.core import limits as bounds
from carechain.docs_build.markdown import code, heading, page, summary, table, tidy

_GROUP = re.compile(r"^# --- (?P<title>.+?) -+$")


def limits() -> str:
    """Every bound, in the groups and paragraphs of its source file."""
    source = inspect.getsource(bounds)
    assigned = {
        node.lineno: node.target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    sections: list[str] = []
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(source.splitlines(), start=1):
        group = _GROUP.match(line)
        if group:
            sections += _limit_table(rows)
            rows = []
            sections.append(heading(2, group["title"][0].upper() + group["title"][1:]))
        elif number in assigned:
            rows.append((code(assigned[number]), _amount(getattr(bounds, assigned[number]))))
    sections += _limit_table(rows)
    return page(
        "Limits",
        """Every bound of the system. A name ends in its unit. Limits of the first group are part of the protocol: all
nodes must agree on them.""",
        sections,
    )


def settings() -> str:
    """Every setting of a node with its type, default and environment variable."""
    kind = importlib.import_module("carechain.node.settings").Settings
    prefix = kind.model_config.get("env_prefix", "")
    delimiter = kind.model_config.get("env_nested_delimiter") or "__"
    return page(
        "Settings",
        f"""{summary(kind)}

A flag stands before an environment variable, a variable before the configuration file, the file before the default.
Secrets are given as paths of files.""",
        [
            table(
                ("setting", "type", "default", "environment", "meaning"),
                _setting_rows(kind, name="", variable=prefix, delimiter=delimiter),
            )
        ],
    )


def commands() -> str:
    """Every command of the program with its arguments and options."""
    app = importlib.import_module("carechain.cli.main").app
    root = importlib.import_module("typer.main").get_command(app)
    return page(
        "Commands",
        f"""{root.help or ""}

Every command writes progress to stderr. With `--json` it writes exactly one object to stdout. Exit status: 0 done,
1 refused (the rejection code is printed), 2 usage, 3 environment (disk, network, another process).""",
        _commands(root, "carechain"),
    )


def _limit_table(rows: list[tuple[str, str]]) -> list[str]:
    return [table(("limit", "value"), rows)] if rows else []


def _amount(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _setting_rows(
    kind: type[Any], *, name: str, variable: str, delimiter: str
) -> Iterator[tuple[str, str, str, str, str]]:
    for field, info in kind.model_fields.items():
        inner = info.annotation
        path, env = f"{name}{field}", f"{variable}{field}".upper()
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from _setting_rows(inner, name=f"{path}.", variable=f"{env}{delimiter}", delimiter=delimiter)
        else:
            default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True))
            yield code(path), code(_type_name(inner)), default, code(env), info.description or ""


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", str(annotation).replace("typing.", ""))


def _default(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = value.as_posix()
    if value is None or value == "":
        return "none"
    return code(json.dumps(value, ensure_ascii=False, default=str))


def _commands(command: Any, path: str) -> Iterator[str]:
    # Typer brings its own copy of click, so parameters are told apart by what they carry, not by class.
    children = getattr(command, "commands", {})
    if children:
        for name in sorted(children):
            if not children[name].hidden:
                yield from _commands(children[name], f"{path} {name}")
        return
    positional = [one for one in command.params if not _is_option(one)]
    usage = " ".join((path, *(_positional(one) for one in positional)))
    yield heading(2, code(usage))
    yield tidy(inspect.cleandoc(command.help or ""))
    rows = [_parameter_row(one) for one in command.params if not getattr(one, "hidden", False)]
    if rows:
        yield table(("parameter", "default", "meaning"), rows)


def _is_option(parameter: Any) -> bool:
    return any(one.startswith("-") for one in parameter.opts)


def _positional(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).upper()
    many = "..." if parameter.nargs == -1 else ""
    return f"{name}{many}" if parameter.required else f"[{name}]{many}"


def _parameter_row(parameter: Any) -> tuple[str, str, str]:
    names = [*parameter.opts, *parameter.secondary_opts] if _is_option(parameter) else [_positional(parameter)]
    given = parameter.envvar or ()
    named = [given] if isinstance(given, str) else given
    variable = f" (environment: {', '.join(map(code, named))})" if named else ""
    flag = getattr(parameter, "is_flag", False)
    if parameter.required:
        default = "required"
    else:
        default = "off" if flag and not parameter.default else _default(parameter.default)
    return ", ".join(code(one) for one in names), default, f"{parameter.help or ''}{variable}"
