"""The command line of every command: flags, `--config.a.b=value` overrides, one-line errors.

Exit codes: 0 success; 2 the user's mistake (`error: …` on stderr); 1 ours (a traceback) or a
device's (one line); 130 interrupted; 75 stopped by a signal with everything saved, so that the same
command continues (`machine.interrupts`).
"""

import argparse
import errno
import functools
import io
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from dlm.core import files
from dlm.core.config import load_recipe, override
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed, nearest
from dlm.machine import allocator, hosts, interrupts
from dlm.runs import earlier_fields

BEGIN = (
    time.time()
)  # commands import this module first, so that it includes their start-up

_PARSED_AS: dict[Callable, Callable] = {
    Place: str,
    Seed: int,
}  # argparse only converts; these types check afterwards
_EXAMPLES = {
    "config": "optim.lr=3e-4",
    "sampler": "rule=confident",
    "evals": "bound.samples=16",
    "data": "unit=line",
}
_WRONG_NAME = (  # system errors that a wrong path causes: the user's mistake
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Command = Callable[[list[str] | None], int | None]
Overrides = list[tuple[str, str]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the flags")


@dataclass(frozen=True)
class Flag:
    """One flag of a command; a bool is a switch without a value."""

    name: str
    help: str
    default: Any = None
    type: Callable = str
    choices: tuple[str, ...] | None = None
    required: bool = False


def parse(
    doc: str | None,
    flags: list[Flag],
    argv: list[str] | None,
    sections: tuple[str, ...] = (),
) -> tuple[argparse.Namespace, Overrides]:
    """Parse a command line into (flags, [('config.optim.lr', '1e-3'), …]).

    `doc` is the command's docstring, None under `python -OO`. Overrides of the named `sections`
    keep their order. Raises UserError.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for word in words:
        if not _is_utf8(word):
            raise UserError(
                f"{word!r} is no UTF-8: arguments, and names of files in them, must be"
            )
    flag_words, overrides = _split_overrides(words, sections)
    parser = _parser(doc, flags, sections)
    parsed, unknown = parser.parse_known_args(flag_words)
    # Places and seeds are checked here, so that the error names the flag.
    for flag in flags:
        value = getattr(parsed, flag.name)
        if flag.type in (Place, Seed) and value != flag.default:
            setattr(parsed, flag.name, typed(f"--{flag.name}", flag.type, value))
    if unknown:
        word = unknown[0].split("=")[0]
        hint = nearest(word, [f"--{f.name}" for f in flags])
        raise UserError(f"unknown argument {word}{hint}; --help lists the flags")
    return parsed, overrides


def _parser(doc: str | None, flags: list[Flag], sections: tuple[str, ...]) -> _Parser:
    parser = _Parser(
        description=(doc or "").split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in flags:
        options: dict[str, Any] = dict(help=flag.help, required=flag.required)
        if flag.type is bool:
            options["action"] = "store_true"
        else:
            kind = _PARSED_AS.get(flag.type, flag.type)
            options |= dict(type=kind, default=flag.default, choices=flag.choices)
        parser.add_argument(f"--{flag.name}", **options)
    for section in sections:
        example = f"--{section}.{_EXAMPLES[section]}"
        help = f"override a field of the {section}, such as {example}"
        parser.add_argument(f"--{section}.FIELD=VALUE", help=help)
    return parser


def _split_overrides(
    words: list[str], sections: tuple[str, ...]
) -> tuple[list[str], Overrides]:
    """Separate `--config.a.b=value` and `--config.a.b value` from the command's own flags."""
    others: list[str] = []
    overrides: Overrides = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        dotted, equals, value = word.removeprefix("--").partition("=")
        is_override = dotted.split(".")[0] in sections and "." in dotted
        if not word.startswith("--") or not is_override:
            others.append(word)
            continue
        if not equals:
            if not rest:
                raise UserError(f"{word} needs a value")
            value = rest.pop(0)
        overrides.append((dotted, value))
    return others, overrides


def load_config(target: str, overrides: Overrides) -> dict:
    """Load the config of the recipe FILE.py[:arguments], with overrides, as a plain dictionary."""
    config = load_recipe(target)
    for dotted, text in overrides:
        override(config, dotted.removeprefix("config."), text)
    earlier_fields.check(config)
    return config


def place(name: str) -> Callable[[str], Place]:
    """Return the `type` of an argparse argument that holds a Place; `name` is for errors."""
    return functools.partial(typed, name, Place)


def _is_utf8(word: str) -> bool:
    """Bytes that are not UTF-8 reach Python as lone surrogates."""
    return not any("\ud800" <= sign <= "\udfff" for sign in word)


def typed(name: str, kind: Callable, value: Any) -> Any:
    """Convert a value to a Place or Seed; `name` is its name on the command line."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{name} {error}") from None


def main(command: Command, argv: list[str] | None = None) -> None:
    """Run a command and exit; a mistake of the user is one line, without a traceback."""
    allocator.keep_freed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character is no reason to lose the answer.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code(command, argv))


def _exit_code(command: Command, argv: list[str] | None) -> int:
    try:
        return command(argv) or 0
    except UserError as error:
        # Python creates the notes of an exception with the first of them.
        notes = vars(error).get("__notes__", [])
        return _log_exit("\n".join([f"error: {error}", *notes]), 2)
    except interrupts.Preempted as stopped:
        print(stopped, file=sys.stderr)
        return interrupts.EXIT
    except KeyboardInterrupt:
        return _log_exit("interrupted", 130)
    except BrokenPipeError:  # the reader of stdout has enough
        return 1
    except OSError as error:
        # Without a file name it is our mistake, and needs the traceback.
        if error.errno not in _NO_SPACE and error.filename is None:
            hosts.leave(traceback.format_exc())
            raise
        return _log_exit(*_describe_system_error(error))
    except Exception:
        hosts.leave(traceback.format_exc())
        raise


def _describe_system_error(error: OSError) -> tuple[str, int]:
    """Return (message, exit code)."""
    if error.errno in _NO_SPACE:
        where = error.filename or "the disk"
        return f"error: {error.strerror}: {where}; make room and start again", 2
    code = 2 if error.errno in _WRONG_NAME else 1
    return f"error: {error.strerror}: {error.filename}", code


def _log_exit(text: str, code: int) -> int:
    hosts.leave(text, code)
    print(text, file=sys.stderr)
    return code


def emit(value: dict, indent: int | None = None) -> None:
    """Print the one JSON object of `--json` on stdout, strict and ASCII."""
    print(files.as_json(value, indent))
