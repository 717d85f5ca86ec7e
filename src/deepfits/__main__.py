"""The command line as a module: ``python -m deepfits``."""

from deepfits.cli import main

if __name__ == "__main__":
    main()
