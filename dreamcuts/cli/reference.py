"""The reference of all commands, from their own help: `python -m dreamcuts.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from dreamcuts.cli import cli


def reference() -> str:
    """docs/cli.md as it should be."""
    head = "# Command line\n\nMade from the commands' own help by `bin/docs`.\n"
    return head + "".join(_sections(cli, "dreamcuts", None))


def _sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=100, help_option_names=["-h", "--help"]
    )
    yield f"\n## {context.command_path}\n\n```\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _sections(found, child, context)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
