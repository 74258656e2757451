"""`t2l`, and `python -m text2lora` for launchers such as torchrun."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `t2l`. Ctrl-C ends it with exit code 130, also while it imports what it needs."""
    try:
        from text2lora.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
