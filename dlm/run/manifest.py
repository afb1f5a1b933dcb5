"""The sha256 of every file of a folder, written last: what has no manifest is not whole, what differs from it is damaged.

The first line of `manifest.json` is the sum of the rest, so that a flipped bit in the manifest itself is seen as well.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dlm.run import files

FILE = "manifest.json"
_THREADS = 8  # hashing releases the interpreter lock
_BLOCK = 4096  # bytes in which a disk hands out room
_CHUNK = 1 << 22  # bytes read at a time


def write(folder: Path) -> None:
    """Sums every file below `folder`, makes sure that all of them are on the disk, then writes the manifest."""
    folder = Path(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        names = _names(folder)
        sums = dict(zip(names, pool.map(lambda name: _sum(folder / name, sync=True), names), strict=True))
    body = json.dumps(sums, indent=0, sort_keys=True)
    files.write(folder / FILE, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}", sync=True)


def room(folder: Path) -> int:
    """Bytes that a copy of the folder takes on a disk, its own blocks and its folders' included; 0 where its manifest cannot be read."""
    try:
        return sum((-(-size // _BLOCK) + 1) * _BLOCK for size, _ in _read(Path(folder) / FILE).values())
    except (OSError, ValueError):
        return 0


def damage(folder: Path) -> str | None:
    """The first thing wrong with the folder, in words; None when every byte is what was written."""
    folder = Path(folder)
    if folder.is_symlink():
        return f"{folder} is a link"
    try:
        sums = _read(folder / FILE)
        found = _names(folder)
        for name in sorted(set(sums) | set(found)):
            if name not in found:
                return f"{folder / name} is missing"
            if name not in sums:
                return f"{folder / name} does not belong there"
            if (folder / name).is_symlink():
                return f"{folder / name} is a link"
            if (folder / name).stat().st_size != sums[name][0]:
                return f"{folder / name} has {(folder / name).stat().st_size} bytes instead of {sums[name][0]}"
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, now in zip(sums, pool.map(lambda name: _sum(folder / name), sums), strict=True):
                if now != sums[name]:
                    return f"{folder / name} was changed: its sha256 is not the manifest's"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    except ValueError:
        return f"{folder / FILE} is damaged"
    return None


def _read(path: Path) -> dict[str, list]:
    """{name: [bytes, sha256]}."""
    seal, _, body = path.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise ValueError("not the manifest that was written")
    return json.loads(body)


def _names(folder: Path) -> list[str]:
    """Every file and link below the folder, but the manifest; links are not followed."""
    found = []
    for root, folders, here in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [os.path.relpath(os.path.join(root, name), folder) for name in here + links]
    return sorted(set(found) - {FILE})


def _sum(path: Path, sync: bool = False) -> list:
    """[bytes, sha256] of a file; with `sync`, once it is on the disk."""
    total, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            size += len(chunk)
    return [size, total.hexdigest()]
