# %% [markdown]
# # Add an idea
#
# Plants the objective of the README in a copy of the code, asks whether it can train, and lets the
# laws judge it: once as it is, and once with a wrong density. It takes some seconds.

# %%
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dlm

ROOT = Path(dlm.__file__).parents[1]
copy = Path(tempfile.mkdtemp())
for name in ("dlm", "tests", "configs"):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, copy / name, ignore=ignored)

# %% [markdown]
# ## One file
#
# The file is all that there is to write. `late` is the same with a wrong density of times.

# %%
readme = (ROOT / "README.md").read_text(encoding="utf-8")
early = re.search(r"`dlm/objectives/early\.py`:\n\n```python\n(.*?)```", readme, re.S)[
    1
]
late = early.replace(" - 1) / self.power", " - 1)")
assert late != early
for name, source in dict(early=early, late=late).items():
    (copy / "dlm" / "objectives" / f"{name}.py").write_text(source, encoding="utf-8")


def python(*arguments):
    """Runs a module of the copy."""
    environment = os.environ | dict(PYTHONPATH=str(copy))
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True
    )


# %% [markdown]
# ## Its fields are flags
#
# A dry run builds the config and reports sizes and errors; nothing was registered.

# %%
flags = ["--config.objective.name=objectives.early", "--config.objective.power=1.5"]
dry = python("dlm.train", "--config=configs/masked.py:size=tiny", *flags, "--dry_run")
print(dry.stdout + dry.stderr)
assert dry.returncode == 0

# %% [markdown]
# ## The laws find it
#
# They list the folder, so both are tested. The right one keeps the mean of its bound, and the
# wrong one is named.

# %%
law = "tests/laws/test_bounds.py"
chosen = "test_the_reported_bound_and_the_loss and cosine and (early or late)"
options = ["-rpf", "--tb=short", "-p", "no:cacheprovider", "--import-mode=importlib"]
laws = python("pytest", *options, "-k", chosen, law)
print(laws.stdout[-2000:])
assert re.search(r"^PASSED .*\[early", laws.stdout, re.M)
assert re.search(r"^FAILED .*\[late", laws.stdout, re.M)
