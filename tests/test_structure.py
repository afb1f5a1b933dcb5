"""The shape of the code base: who imports whom, what starts without JAX, how big things are, what
is never done.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "dlm").rglob("*.py"))
OURS = [
    *FILES,
    *(
        file
        for folder in ("tests", "configs", "launch")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ),
]
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in OURS}
named = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))

SEES = {"core", "noise", "nn.visibility"}
MAY = {  # room → rooms or modules that it may import besides itself
    "core": set(),
    "machine": {"core"},
    "runs": {"core", "machine"},
    "training": {"core", "machine", "runs"},
    "text": {"core"},
    "tasks": {"core", "text"},
    "data": {"core", "text", "tasks"},
    "noise": {"core"},
    "nn": {"core"},
    "objectives": SEES,
    "samplers": SEES,
    "oracle": SEES,
    "hf": {"core", "nn"},
    "evals": {
        "core",
        "machine",
        "text",
        "data",
        "tasks",
        "noise",
        "nn",
        "oracle",
        "samplers",
    },
    "sweeps": {"core", "machine", "runs"},
    "reports": {"core", "runs", "sweeps", "samplers.plan"},
}
EVERYTHING = {
    "app",
    "benches",
    "drills",
}  # may import all rooms: the one puts them together, the other measures the whole
# Rooms and modules that are imported without JAX: reports, sweeps and --help start at once.
NO_JAX = (
    "core",
    "text",
    "data",
    "tasks",
    "sweeps",
    "reports",
    "nn.config",
    "nn.routers",
)
NO_JAX += ("machine.config", "training.config", "training.intervals", "samplers.plan")
NO_JAX += (
    "runs.directory",
    "app.cli",
    "train",
    "evaluate",
    "sample",
    "report",
    "sweep",
)
WITH_JAX = ("core.contracts", "core.keys", "core.pytree")


def module(file):
    return ".".join(file.relative_to(ROOT / "dlm").with_suffix("").parts).removesuffix(
        ".__init__"
    )


def imported(tree):
    """Our modules that a file imports, anywhere in it, without the leading 'dlm.'."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names),
            }
    known = {f"dlm.{module(f)}" for f in FILES}
    return {
        name.removeprefix("dlm.") for name in found if name in known and name != "dlm."
    }


@named
def test_imports_point_down(file):
    name = module(file)
    room = name.split(".")[0]
    command = "." not in name and name not in MAY
    if command or room in EVERYTHING:
        return
    may = {room} | MAY[room]
    for other in imported(TREES[file]):
        package = any(
            allowed.startswith(f"{other}.") for allowed in may
        )  # importing the package is importing its __init__ only
        inside = any(
            other == allowed or other.startswith(f"{allowed}.") for allowed in may
        )
        assert inside or package, f"{name} may not import {other}"


def test_the_rule_sees_a_wrong_import():
    tree = ast.parse(
        "def f():\n    from dlm.samplers import plan\n    import dlm.nn.transformer"
    )
    assert imported(tree) == {"samplers", "samplers.plan", "nn.transformer"}


def test_libraries_import_neither_recipes_nor_tests():
    for file in FILES:
        for node in ast.walk(TREES[file]):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {n.split(".")[0] for n in names} & {"tests", "configs"}, file


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_these_start_without_jax():
    """Every module on its own would cost a process each; together they must not load JAX either."""
    modules = [module(file) for file in FILES]
    free = [m for m in modules if _within(m, NO_JAX) and not _within(m, WITH_JAX)]
    assert {"core.config", "nn.routers.moge", "reports.table"} <= set(free)
    imports = ", ".join(f"dlm.{name}" for name in free)
    loaded = "{'jax', 'flax', 'orbax', 'grain'} & set(sys.modules)"
    reply = python("-c", f"import sys, {imports}; print(*sorted({loaded}))")
    assert reply.returncode == 0 and reply.stdout.strip() == "", reply


