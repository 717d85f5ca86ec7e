"""Entry point of ``deepfits`` and ``python -m deepfits``; Ctrl-C during start-up prints no traceback."""

import sys


def main() -> None:
    """Import the command line, which is slow, and run it."""
    try:
        from deepfits.cli import main as run
    except KeyboardInterrupt:
        print("deepfits: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
