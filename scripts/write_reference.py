"""Write the parts of the documents that say what the code says: the settings table and the command reference.

``make docs`` runs it; a test runs it with ``--check``.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from corral.interfaces.cli.app import app
from corral.settings import Settings

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- written by `make docs` -->", "<!-- end of what `make docs` writes -->"


def main() -> int:
    """Write, or with ``--check`` tell what is not as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, text in (("docs/settings.md", settings_table()), ("docs/cli.md", command_reference())):
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        before, _, rest = old.partition(BEGIN)
        _, _, after = rest.partition(END)
        new = f"{before}{BEGIN}\n\n{text}\n{END}{after}"
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: not as the code says. Mend: make docs", file=sys.stderr)
        return 1
    return 0


def settings_table() -> str:
    """Every setting: its variables, default, and what it is."""
    rows = ["| Variable | Default | What it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variables = " or ".join(f"`{variable}`" for variable in variables_of(name, field))
        meaning = " ".join((field.description or "").split())
        rows.append(f"| {variables} | {default_of(field)} | {meaning} |".replace("``", "`"))
    return "\n".join(rows) + "\n"


def variables_of(name: str, field: FieldInfo) -> list[str]:
    """The environment variables that set a field, the customary one first."""
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices if str(choice).isupper()]
    return [f"CORRAL_{name.upper()}"]


def default_of(field: FieldInfo) -> str:
    """A field's default as one would write it into the environment."""
    if field.default_factory is not None or field.default is PydanticUndefined:
        return "see right"
    value: Any = field.default
    if value is None or (isinstance(value, SecretStr) and not value.get_secret_value()):
        return "none"
    if isinstance(value, timedelta):
        return f"`{value.total_seconds():g}` s"
    return f"`{value}`"


def command_reference() -> str:
    """Every command with its help, arguments and options."""
    parts: list[str] = []
    _describe(get_command(app), ["corral"], parts)
    return "\n".join(parts)


def _describe(command: Any, path: list[str], parts: list[str]) -> None:
    # Typer carries click's classes under a private name; what is asked of them here is click's public interface.
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            _describe(inner, [*path, name], parts)
        return
    arguments = [one.metavar or str(one.name).upper() for one in command.params if isinstance(one, TyperArgument)]
    options = [one for one in command.params if isinstance(one, TyperOption) and one.name != "help"]
    parts.append(f"### `{' '.join([*path, *arguments])}`\n")
    parts.append(inspect.cleandoc(command.help or "") + "\n")
    for option in options:
        names = ", ".join([*option.opts, *option.secondary_opts])
        parts.append(f"- `{names}`: {option.help or ''}")
    parts.append("")


if __name__ == "__main__":
    sys.exit(main())
