"""The entry point of `corral`: the top group, exit codes, and how errors are told.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted; `devbox exec` passes its command's own code on and uses
255 when it could not be run to its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from corral_sdk import errors
from corral_sdk.cli import groups, output

# httpx loads Rich and another click for a command line of its own where they are installed: 40 ms that no verb needs.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

HELP = """Computers for agents, on machines you own.

The client finds its server by CORRAL_URL (http://127.0.0.1:8700) and its key by CORRAL_API_KEY, or else in the file
api-key of the server's data folder CORRAL_DATA (/var/lib/corral).

\b
Examples:
  corral serve
  corral devbox create --name first
  corral devbox exec first -- python3 --version
  corral devbox shell first
"""

VERBS = {
    "devbox": "corral_sdk.cli.devbox:app",
    "blueprint": "corral_sdk.cli.blueprint:app",
    "snapshot": "corral_sdk.cli.snapshot:app",
    "object": "corral_sdk.cli.object:app",
    "version": "corral_sdk.cli.version:version",
}

app = groups.make("corral", HELP, VERBS, entry_points="corral.commands", completion=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Nothing is raised."""
    try:
        code = typer.main.get_command(app)(arguments, prog_name="corral", standalone_mode=False)
        sys.stdout.flush()
    except errors.CorralError as error:
        output.fail(error.message)
        return 1
    except typer.TyperException as error:
        _usage(error)
        return error.exit_code
    except typer.Abort:
        output.fail("stopped by you")
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; at exit Python would flush into the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        output.fail(f"cannot use {error.filename or 'this machine'}: {error.strerror or error}")
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return  # the help was printed
    message = error.format_message().rstrip(".")
    output.fail(f"cannot read the command line: {message[:1].lower()}{message[1:]}")
    if context is not None:
        output.say(f"try: {context.command_path} --help")


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
