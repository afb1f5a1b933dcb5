"""Which code this is: a commit of ours, or where there is none of it a hash of what is installed."""

import functools
import hashlib
import os
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def commit(package: Path = _PACKAGE) -> str:
    """The commit of the code, with '+changes' where its tree differs or the package has a new file.

    'src-HASH of dlm VERSION' where no repository of its own holds the code.
    A repository around the package may be somebody else's: it is believed if its root is the folder above the package and it tracks it.
    """
    try:
        if _root(package) == package.parent and _git(
            package, "ls-files", "--error-unmatch", "__init__.py"
        ):
            changed = _git(package, "status", "--porcelain", "--untracked-files=no")
            new = _git(
                package, "ls-files", "--others", "--exclude-standard"
            )  # a part that was only added is code as well
            return _git(package, "rev-parse", "HEAD") + ("+changes" if changed or new else "")
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no git, no repository, no commit yet, or one that is not ours
        pass
    return f"src-{sources(package)} of {package.name} {_version(package.name)}"


def sources(package: Path) -> str:
    """A hash of every file of the package and of its name."""
    found = hashlib.sha256()
    for path in sorted(
        p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        content = path.read_bytes()
        found.update(
            f"{path.relative_to(package).as_posix()} {len(content)}\n".encode(
                "utf-8", "surrogateescape"
            )
            + content
        )
    return found.hexdigest()[:16]


def _root(package: Path) -> Path:
    return Path(_git(package, "rev-parse", "--show-toplevel")).resolve()


def _git(folder: Path, *words: str) -> str:
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # a hook's point at its own repository
    done = subprocess.run(
        ["git", *words], cwd=folder, env=own, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
