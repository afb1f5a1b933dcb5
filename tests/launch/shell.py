"""Calls of the scripts as from a shell, with all of this process's environment."""

import os
import subprocess


def bash(*command, **env):
    return subprocess.run(
        ["bash", *map(str, command)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
