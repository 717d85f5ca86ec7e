"""The command ``deepfits``, also as a module: an interruption while it starts is one line too."""

import sys


def main() -> None:
    """Import the command line, which takes a while, and run it."""
    try:
        from deepfits.cli import main as run
    except KeyboardInterrupt:
        print("deepfits: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
