"""`python -m unisep` is the same as `unisep`."""

import sys

from unisep.cli import main

if __name__ == "__main__":
    sys.exit(main())
