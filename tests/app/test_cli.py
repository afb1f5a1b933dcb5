"""The command line: flags, overrides in both spellings, exit codes."""

import errno
import json

import pytest

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import console
from dlm.core.errors import UserError

FLAGS = [
    Flag("workdir", "where", required=True),
    Flag("num", "how many", default=4, type=int),
    Flag("json", "print", type=bool),
]


def parse(*argv):
    return cli.parse("A command.\n\nMore.", FLAGS, list(argv), ("config", "sampler"))


def test_flags_and_overrides_in_both_spellings():
    args, overrides = parse(
        "--config.a.b=c=d",
        "--workdir",
        "x",
        "--sampler.rule",
        "confident",
        "--num=2",
        "--config.optim.lr",
        "-1e-3",
    )
    assert (args.workdir, args.num, args.json) == ("x", 2, False)
    assert overrides == [
        ("config.a.b", "c=d"),
        ("sampler.rule", "confident"),
        ("config.optim.lr", "-1e-3"),
    ]


@pytest.mark.parametrize(
    "argv, said",
    [
        (
            ["--workdr=x", "--workdir=x"],
            r"unknown argument --workdr \(did you mean '--workdir'\?\)",
        ),
        (["--workdir=x", "--num=two"], "invalid int value: 'two'"),
        (["--num=1"], "--workdir"),
        (["--workdir=x", "--config.a"], "--config.a needs a value"),
        (["--workdir=x", "--optim.lr=1"], "unknown argument --optim.lr"),
        (["--work=x"], "--workdir"),
        (["--workdir=x", "stray"], "unknown argument stray"),
    ],
    ids=str,
)
def test_mistakes(argv, said):
    with pytest.raises(UserError, match=said) as error:
        parse(*argv)
    assert "\n" not in str(error.value)


def test_exit_codes(capsys):
    def fail(error):
        def command(argv):
            raise error

        return command

    for command, code, said in [
        (lambda argv: None, 0, ""),
        (fail(UserError("no")), 2, "error: no\n"),
        (fail(KeyboardInterrupt()), 130, "interrupted\n"),
    ]:
        with pytest.raises(SystemExit) as exit:
            cli.main(command, [])
        assert exit.value.code == code and capsys.readouterr().err == said
    with pytest.raises(RuntimeError):
        cli.main(fail(RuntimeError("ours")), [])


@pytest.mark.parametrize(
    "error, code, said",
    [
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/x"),
            2,
            "error: Read-only file system: /runs/x\n",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a"),
            2,
            "error: No such file: a\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            2,
            "error: No space left: the disk; make room and start again\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", "/runs/x"),
            1,
            "error: Input/output error: /runs/x\n",
        ),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_had_is_one_line(error, code, said, capsys):
    """A device that failed may work again: such a run may be started again, unlike a wrong name."""

    def command(argv):
        raise error

    with pytest.raises(SystemExit) as exit:
        cli.main(command, [])
    assert exit.value.code == code and capsys.readouterr().err == said
    with pytest.raises(OSError, match="nameless"):
        cli.main(
            lambda argv: (_ for _ in ()).throw(OSError(errno.EBADF, "nameless")), []
        )


def test_emit_and_say(capsys):
    cli.emit(dict(a=1))
    console.say("for people")
    out, err = capsys.readouterr()
    assert json.loads(out) == dict(a=1) and err == "for people\n"
