"""Run the user's recipe files, and turn their exceptions into one line.

    error: configs/mine.py, line 7: ValueError: boom

A recipe runs as a script does, with its folder on the import path. What it prints goes to stderr.
"""

import contextlib
import inspect
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dlm.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_LONGEST_MESSAGE = 300  # characters of the user's exception that are printed
_MOST_FRAMES = 10  # of its traceback


def split(target: str) -> tuple[str, str | None]:
    """Split FILE.py[:arguments] into (FILE.py, arguments or None).

    File names may contain colons: the shortest name of an existing file wins.
    """
    colons = [i for i, sign in enumerate(target) if sign == ":"]
    ends = [*colons, len(target)]
    end = next((end for end in ends if os.path.isfile(target[:end])), ends[0])
    return target[:end], target[end + 1 :] or None


def load_function(path: str, name: str) -> Callable | None:
    """Run the file and return its function `name`, or None. Call it within `errors_in`."""
    function = runpy.run_path(path).get(name)
    return function if callable(function) else None


def call(function: Callable, argument: str | None) -> Any:
    """Call a recipe's function, with the recipe's argument (or None) if it takes one."""
    if inspect.signature(function).parameters:
        return function(argument)
    return function()


@contextmanager
def errors_in(path: str) -> Iterator[None]:
    """Turn whatever the recipe raises into a UserError that names its file and line."""
    folder = Path(path).resolve().parent
    modules_before = set(sys.modules)
    known = [Path(entry).resolve() for entry in sys.path]
    is_new = folder not in known
    if is_new:
        sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        # Also a SystemExit: a recipe that exits has not returned a config.
        raise _user_error(path, folder, error) from None
    finally:
        if is_new:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
            _forget_modules(folder, set(sys.modules) - modules_before)


def _forget_modules(folder: Path, names: set[str]) -> None:
    """Unload the neighbours that a recipe imported: another recipe may import others so named."""
    for name in names:
        top = folder / name.partition(".")[0]
        file = _file_of(sys.modules[name])
        if file is not None and (
            file == top.with_suffix(".py") or file.is_relative_to(top)
        ):
            del sys.modules[name]


def _file_of(module: ModuleType) -> Path | None:
    """Return a module's file, or the folder of a package without an __init__."""
    attributes = vars(module)
    file = attributes.get("__file__") or next(
        iter(attributes.get("__path__", ())), None
    )
    return Path(file).resolve() if file else None


# -------------------------------------------------------------------------------- error messages


def _user_error(path: str, folder: Path, error: BaseException) -> UserError:
    """Describe an exception in one line, at the innermost line of the user's own code.

    Where the user's functions call each other, a note lists the lines of all.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames if _is_users(f.filename, folder)]
    if (
        isinstance(error, SyntaxError)
        and error.filename
        and _is_users(error.filename, folder)
    ):
        places.append((error.filename, error.lineno))
    shown = [f"{_spelled(path, folder, file)}, line {line}" for file, line in places]
    user_error = UserError(f"{shown[-1] if shown else path}: {_message(error)}")
    if len(shown) > 1:
        user_error.add_note("\n".join(f"  {place}" for place in _shortened(shown)))
    return user_error


def _shortened(places: list[str]) -> list[str]:
    """Keep the first and last of many places: endless recursion has a thousand."""
    left_out = len(places) - _MOST_FRAMES
    if left_out <= 0:
        return places
    half = _MOST_FRAMES // 2
    return [*places[:half], f"… {left_out} more", *places[-half:]]


def _is_users(file: str, folder: Path) -> bool:
    resolved = Path(file).resolve()
    is_installed = (
        resolved.is_relative_to(_PACKAGE) or "site-packages" in resolved.parts
    )
    return resolved.is_relative_to(folder) and not is_installed


def _spelled(path: str, folder: Path, file: str) -> str:
    """Spell a file the way the user spelled the recipe's folder."""
    below = Path(file).resolve().relative_to(folder)
    return str(Path(path).parent / below)


def _message(error: BaseException) -> str:
    """Return 'ValueError: boom', in one line of printable characters."""
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        lines = text.strip().splitlines()
    except Exception:  # the user's own exception class may fail to print itself
        lines = []
    first = lines[0][:_LONGEST_MESSAGE] if lines else ""
    printable = "".join(c if c.isprintable() else " " for c in first)
    return f"{type(error).__name__}: {printable}".rstrip(": ")
