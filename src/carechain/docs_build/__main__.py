"""``python -m carechain.docs_build [--check] [--out DIR]``: write or compare ``docs/reference``.

Exit status 0: written, or nothing to do. 1: ``--check`` found a page that differs from the code.
"""

import argparse
import sys
from pathlib import Path

from carechain.docs_build.pages import stale, write


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m carechain.docs_build", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/reference"), help="folder of the generated pages")
    parser.add_argument("--check", action="store_true", help="compare only; name the pages that differ")
    arguments = parser.parse_args()
    if arguments.check:
        names = stale(arguments.out)
        for name in names:
            sys.stderr.write(f"{arguments.out / name} does not match the code; run: make docs\n")
        return 1 if names else 0
    for name in write(arguments.out):
        sys.stderr.write(f"wrote {arguments.out / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
