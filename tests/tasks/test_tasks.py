"""Every task: problems do not depend on earlier ones, and graders accept all right answers only."""

import importlib
import random
from pathlib import Path

import pytest

import dlm
from dlm.core.families import exposed
from dlm.tasks import brackets, countdown, star_graph, sudoku
from dlm.tasks.base import Problem

NAMES = sorted(
    p.stem
    for p in (Path(dlm.__file__).parent / "tasks").glob("*.py")
    if p.stem not in ("__init__", "base")
)


def member(name, **fields):
    (cls,) = exposed(importlib.import_module(f"dlm.tasks.{name}").__name__)
    return cls(**fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_generates_and_grades(name):
    task, again = member(name), member(name)
    problems = [task[i] for i in range(50)]
    backwards = [again[i] for i in reversed(range(50))]
    assert problems == backwards[::-1]
    assert len(set(problems)) > 40
    other_seed = member(name, seed=1)
    assert problems != [other_seed[i] for i in range(50)]
    rng = random.Random(0)
    borrowed = 0
    for i, p in enumerate(problems):
        other = problems[i - 1]
        assert task.grade(p, p.answer)
        assert len(p.answer) <= task.longest
        assert "\n" not in p.prompt + p.answer
        last = p.answer[-1]
        for wrong in ("", p.answer[:-1], p.answer + last):
            assert not task.grade(p, wrong)
        letters = list(p.answer)
        letters[rng.randrange(len(letters))] = "?"
        assert not task.grade(p, "".join(letters))
        borrowed += task.grade(p, other.answer)
    assert borrowed < 10, "the answer to another problem is seldom one to this"


def test_graders_check_the_answer_and_not_its_likeness():
    ends = Problem("([=", "])")
    assert brackets.Brackets().grade(ends, "()])")
    assert not brackets.Brackets().grade(ends, ")]")
    sums = Problem("2 3 4 14=", "(3+4)*2")
    for answer, right in [
        ("2*(4+3)", True),
        ("2*3+2*4", False),
        ("14", False),
        ("2*(4+3)*1", False),
        ("__import__('os')", False),
    ]:
        assert countdown.Countdown().grade(sums, answer) is right
    assert not countdown.Countdown().grade(sums, "9**9**9")
    assert not countdown.Countdown().grade(sums, "(" * 5000)
    star = Problem("a>b,b>c,c>d,a>e,e>f,f>g g-a=", "ef")
    for answer, right in [
        ("ef", True),
        ("bc", False),
        ("bf", False),
        ("fe", False),
        ("f", False),
        ("efg", False),
        ("e>f", False),
    ]:
        assert star_graph.StarGraph(arms=2, length=3).grade(star, answer) is right
    grid = Problem("1...............=", "1234341221434321")
    for answer, right in [
        ("1234341221434321", True),
        ("1234341243212143", True),
        ("2134341221434321", False),
        ("1234341243211243", False),
    ]:
        assert sudoku.Sudoku().grade(grid, answer) is right


def test_nodes_of_a_star_are_called_by_the_first_names():
    task = star_graph.StarGraph(arms=2, length=2, names=5)
    assert {c for i in range(9) for c in task[i].prompt} == set("abcde>,- =")


@pytest.mark.parametrize("box", [2, 3])
def test_grids_keep_their_givens(box):
    task = sudoku.Sudoku(box=box, holes=0.3)
    for i in range(20):
        assert task.grade(task[i], task[i].answer)
        assert task[i].prompt.count(".") == round(0.3 * box**4)


@pytest.mark.parametrize("box", [2, 3])
def test_a_puzzle_is_its_solution_with_holes(box):
    """A template repeats the prompt; the answer's characters in its holes complete it."""
    task = sudoku.Sudoku(box=box, holes=0.4)
    for problem in (task[i] for i in range(9)):
        prompt = filled = ""
        rest = problem.answer
        for part in task.template(problem):
            is_hole = isinstance(part, int)
            size = part if is_hole else len(part)
            prompt += "." * size if is_hole else part
            filled += rest[:size] if is_hole else part
            rest = rest[size:]
        assert prompt == problem.prompt[:-1]
        assert filled == problem.answer
        assert not rest


def test_all_small_grids_come_up_and_large_ones_are_not_one_family():
    """Permutations of one grid always have the same sets of digits in the rows of a box."""
    small = {sudoku.Sudoku()[i].answer for i in range(4000)}
    assert len(small) == 288
    kinds = set()
    for grid in (sudoku.Sudoku(box=3)[i].answer for i in range(40)):
        triples = [frozenset(grid[n : n + 3]) for n in range(0, 81, 3)]
        kinds.add(len(set(triples)))
    assert max(kinds) > 20, "permutations of the cyclic grid have 9 at most"


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("brackets", dict(depth=0)),
        ("countdown", dict(numbers=1)),
        ("star_graph", dict(arms=2, length=4, names=8)),
        ("star_graph", dict(names=53)),
        ("star_graph", dict(length=1)),
        ("sudoku", dict(box=4)),
    ],
)
def test_mistakes(name, wrong):
    with pytest.raises(ValueError, match="must be"):
        member(name, **wrong)
