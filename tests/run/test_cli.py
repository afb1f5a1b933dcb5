"""The command line: flags, overrides in both spellings, exit codes."""

import json

import pytest

from dlm.run import cli
from dlm.run.cli import Flag
from dlm.run.spec import UserError

FLAGS = [Flag("workdir", "where", required=True), Flag("num", "how many", default=4, type=int), Flag("json", "print", type=bool)]


def parse(*argv):
    return cli.parse("A command.\n\nMore.", FLAGS, list(argv), ("config", "sampler"))


def test_flags_and_overrides_in_both_spellings():
    args, overrides = parse("--config.a.b=c=d", "--workdir", "x", "--sampler.rule", "confident", "--num=2", "--config.optim.lr", "-1e-3")
    assert (args.workdir, args.num, args.json) == ("x", 2, False)
    assert overrides == [("config.a.b", "c=d"), ("sampler.rule", "confident"), ("config.optim.lr", "-1e-3")]


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--workdr=x", "--workdir=x"], r"unknown argument --workdr \(did you mean '--workdir'\?\)"),
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


def test_emit_and_say(capsys):
    cli.emit(dict(a=1))
    cli.say("for people")
    out, err = capsys.readouterr()
    assert json.loads(out) == dict(a=1) and err == "for people\n"
