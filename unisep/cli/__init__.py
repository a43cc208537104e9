"""The command line: arguments and printing only. Data goes to stdout, all else to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module

from unisep.cli.arguments import parse
from unisep.cli.console import Console
from unisep.cli.plugins import Command, added, find, prepare
from unisep.errors import EmbeddingError, OptionError, PluginError, QueryError, UnisepError

__all__ = ["main"]

DONE, FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

_COMMANDS = {
    "separate": "unisep.cli.separate:separate",
    "plugins": "unisep.cli.plugins:plugins",
    "models list": "unisep.cli.models:show_list",
    "models pull": "unisep.cli.models:pull",
    "models verify": "unisep.cli.models:verify",
    "models card": "unisep.cli.models:show_card",
    "embed": "unisep.cli.separate:embed",
    "doctor": "unisep.cli.doctor:doctor",
    "explain": "unisep.cli.explain:explain",
    "new-plugin": "unisep.cli.plugins:new_plugin",
}

_DISTRIBUTIONS = {"align": "unisep-align", "evaluate": "unisep-evaluate"}  # commands that are plugins of their own


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command in `argv` (without it, of this process's arguments)."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a file makes a success fail
    with ExitStack() as stack:
        for stream, redirected in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:  # closed by the caller, or without a console
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirected(nowhere))
        try:
            arguments = _understood(words, stack)
        except SystemExit as exit:  # argparse has printed the help, the version or what is wrong
            return int(exit.code or 0)
        except UnisepError as error:
            Console().error(error)
            return exit_code(error)
        return _completed(arguments)


def _understood(words: Sequence[str], stack: ExitStack) -> Namespace:
    """The arguments, with the plugins in force that they name. Plugins are listed only if their commands matter."""
    own = {command.split()[0] for command in _COMMANDS}
    options, rest = prepare(words, stack, own)
    first = rest[0] if rest else "--help"
    if first in own or (first.startswith("-") and first not in ("-h", "--help")):
        return parse(words)
    commands = added()
    asked = find(first, commands)
    if asked is not None:
        is_ours = asked.distribution in _DISTRIBUTIONS.values()  # these put all options into their reports
        return asked.arguments([*options, *rest[1:]] if is_ours else rest[1:])
    if first in _DISTRIBUTIONS:
        raise PluginError(
            f"`unisep {first}` is a plugin of its own, and it is not installed. Run: pip install {_DISTRIBUTIONS[first]}"
        )
    return parse(words, [(command.spec.name, command.spec.summary) for command in commands])


def _completed(arguments: Namespace) -> int:
    console = Console(as_json=arguments.json, quiet=getattr(arguments, "quiet", False))
    try:
        with console, _cleaning_up_when_terminated():
            return _run(arguments, console)
    except KeyboardInterrupt:
        console.say("unisep: interrupted")
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except BrokenPipeError:  # the reader of our stdout has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as exit:  # of a plugin at work, since no command of unisep's own exits
        if arguments.debug:
            traceback.print_exc()
        console.say(f"unisep: error: {_exited(exit)}")
        return FAILED
    except Exception as error:
        if arguments.debug:
            raise
        console.error(error)
        return exit_code(error)


def _exited(exit: SystemExit) -> str:
    return (
        f"The work was not finished, since something called sys.exit({exit.code!r}), most likely a plugin. "
        "Run again with --debug to see where; `unisep plugins` lists the plugins."
    )


class _Terminated(BaseException):
    """Somebody asked the process to end; nothing that handles errors may swallow it."""


@contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    """A `with` block that a SIGTERM leaves in order, so that files being written are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(error: Exception) -> int:
    """What the process should exit with after this error."""
    wrong_usage = isinstance(error, OptionError | QueryError) and not isinstance(error, EmbeddingError)
    return WRONG_USAGE if wrong_usage else FAILED


def _run(arguments: Namespace, console: Console) -> int:
    if isinstance(arguments.command, Command):
        return _run_added(arguments.command, arguments, console)
    module_name, _, function_name = _COMMANDS[arguments.command].partition(":")
    try:
        command = getattr(import_module(module_name), function_name)
    except ImportError as error:
        raise UnisepError(f"This installation is incomplete: {error}. Run: unisep doctor") from error
    return int(command(arguments, console))


def _run_added(command: Command, arguments: Namespace, console: Console) -> int:
    try:
        return command.run(arguments, console)
    except SystemExit as exit:  # of the command's own argparse
        if exit.code is None or isinstance(exit.code, int):
            return int(exit.code or DONE)
        console.say(str(exit.code))
        return FAILED
