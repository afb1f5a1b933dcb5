"""The command line of every command: flags, `--config.a.b=value` overrides, and errors told in one line.

Exit codes: 0 success, 2 the user's mistake (`error: …` on stderr), 1 ours (a traceback) or a device's (one line), 130 interrupted, 75
stopped by a signal with everything saved: the same command goes on (`preempt`).
"""

import argparse
import errno
import functools
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlm.core import files
from dlm.core.config import load_recipe, override
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed, nearest
from dlm.machine import allocator, hosts, interrupts
from dlm.runs import earlier_fields

BEGIN = time.time()  # commands import this module first, so that start-up time is told whole


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help lists the flags")


@dataclass(frozen=True)
class Flag:
    name: str
    help: str
    default: Any = None
    type: Callable = str
    choices: tuple[str, ...] | None = None
    required: bool = False


def parse(
    doc: str | None, flags: list[Flag], argv: list[str] | None, sections: tuple[str, ...] = ()
) -> tuple[argparse.Namespace, list]:
    """(flags, [('config.optim.lr', '1e-3'), …]): overrides of the named `sections` are collected in their order.

    `doc` is None where Python was told to leave docstrings out."""
    parser = _Parser(
        description=(doc or "").split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in flags:
        read = dict(
            type=_READ.get(flag.type, flag.type), default=flag.default, choices=flag.choices
        )
        options = dict(action="store_true") if flag.type is bool else read
        parser.add_argument(f"--{flag.name}", help=flag.help, required=flag.required, **options)
    for section in sections:
        parser.add_argument(
            f"--{section}.FIELD=VALUE",
            help=f"override a field of the {section}, such as --{section}.{_EXAMPLES[section]}",
        )
    if bad := [word for word in (sys.argv[1:] if argv is None else argv) if not _utf8(word)]:
        raise UserError(f"{bad[0]!r} is no UTF-8: arguments, and names of files in them, must be")
    known, overrides, rest = [], [], list(sys.argv[1:] if argv is None else argv)
    while rest:
        word = rest.pop(0)
        dotted, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and dotted.split(".")[0] in sections and "." in dotted:
            if not equals and not rest:
                raise UserError(f"{word} needs a value")
            overrides.append((dotted, value if equals else rest.pop(0)))
        else:
            known.append(word)
    parsed, unknown = parser.parse_known_args(known)
    for flag in flags:
        value = getattr(parsed, flag.name)
        if flag.type in (Place, Seed) and value != flag.default:
            setattr(parsed, flag.name, typed(f"--{flag.name}", flag.type, value))
    if unknown:
        word = unknown[0].split("=")[0]
        raise UserError(
            f"unknown argument {word}{nearest(word, [f'--{f.name}' for f in flags])}; --help lists the flags"
        )
    return parsed, overrides


def load_config(target: str, overrides: list[tuple[str, str]]) -> dict:
    """The config of the recipe FILE.py[:arguments] with these overrides, as a plain dictionary."""
    config = load_recipe(target)
    for dotted, text in overrides:
        override(config, dotted.removeprefix("config."), text)
    earlier_fields.check(config)
    return config


def place(name: str) -> Callable[[str], Place]:
    """The `type` of an argument of argparse that goes by that name."""
    return functools.partial(typed, name, Place)


def _utf8(word: str) -> bool:
    """Bytes that are none reach Python as lone surrogates."""
    return not any("\ud800" <= sign <= "\udfff" for sign in word)


def typed(name: str, kind: type, value: Any) -> Any:
    """A Place or a Seed, of what goes by that name on the command line."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{name} {error}") from None


_READ = {Place: str, Seed: int}  # what argparse makes of a word
_EXAMPLES = {
    "config": "optim.lr=3e-4",
    "sampler": "rule=confident",
    "evals": "bound.samples=16",
    "data": "unit=line",
}


_NAMED_WRONGLY = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def main(command: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> None:
    """Runs a command and exits: one line for the user's mistake, no traceback."""
    allocator.keep_freed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # a terminal that cannot spell a sign is no reason to lose the answer
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_code(command, argv))


def _code(command: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    try:
        return command(argv) or 0
    except UserError as error:
        return _log_exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), 2)
    except interrupts.Preempted as stopped:
        print(stopped, file=sys.stderr)
        return interrupts.EXIT
    except KeyboardInterrupt:
        return _log_exit("interrupted", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _log_exit(
                f"error: {error.strerror}: {error.filename or 'the disk'}; make room and start again",
                2,
            )
        if error.filename is None:
            hosts.leave(traceback.format_exc())
            raise
        return _log_exit(
            f"error: {error.strerror}: {error.filename}", 2 if error.errno in _NAMED_WRONGLY else 1
        )
    except Exception:
        hosts.leave(traceback.format_exc())
        raise


def _log_exit(text: str, code: int) -> int:
    hosts.leave(text, code)
    print(text, file=sys.stderr)
    return code


def emit(value: dict, indent: int | None = None) -> None:
    """The one JSON object of `--json` on stdout: strict, and ASCII, whatever stdout can spell."""
    print(files.as_json(value, indent))
