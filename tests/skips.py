"""A skipped test fails the run, unless it is listed here with its reason.

Loaded by launch/test.sh with `-p tests.skips`.
"""

_PHONE = "test_a_phone_shows_the_page_without_scrolling_sideways"

# 'tests/room/test_file.py::test_name' (or the file, for a skipped module) → why it may be skipped
ALLOWED: dict[str, str] = {
    f"tests/reports/test_summary.py::{_PHONE}": "needs Chromium, which pip cannot install",
    "tests/test_readme.py::test_the_site_builds_without_a_warning": "needs requirements-docs.txt",
}

_skipped: dict[str, str] = {}


def _note(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        name = report.nodeid.partition("[")[0]
        if report.nodeid not in ALLOWED and name not in ALLOWED:
            _skipped[report.nodeid] = (
                report.longrepr[2]
                if isinstance(report.longrepr, tuple)
                else str(report.longrepr)
            )


def pytest_runtest_logreport(report):
    _note(report)


def pytest_collectreport(report):
    _note(report)


def pytest_sessionfinish(session, exitstatus):
    if _skipped and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    for nodeid, reason in sorted(_skipped.items()):
        terminalreporter.write_line(
            f"SKIPPED WITHOUT LEAVE {nodeid}: {reason} (list it in tests/skips.py "
            "with its reason, or run it)"
        )
