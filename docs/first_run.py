# %% [markdown]
# # A first run
#
# Trains a tiny masked diffusion model on a text of one pattern, scores it, samples from it, and
# writes a page that replays the sample. It takes some seconds. Each call is a command of the
# shell: `train.main(["--config=…"])` is `launch/local.sh train --config=…`.

# %%
import json
import tempfile
from pathlib import Path

import dlm
from dlm import evaluate, sample, train

RECIPE = Path(dlm.__file__).parents[1] / "configs" / "masked.py"
folder = Path(tempfile.mkdtemp())
run = folder / "run"

# %% [markdown]
# ## Data
#
# Any text file will do. Documents are split by the hash of their text, so that the held-out ones
# are never trained on.

# %%
functions = [f"def add_{i}(x):\n    return x + {i}" for i in range(300)]
corpus = folder / "corpus.txt"
corpus.write_text("\n\n".join(functions), encoding="utf-8")

# %% [markdown]
# ## Train
#
# A recipe holds the settings, and flags change them: bytes in place of learned tokens, a network
# of two narrow layers, sixty updates.

# %%
settings = [
    "--config.data.source.name=data.local",
    f"--config.data.source.paths=({str(corpus)!r},)",
    "--config.data.source.unit=paragraph",
    "--config.data.length=32",
    "--config.text=text.bytes",
    "--config.nn.layers=2",
    "--config.nn.width=64",
    "--config.steps=60",
]
train.main([f"--config={RECIPE}:size=tiny", f"--workdir={run}", *settings])

# %% [markdown]
# ## Evaluate
#
# The score is a bound on held-out bits per byte, with its Monte Carlo error.

# %%
evaluate.main([f"--workdir={run}", "--evals=bound", "--evals.bound.windows=8"])
lines = (run / "evals.jsonl").read_text(encoding="utf-8").splitlines()
scores = {score["name"]: score["value"] for score in map(json.loads, lines)}
bits_per_byte = scores["bits_per_byte"]
assert bits_per_byte < 8, "a byte that is drawn evenly has 8 bits"

# %% [markdown]
# ## Sample
#
# The rule `confident` reveals the position of which the model is most certain first. Open the
# page in a browser to see every pass.

# %%
page = folder / "replay.html"
flags = [
    "--infill=def add_7(x):\\n    return ___",
    "--length=4",
    "--num=1",
    "--steps=4",
]
sample.main([f"--workdir={run}", *flags, "--sampler.rule=confident", f"--trace={page}"])
assert page.is_file()
