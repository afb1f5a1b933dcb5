"""Count what makes code hard to read, file by file.    python -m tests.budgets dlm/nn dlm/noise

Each budget has a limit and a reason. `test_structure` holds every file to them, apart from the
exceptions that it lists.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPOUND = (
    *FUNCTIONS,
    ast.ClassDef,
    ast.If,
    ast.For,
    ast.While,
    ast.With,
    ast.Try,
    ast.Match,
)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef, ast.Module)
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
PARTICIPLES = {"told", "found", "made", "given", "asked", "kept", "wanted", "heard"}
SHORT_FILE = 80  # lines; a shorter file explains itself


@dataclass(frozen=True)
class Source:
    """One file, parsed once for all budgets."""

    text: str

    def __post_init__(self):
        object.__setattr__(self, "lines", self.text.splitlines())
        object.__setattr__(self, "nodes", list(ast.walk(ast.parse(self.text))))
        tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        object.__setattr__(self, "tokens", tokens)

    def docstring_lines(self) -> set[int]:
        lines = set()
        for node in self.nodes:
            if (
                isinstance(node, DOCUMENTED)
                and ast.get_docstring(node, clean=False) is not None
            ):
                lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        return lines

    def tokens_per_line(self) -> Counter:
        """The number of tokens on each line of code; comments and docstrings do not count."""
        documented = self.docstring_lines()
        count = Counter()
        for token in self.tokens:
            line = token.start[0]
            if token.type not in LAYOUT | {tokenize.COMMENT} and line not in documented:
                count[line] += 1
        return count

    def commented_lines(self) -> int:
        """The number of lines with a comment, also behind code."""
        return len(
            {token.start[0] for token in self.tokens if token.type == tokenize.COMMENT}
        )

    def functions(self) -> list:
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]


def wide_lines(source: Source) -> int:
    return sum(len(line) > 100 for line in source.lines)


def dense_lines(source: Source) -> int:
    """Lines of more than 24 tokens, unless a comment calls them a formula.

    One in 40 is free: the codebases that read well have 0.1 to 2.5 in a hundred.
    """
    count = source.tokens_per_line()
    over = [line for line, number in count.items() if number > 24]
    over = [line for line in over if "# formula" not in source.lines[line - 1]]
    return max(0, len(over) - len(count) // 40)


def dense_file(source: Source) -> int:
    """1 where the mean is over 10 tokens a line; 12 in a short file, which may be one formula."""
    count = source.tokens_per_line()
    limit = 12 if len(count) < 60 else 10
    return int(bool(count) and sum(count.values()) / len(count) > limit)


def silent_file(source: Source) -> int:
    """1 where a longer file has comments on fewer than 3 lines in 100, also behind code."""
    code = source.tokens_per_line()
    comments = {
        token.start[0] for token in source.tokens if token.type == tokenize.COMMENT
    }
    return int(
        len(source.lines) > SHORT_FILE
        and len(comments) < 0.03 * len(comments | set(code))
    )


def long_file(source: Source) -> int:
    return int(len(source.lines) > 400)


def long_functions(source: Source) -> int:
    return sum(node.end_lineno - node.lineno + 1 > 50 for node in source.functions())


def many_parameters(source: Source) -> int:
    return sum(len(_parameters(node)) > 8 for node in source.functions())


def missing_args_sections(source: Source) -> int:
    """Public functions of more than four parameters whose docstring has no Args section."""
    long = [
        n for n in source.functions() if len(_parameters(n)) > 4 and n.name[0] != "_"
    ]
    return sum("Args:" not in (ast.get_docstring(node) or "") for node in long)


def nested_conditionals(source: Source) -> int:
    choices = [node for node in source.nodes if isinstance(node, ast.IfExp)]
    return sum(
        any(isinstance(x, ast.IfExp) for x in (n.body, n.test, n.orelse))
        for n in choices
    )


def crowded_statements(source: Source) -> int:
    """Statements with more than one conditional expression."""
    simple = [
        n
        for n in source.nodes
        if isinstance(n, ast.stmt) and not isinstance(n, COMPOUND)
    ]
    return sum(sum(isinstance(x, ast.IfExp) for x in ast.walk(n)) > 1 for n in simple)


def conditional_unpackings(source: Source) -> int:
    """`**({…} if … else {})`, in a call or in a dictionary."""
    count = 0
    for node in source.nodes:
        if isinstance(node, ast.Dict):
            values = [
                v for k, v in zip(node.keys, node.values, strict=True) if k is None
            ]
        elif isinstance(node, ast.Call):
            values = [k.value for k in node.keywords if k.arg is None]
        else:
            continue
        count += sum(isinstance(value, ast.IfExp) for value in values)
    return count


def bound_lambdas(source: Source) -> int:
    return sum(
        isinstance(n, ast.Assign) and isinstance(n.value, ast.Lambda)
        for n in source.nodes
    )


def dictionaries_of_lambdas(source: Source) -> int:
    dictionaries = [node for node in source.nodes if isinstance(node, ast.Dict)]
    return sum(
        any(isinstance(v, ast.Lambda) for v in node.values) for node in dictionaries
    )


def vague_names(source: Source) -> int:
    """Participles as the whole name of a variable or a parameter, and `*given`."""
    count = 0
    for node in source.nodes:
        name = node.arg if isinstance(node, ast.arg) else getattr(node, "id", None)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            continue
        if isinstance(name, str):
            count += re.sub(r"_[A-Z0-9]+$", "", name).strip("_") in PARTICIPLES
    return count


def probes(source: Source) -> int:
    """`hasattr` and `getattr` with a literal name, and `__getattr__`."""
    count = sum(node.name == "__getattr__" for node in source.functions())
    for node in source.nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and len(node.args) > 1
        ):
            literal = isinstance(node.args[1], ast.Constant)
            count += node.func.id in ("hasattr", "getattr") and literal
    return count


def _parameters(node) -> list[str]:
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [a.arg for a in arguments if a.arg not in ("self", "cls")]


BUDGETS = {  # in each file; the reason stands beside it
    "wide_lines": (wide_lines, 0, "two files fit side by side at 100 columns"),
    "dense_lines": (
        dense_lines,
        0,
        "a line of more than 24 tokens says more than one thing",
    ),
    "dense_file": (
        dense_file,
        0,
        "the codebases that read well have 6 to 8 tokens a line",
    ),
    "silent_file": (silent_file, 0, "every paragraph of code says why it is there"),
    "long_file": (long_file, 0, "400 lines are read in one sitting"),
    "long_functions": (long_functions, 0, "50 lines fit on a screen"),
    "many_parameters": (
        many_parameters,
        0,
        "more than eight are an object that has no name yet",
    ),
    "missing_args_sections": (
        missing_args_sections,
        0,
        "five parameters are not clear by name",
    ),
    "nested_conditionals": (nested_conditionals, 0, "an if statement shows the cases"),
    "crowded_statements": (crowded_statements, 0, "one decision a statement"),
    "conditional_unpackings": (
        conditional_unpackings,
        0,
        "an if statement shows what is added",
    ),
    "bound_lambdas": (bound_lambdas, 0, "a def has a name in a traceback"),
    "dictionaries_of_lambdas": (dictionaries_of_lambdas, 0, "match shows the cases"),
    "vague_names": (vague_names, 0, "a participle does not say what is inside"),
    "probes": (probes, 0, "a contract says what an object can do"),
}


def violations(source: Source) -> dict[str, int]:
    """The budgets that a file exceeds, and its counts."""
    counts = {name: count(source) for name, (count, _, _) in BUDGETS.items()}
    return {
        name: number for name, number in counts.items() if number > BUDGETS[name][1]
    }


def main(arguments: list[str]) -> None:
    """Print what the files in these folders exceed."""
    paths = [Path(a) for a in arguments or ["dlm"]]
    files = [
        f
        for path in paths
        for f in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    total = Counter()
    for file in files:
        over = violations(Source(file.read_text(encoding="utf-8")))
        total.update(over)
        if over:
            print(f"{str(file):45s} {', '.join(f'{k} {v}' for k, v in over.items())}")
    print(f"{len(files)} files: {dict(total)}")


if __name__ == "__main__":
    main(sys.argv[1:])
