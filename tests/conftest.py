"""The whole suite runs on four virtual CPU devices; what was compiled is kept, so that a second run
is quick.
"""

import functools
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny programs run once: compiling them quickly is worth more than their speed. The passes left
# out were half of a sampler's compilation.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "dlm" / "xla-tests")
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


MOST = 4 * 2**30  # bytes that a test process may hold of programs that are done with


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Drops compiled programs between files where they have piled up: two test processes and what
    they start must fit 24 GiB.
    """
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > MOST:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory):
    """Tokens of test corpora do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_CACHE", str(tmp_path_factory.mktemp("tokens")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A text file of 40 paragraphs, a few of them held out."""
    from tests import tiny

    return tiny.write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """trained(name): the directory of a masked, autoregressive or block run of two updates, made
    when it is first asked for.
    """
    from dlm import train
    from tests import tiny

    folder = tmp_path_factory.mktemp("trained")
    kinds = dict(
        masked={}, ar=tiny.AR, block=dict(objective=dict(name="block", size=8))
    )

    @functools.cache
    def run(name: str) -> Path:
        recipe = tiny.recipe(corpus, steps=2, intervals=dict(log=1), **kinds[name])
        (folder / f"{name}.py").write_text(
            f"def get_config(arg=None):\n    return {recipe!r}\n", encoding="utf-8"
        )
        train.main([f"--config={folder / name}.py", f"--workdir={folder / name}"])
        return folder / name

    return run
