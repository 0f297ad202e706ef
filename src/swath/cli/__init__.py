"""The ``swath`` command: each subcommand is one public call and what it prints.

Modules here import click alone when they are imported: what else they need, they import when they run, so that ``--help`` and
the completion of a shell come at once.
"""

from swath.cli.root import cli, main

__all__ = ["cli", "main"]
