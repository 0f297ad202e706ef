"""What a shell needs to complete commands, options and files."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete swath.

    It completes commands, options, choices and files.

    \b
    Examples, each once:
      swath completion bash > ~/.local/share/bash-completion/completions/swath
      swath completion zsh > ~/.zfunc/_swath
      swath completion fish > ~/.config/fish/completions/swath.fish

    Of zsh, ~/.zfunc must be in fpath before compinit: `fpath+=~/.zfunc; autoload -Uz compinit; compinit` in ~/.zshrc.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "swath", "_SWATH_COMPLETE").source())
