"""Finding sections of a stored config by dotted paths.

A config is a dictionary of dictionaries. The section `sampler` occurs once for each pass: each pass
holds the next one in a field.
"""

from collections.abc import Iterator
from typing import Any

Path = list[str]  # of names
PASSES = (
    "then",
    "next_pass",
)  # names of the field that holds the next pass, old and new


def tops(config: dict, path: Path) -> Iterator[tuple[dict, int]]:
    """Yield (dictionary, number of names of the path that lead to it), one for each pass."""
    if path[:1] != ["sampler"]:
        yield config, 0
        return
    sampler = config.get("sampler")
    while isinstance(sampler, dict):
        # The caller may change the pass, so the next one is read first.
        passes = [sampler.get(name) for name in PASSES]
        later = next(filter(None, passes), None)
        yield sampler, 1
        sampler = later


def existing(config: dict, path: Path) -> dict | None:
    """Return the dictionary at a path, None where there is none; nothing is changed."""
    inner: Any = config
    for name in path:
        inner = inner.get(name)
        if not isinstance(inner, dict):
            return None
    return inner


def opened(config: dict, path: Path) -> dict:
    """Return the dictionary at a path, created where there is none."""
    for name in path:
        if not isinstance(config.get(name), dict):
            config[name] = {}
        config = config[name]
    return config


def section(config: dict, path: Path, number: str = "") -> dict | None:
    """Return the dictionary at a path; None where there is none.

    The name of a member becomes a dictionary, and so does a plain number, as the field `number`.
    """
    for name in path:
        value = config.get(name)
        if isinstance(value, str):
            value = config[name] = dict(name=value)
        if number and isinstance(value, (int, float)):
            value = config[name] = {number: value}
        if not isinstance(value, dict):
            return None
        config = value
    return config


def is_member(section: dict, members: tuple[str, ...]) -> bool:
    """Check whether a section is one of these members; True where it does not name its member."""
    name = section.get("name")
    if not members or name is None:
        return True
    return stem(name) in members


def stem(name: Any) -> str:
    """Return 'ancestral' of 'samplers.ancestral'."""
    return str(name).rpartition(".")[2]
