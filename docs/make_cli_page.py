"""Write docs/reference/cli.md from the commands' own help; a test holds that the page is current.

Run: python docs/make_cli_page.py
"""

from io import StringIO
from pathlib import Path

from rich.console import Console

from deepfits.cli import make_app, words_of
from deepfits.stages import MODULES

PAGE = Path(__file__).parent / "reference" / "cli.md"
INTRODUCTION = """# Command line

Made from the commands' own help by `python docs/make_cli_page.py`.
"""


APP = make_app(MODULES)


def help_of(*command: str) -> str:
    """Return the plain help of a command."""
    console = Console(file=StringIO(), width=100, color_system=None, force_terminal=False)
    APP.help_print(list(command), console=console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip().splitlines())


def page() -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION, f"```text\n{help_of()}\n```\n"]
    for name in MODULES:
        command = words_of(name)
        if name == "redshift":
            parts.append(f"## deepfits redshift\n\n```text\n{help_of('redshift')}\n```\n")
        parts.append(f"## deepfits {' '.join(command)}\n\n```text\n{help_of(*command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
