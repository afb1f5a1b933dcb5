"""The jail reports errors inside it and leaves nothing behind, with and without namespaces."""

import fcntl
import importlib.util
import sys
from pathlib import Path

import pytest

from dlm.machine import isolation


@pytest.fixture(scope="module", params=["namespaces", "none"])
def run(request, tmp_path_factory):
    """`jail.run`; also on a kernel that gives no namespaces, where the guard alone keeps order."""
    if request.param == "namespaces":
        return isolation.run
    source = Path(isolation.__file__).read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("jail") / "alone.py"
    changed = source.replace("namespaces = _enter_namespaces(kernel)", "namespaces = 0")
    assert changed != source
    path.write_text(changed, encoding="utf-8")
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("alone", path)
    )
    sys.modules["alone"] = module
    module.__spec__.loader.exec_module(module)
    return module.run


@pytest.mark.parametrize(
    "code, reason, said",
    [
        ("print('fine')", "", "fine\n"),
        ("import sys; print('a'); sys.exit(3)", "exit code 3", "a\n"),
        ("assert 1 == 2", "exit code 1", ""),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "killed by SIGSEGV",
            "",
        ),
        ("while True: pass", "out of time", ""),
        ("while True: print('x' * 999)", "too much output", "x" * 500),
        ("import os\nwhile True: os.fork()", "too many processes", ""),
        ("x = bytearray(10**10)", "exit code 1", ""),
        ("x = []\nwhile True: x.append(bytearray(10**7))", None, ""),
        ("open('big', 'wb').write(bytes(10**7))", "exit code 1", ""),
    ],
)
def test_what_a_program_does_is_told(run, code, reason, said):
    ran = run(
        code,
        seconds=20.0 if reason != "out of time" else 0.3,
        memory=2**28,
        output=500,
        file=10**6,
        processes=8,
    )
    assert ran.ok == (reason == "") and ran.stdout == said
    assert (
        ran.reason == reason
        if reason is not None
        else ran.reason in ("exit code 1", "too much memory")
    )


def test_it_sees_no_environment_no_files_and_no_network(run, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    reply = run(
        "import os, sys; here = os.getcwd(); names = sorted(set(os.environ) - {'LC_CTYPE'})\n"
        "print(names, os.listdir(), sys.path[0] == here, here)"
    )
    listed, _, folder = reply.stdout.strip().rpartition(" ")
    assert listed == "[] ['program.py'] False" and not Path(folder).exists()
    ran = run("import socket; socket.create_connection(('192.0.2.1', 9), 0.2)")
    assert not ran.ok and (not ran.isolated or "unreachable" in ran.stderr)


def test_what_detaches_itself_dies_too(run, tmp_path):
    """It would hold its lock for a minute."""
    lock = tmp_path / "lock"
    lock.touch()
    lock.chmod(0o666)
    code = f"""
import fcntl, os, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = open({str(lock)!r})
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(write, b'held')
        time.sleep(60)
    os._exit(0)
print(os.read(read, 4).decode())
"""
    assert run(code).stdout == "held\n"
    with lock.open() as ours:
        fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_caller_s_streams_and_text_survive_anything(run):
    ran = run(
        "import sys; sys.stdout.buffer.write(b'\\xff\\n')\n"
        "print('é', '\\ud800'.isascii(), file=sys.stderr)"
    )
    assert (ran.ok, ran.stdout, ran.stderr) == (True, "\ufffd\n", "é False\n")
    assert run("def").reason == "exit code 1" and run("x = '\ud800'").ok
