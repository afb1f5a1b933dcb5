"""The version of this code: its git commit, or a hash of the installed files."""

import functools
import hashlib
import os
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def commit(package: Path = _PACKAGE) -> str:
    """Return the commit, with '+changes' where files differ or the package has a new file.

    Without a repository of its own it is 'src-HASH of dlm VERSION'. A repository around the
    package may be another project's: it counts if its root is the folder above the package and
    it tracks the package.
    """
    try:
        if _root(package) == package.parent and _is_tracked(package):
            changed = _git(package, "status", "--porcelain", "--untracked-files=no")
            # A part that was only added is code as well.
            new = _git(package, "ls-files", "--others", "--exclude-standard")
            head = _git(package, "rev-parse", "HEAD")
            return f"{head}+changes" if changed or new else head
    except (OSError, subprocess.SubprocessError):
        pass  # no git, no repository, no commit yet, or the repository of another project
    return f"src-{sources(package)} of {package.name} {_version(package.name)}"


def sources(package: Path) -> str:
    """Hash the name and the content of every file of the package."""
    total = hashlib.sha256()
    files = [
        p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    for path in sorted(files):
        content = path.read_bytes()
        head = f"{path.relative_to(package).as_posix()} {len(content)}\n"
        total.update(head.encode("utf-8", "surrogateescape") + content)
    return total.hexdigest()[:16]


def _is_tracked(package: Path) -> bool:
    """Whether git tracks the package; git's error otherwise."""
    return bool(_git(package, "ls-files", "--error-unmatch", "__init__.py"))


def _root(package: Path) -> Path:
    return Path(_git(package, "rev-parse", "--show-toplevel")).resolve()


def _git(folder: Path, *words: str) -> str:
    # The variables of a git hook point at the hook's own repository.
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }
    program = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return program.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
