"""Recipe files, which are the user's: run as scripts are, with their folder on the path; what one raises is told as a mistake in it.

error: configs/mine.py, line 7: ValueError: boom
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
from typing import Any

from dlm.core.errors import UserError

_OURS = Path(__file__).resolve().parents[1]
_LONGEST = 300  # characters of an error that is told
_MOST = 10  # places of one that are told


def split(target: str) -> tuple[str, str | None]:
    """(FILE.py, arguments or None) of FILE.py[:arguments]; a colon may also stand in the name of a file that there is."""
    ends = [*(i for i, sign in enumerate(target) if sign == ":"), len(target)]
    end = next((end for end in ends if os.path.isfile(target[:end])), ends[0])
    return target[:end], target[end + 1 :] or None


def function(path: str, name: str) -> Callable | None:
    """The function of that name in the file, which is run for it; None where it has none. To be called within `told`."""
    found = runpy.run_path(path).get(name)
    return found if callable(found) else None


def given(call: Callable, argument: str | None) -> Any:
    """What the function returns: it gets the recipe's arguments (or None) where it takes any."""
    return call(*((argument,) if inspect.signature(call).parameters else ()))


@contextmanager
def told(path: str) -> Iterator[None]:
    """Whatever is raised within is a UserError that names the file and the line; what the file prints is for people, on stderr."""
    folder, known = Path(path).resolve().parent, set(sys.modules)
    new = folder not in [Path(entry).resolve() for entry in sys.path]
    if new:
        sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (UserError, KeyboardInterrupt):
        raise
    except (
        BaseException
    ) as error:  # a SystemExit as well: nothing has been done that could have ended well
        raise _mistake(path, folder, error) from None
    finally:
        if new:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
            _forget(folder, set(sys.modules) - known)


def _forget(folder: Path, names: set[str]) -> None:
    """Neighbours that a recipe imported: another recipe may have others of the same names."""
    for name in names:
        module = sys.modules[name]
        top = folder / name.partition(".")[0]
        file = getattr(module, "__file__", None) or next(
            iter(getattr(module, "__path__", ())), None
        )
        if file and (
            Path(file).resolve() == top.with_suffix(".py")
            or Path(file).resolve().is_relative_to(top)
        ):
            del sys.modules[name]


def _mistake(path: str, folder: Path, error: BaseException) -> UserError:
    """The error in one line, at the innermost line of the user's own; where these call each other, all of them as a note."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _own(frame.filename, folder)
    ]
    places = [(frame.filename, frame.lineno) for frame in frames]
    if isinstance(error, SyntaxError) and error.filename and _own(error.filename, folder):
        places.append((error.filename, error.lineno))
    shown = [f"{_shown(path, folder, file)}, line {line}" for file, line in places]
    made = UserError(f"{shown[-1] if shown else path}: {_words(error)}")
    if len(shown) > 1:
        made.add_note("\n".join(f"  {place}" for place in _ends(shown)))
    return made


def _ends(places: list[str]) -> list[str]:
    """The first and the last of many places: of a function that calls itself for ever there are a thousand."""
    left_out = len(places) - _MOST
    return (
        places
        if left_out <= 0
        else [*places[: _MOST // 2], f"… {left_out} more", *places[-_MOST // 2 :]]
    )


def _own(file: str, folder: Path) -> bool:
    resolved = Path(file).resolve()
    return (
        resolved.is_relative_to(folder)
        and not resolved.is_relative_to(_OURS)
        and "site-packages" not in resolved.parts
    )


def _shown(path: str, folder: Path, file: str) -> str:
    """As the user spells the recipe's folder."""
    return str(Path(path).parent / Path(file).resolve().relative_to(folder))


def _words(error: BaseException) -> str:
    """'ValueError: boom', in one line."""
    try:
        said = (error.msg if isinstance(error, SyntaxError) else str(error)).strip()
    except Exception:  # an error of the user's own making may not even be able to say what it is
        said = ""
    first = (
        "".join(c if c.isprintable() else " " for c in said.splitlines()[0][:_LONGEST])
        if said
        else ""
    )
    return f"{type(error).__name__}: {first}".rstrip(": ")
