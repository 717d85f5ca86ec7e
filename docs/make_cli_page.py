"""Write docs/cli.md from the commands' own help; a test holds that the page is current.

Run: python docs/make_cli_page.py
"""

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# Command line

Made from the commands' own help by `python docs/make_cli_page.py`.
"""


def help_of(*command: str) -> str:
    """Return the plain help of a command."""
    environment = {**os.environ, "TYPER_USE_RICH": "0", "COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    code = "from deepfits.cli import app; app(prog_name='deepfits')"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands() -> list[tuple[str, ...]]:
    """Return every command, groups before their members."""
    from typer.main import get_command

    from deepfits.cli import app

    found: list[tuple[str, ...]] = []

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            found.append((*path, name))
            walk(child, (*path, name))

    walk(get_command(app), ())
    return found


def page() -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION, f"```text\n{help_of()}\n```\n"]
    for command in commands():
        parts.append(f"## deepfits {' '.join(command)}\n\n```text\n{help_of(*command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