def _within(name, rooms):
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_sections_of_a_config_are_read_without_jax():
    """A simulator reads sizes, data and the mesh of a recipe, with routers and all."""
    code = """
import sys
from dlm.core.config import load_recipe
from dlm.core.run import build_sections
config = load_recipe("configs/moge.py:size=base")
names = ("text", "nn", "data", "mesh", "optim", "intervals")
sections = build_sections(config, *names)
assert sections["nn"].experts.count == 64 and sections["nn"].parameters > 1e8
print(*sorted({"jax", "flax", "optax"} & set(sys.modules)), *sections)
"""
    reply = python("-c", code)
    assert reply.stdout.split() == [
        "text",
        "nn",
        "data",
        "mesh",
        "optim",
        "intervals",
    ], reply


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--config=configs/quickstart.py", "--print_config", "--config.steps=7"],
    ],
    ids=lambda a: a[-1],
)
def test_help_and_print_config_load_no_jax(arguments):
    code = (
        f"import sys, dlm.train\ntry:\n    dlm.train.main({arguments!r})\nexcept "
        "SystemExit:\n    pass\nassert 'jax' not in sys.modules\n"
    )
    reply = python("-c", code)
    assert reply.returncode == 0 and (
        "--workdir" in reply.stdout or '"steps": 7' in reply.stdout
    ), reply


# ------------------------------------------------------------------------------------------ budgets


def test_dataclasses_stay_small():
    over = []
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                continue
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
            fields = [s for s in fields if "ClassVar" not in ast.unparse(s.annotation)]
            fields = [s for s in fields if s.target.id != "vocab"]
            if len(fields) > (15 if node.name == "Sampler" else 12):
                over.append(f"{file}: {node.name} has {len(fields)} fields")
    assert not over, over


def test_names_say_what_is_inside():
    for file in OURS:
        assert not {"utils", "common", "misc", "helpers", "manager"} & {
            file.stem,
            *file.relative_to(ROOT).parts,
        }, file


@pytest.mark.parametrize("folder", ["dlm", "tests", "configs", "launch"])
def test_every_module_says_what_it_is(folder):
    missing = [
        f
        for f, tree in TREES.items()
        if f.is_relative_to(ROOT / folder) and not ast.get_docstring(tree)
    ]
    assert not missing


def test_nothing_unsafe_is_called():
    """No code from data: no pickle, eval, exec, yaml.load, and no shell."""
    for file in FILES:
        for node in ast.walk(TREES[file]):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {a.name for a in node.names} | {getattr(node, "module", None)}
                assert not names & {
                    "pickle",
                    "dill",
                    "cloudpickle",
                    "shelve",
                    "marshal",
                    "yaml",
                }, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in (
                    "eval",
                    "exec",
                    "compile",
                    "os.system",
                    "os.popen",
                    "pickle.loads",
                    "yaml.load",
                ), f"{file}: {called}"
                for k in node.keywords:
                    unsafe = (k.arg, ast.unparse(k.value)) in (
                        ("shell", "True"),
                        ("allow_pickle", "True"),
                    )
                    assert not unsafe, f"{file}: {called}"


MASKS = {  # file → why it compares ids with the mask's
    "samplers.rules.correcting": "noise on tokens leaves masks, which a first pass must fill",
    "nn.inputs": "a router's buckets count the masks that a network reads, and nn knows no process",
}


def test_only_a_process_says_what_is_undecided():
    """A token may be undecided without being a mask: ask `process.undecided`."""
    for file in FILES:
        room = module(file).split(".")[0]
        if room in ("noise", "text") or module(file) in MASKS:
            continue
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Compare):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                assert not any(s.endswith("vocab.mask") for s in sides), (
                    f"{file}:{node.lineno}"
                )


def test_lines_of_files_end_where_files_lines_says():
    """A stranger's text may hold the eight signs more at which splitlines cuts."""
    for file in FILES:
        if module(file).split(".")[0] in ("data", "text", "tasks", "evals"):
            cuts = [
                n
                for n in ast.walk(TREES[file])
                if isinstance(n, ast.Attribute) and n.attr == "splitlines"
            ]
            assert not cuts, f"{file}, line {cuts[0].lineno}: use core.files.lines"


def test_nothing_is_tied_to_one_machine():
    tied = re.compile(r"""["'\s=(](/(?:home|root|work|Users|tmp|mnt|opt)/\w)""")
    listed = [
        *OURS,
        *filter(Path.is_file, (ROOT / "launch").glob("*")),
        *ROOT.glob("*.toml"),
        *ROOT.glob("*.txt"),
        *ROOT.glob("*.md"),
    ]
    for file in listed:
        found = tied.search(file.read_text(encoding="utf-8"))
        assert not found, f"{file}: {found}"


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        reply = python(
            "-m", "ruff", *command, "--no-cache", "dlm", "tests", "configs", "launch"
        )
        assert reply.returncode == 0, reply.stdout + reply.stderr
