"""docs/command_line.md says what the commands take: every option is documented, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foveate.cli.adapter import Command, Option, Renamed, options_of
from foveate.cli.app import COMMANDS, DEMO_COMMANDS, EXPORT_COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
GROUPS = {"demo": DEMO_COMMANDS, "export": EXPORT_COMMANDS}
KINDS = {**COMMANDS, **{f"{group} {name}": kind for group, kinds in GROUPS.items() for name, kind in kinds.items()}}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FOREIGN = {"--num_processes", "--num-processes", "--cpu", "--help", "--num", "--trust-request-mm-kwargs"}
"""Of accelerate and vLLM, and what typer adds to every command."""
OLD = "Old spellings"


def sections() -> dict[str, str]:
    """The page's text by heading."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def heading(command: str) -> str:
    found = [title for title in sections() if f"`foveate {command}`" in title]
    assert len(found) == 1, f"{command}: {found}"
    return found[0]


def spellings(option: Option) -> set[str]:
    """Every name that typer gives an option; an option that is on by default is documented by what turns it off."""
    return {name for declaration in option.declarations for name in declaration.split("/")}


def shown(kind: type[Command]) -> list[Option]:
    return [option for option in options_of(kind) if not option.positional and not option.info.hidden]


def table(text: str) -> str:
    """The first cells of a section's table of options."""
    return "\n".join(line.split("|")[1].replace("\\", "") for line in text.replace("\\|", "/").splitlines() if line.startswith("|"))


@pytest.mark.parametrize("command", KINDS)
def test_every_option_of_a_command_is_in_the_table_of_its_section(command: str) -> None:
    documented = set(OPTION.findall(table(sections()[heading(command)])))
    missing = [option.name for option in shown(KINDS[command]) if not spellings(option) & documented]
    assert not missing


@pytest.mark.parametrize("title", sorted({heading(command) for command in KINDS}))
def test_no_table_names_an_option_that_its_commands_do_not_have(title: str) -> None:
    commands = [command for command in KINDS if f"`foveate {command}`" in title]
    known = {name for command in commands for option in shown(KINDS[command]) for name in spellings(option)}
    assert set(OPTION.findall(table(sections()[title]))) <= known


def test_the_page_names_only_options_that_exist() -> None:
    known = {name for kind in KINDS.values() for option in shown(kind) for name in spellings(option)} | FOREIGN
    for title, text in sections().items():
        if title != OLD:
            assert set(OPTION.findall(text)) <= known, title


def test_old_spellings_are_listed_beside_the_new_ones() -> None:
    text = sections()[OLD]
    for kind in KINDS.values():
        for option in options_of(kind):
            old = [mark.old for mark in option.marks if isinstance(mark, Renamed)]
            assert all(name in text for name in old)
            assert not option.positional or not old
            assert not old or option.name in text
            assert not getattr(option.info, "hidden", False) or option.name in text


def test_every_example_is_a_command_that_exists() -> None:
    examples = re.findall(r"^foveate ((?:demo|export) \w+|\w+)", PAGE, flags=re.MULTILINE)
    assert len(examples) > 20
    assert set(examples) - {"COMMAND"} <= set(KINDS)
