"""``python -m swath.cli``."""

from swath.cli import main

main()
