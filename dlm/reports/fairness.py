"""Warnings: all that makes a comparison unfair, or a mean narrower than it looks, one line each.

They are printed beside every table and every plot. No JAX.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from dlm.reports import scores
from dlm.reports.groups import Group, all_records
from dlm.reports.record import Record
from dlm.reports.scores import BASELINES, UNKNOWN

_FACETS = {
    "text": "scored on different text",
    "judge": "judged by different models",
    "task": "asked different tasks",
}
# Settings of an evaluator that have a warning of their own.
_REPORTED_APART = (".judge", "evals.bound.windows")

Lines = list[str]
Names = Iterable[str]
Run = tuple[str, Record]  # the model's label, and one of its runs
Place = tuple[str, str]  # the hash of a text, judge or task, and its title


def warnings(groups: list[Group]) -> list[str]:
    """Returns every warning about these models' tables."""
    runs = _runs(groups)
    lines = different(groups)
    lines += _windows(runs)
    lines += _settings(runs)
    for group in groups:
        lines += _excluded(group)
    for label, record in runs:
        lines += _single(label, record)
    lines += _versions(groups)
    return lines + _unknown(runs)


def different(groups: list[Group], names: Names = ()) -> list[str]:
    """Returns a line for each facet in which scores do not compare, with the runs' names.

    A facet is the text, the judge or the task. Only the scores of `names` are compared, or all.
    """
    runs = _runs(groups)
    chosen = set(names)
    if not chosen:
        for record in all_records(groups):
            chosen |= record.scores.keys()
    lines = _different(runs, chosen, "text")
    # Every score may have another judge, so these are compared one by one.
    for name in sorted(chosen):
        for facet in ("judge", "task"):
            for line in _different(runs, {name}, facet):
                lines.append(f"{name}: {line}")
    return lines


def _runs(groups: list[Group]) -> list[Run]:
    runs = []
    for group in groups:
        for record in group.records:
            runs.append((group.label, record))
    return runs


def _different(runs: list[Run], names: set[str], facet: str) -> Lines:
    """A line where the scores of these names differ in a facet."""
    members: dict[Place, list[Run]] = defaultdict(list)
    for run in runs:
        _, record = run
        common = sorted(names & record.scores.keys())
        places = [_measured(record, name, facet) for name in common]
        # A run is one member of a place, however many of its scores were measured there.
        for place in dict.fromkeys(places):
            if any(place):
                members[place].append(run)

    # Where the hash of some is known, a title alone says nothing.
    if any(digest for digest, _ in members):
        members = {place: scored for place, scored in members.items() if place[0]}
    if len({digest or title for digest, title in members}) < 2:
        return []
    parts = []
    for (_, title), scored in members.items():
        parts.append(f"{title}: {_named(scored, runs)}")
    listed = " | ".join(sorted(parts))
    return [f"{_FACETS[facet]} ({listed}): these scores do not compare"]


def _measured(record: Record, name: str, facet: str) -> Place:
    """(hash, title) of the text, judge or task of a score.

    ('', title) where only the title is known, ('', '') where the score has no such facet.
    """
    score = record.scores[name]
    known = score.get(facet) or {}
    if (
        facet == "text"
        and "text" not in score
        and name in ("bits_per_byte", *BASELINES)
    ):
        return "", _title_of_old_text(record, score)
    if not known:
        return "", ""
    digest = scores.identity(score)[facet]
    if facet == "text":
        return digest, f"{record.text_of(score)}, {scores.text(score)}"
    if facet == "judge":
        config = str(known.get("config"))
        return (
            digest,
            f"{known.get('dir')} at step {known.get('step')}, config {config[:8]}",
        )
    sha256 = str(known.get("sha256"))
    return digest, f"{known.get('rows')} rows, {sha256[:8]}"


def _title_of_old_text(record: Record, score: dict) -> str:
    """The title of a text whose row is of an earlier version, which recorded only its size."""
    title = f"{record.text_of(score)}"
    size = record.scores.get("held_out_bytes")
    if not size:
        return title
    return f"{title}, {scores.value(size):,.0f} bytes"


def _named(members: list[Run], runs: list[Run]) -> str:
    """The models all of whose runs are members; of other models, the directories of the members."""
    labels = [label for label, _ in runs]
    directories = {(label, record.workdir) for label, record in members}
    present = [label for label, _ in directories]
    names: dict[str, None] = {}
    for label, record in members:
        complete = present.count(label) == labels.count(label)
        name = label if complete else str(record.workdir)
        names[name] = None
    return ", ".join(names)


def _windows(runs: list[Run]) -> list[str]:
    """A line where bits per byte are of part of the text, and differ in it or meet a compressor."""
    windows = set()
    compressed = False
    for _, record in runs:
        compressed |= any(name in record.scores for name in BASELINES)
        score = record.scores.get("bits_per_byte")
        if score is not None:
            settings = score.get("settings", {})
            windows.add(settings.get("windows", 0))
    # 0 windows are the whole text, which is what the compressors read.
    if not windows - {0}:
        return []
    # One selection for all models is fair among them, but not beside a compressor.
    if len(windows) == 1 and not compressed:
        return []
    parts = [f"{number} windows" if number else "all" for number in sorted(windows)]
    listed = ", ".join(parts)
    return [
        f"bits per byte are of {listed} of the held-out text, gzip, xz and order-0 of all of it"
    ]


def _settings(runs: list[Run]) -> list[str]:
    """Settings of one evaluator that are not the same for all models."""
    # field → value → the models that have it, in their order
    labels: dict[str, dict[str, dict[str, None]]] = {}
    for label, record in runs:
        for score in record.scores.values():
            section = f"evals.{score.get('eval', '?')}"
            settings = scores.flattened(score.get("settings") or {}, section)
            for field, value in settings.items():
                if not field.endswith(_REPORTED_APART):
                    by_value = labels.setdefault(field, {})
                    by_value.setdefault(str(value), {})[label] = None
    lines = []
    for field, by_value in labels.items():
        if len(by_value) > 1:
            parts = [
                f"{value} ({', '.join(named)})" for value, named in by_value.items()
            ]
            lines.append(f"{field} is not the same: {' | '.join(parts)}")
    return lines


def _excluded(group: Group) -> list[str]:
    """The runs of a model that are excluded from a mean, and why."""
    names_by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in _score_names(group):
        for record, facets in group.apart(name):
            reason = f"measured otherwise ({', '.join(facets)})"
            names_by_reason[str(record.workdir), reason].append(name)
        # A compressor scores the text and not the run, so one run of a model is enough.
        if name in BASELINES or name == "held_out_bytes":
            continue
        for record in group.records:
            if record.scores and name not in record.scores:
                names_by_reason[str(record.workdir), "missing"].append(name)
    lines = []
    for (workdir, reason), names in names_by_reason.items():
        listed = ", ".join(names)
        lines.append(
            f"{group.label}: {workdir} is not in the mean of {listed}, {reason}"
        )
    return lines


def _score_names(group: Group) -> Sequence[str]:
    names: dict[str, None] = {}
    for record in group.records:
        names |= dict.fromkeys(record.scores)
    return list(names)


def _single(label: str, record: Record) -> list[str]:
    """The warnings about one run alone."""
    lines = []
    # JSON has no NaN, so the plots leave these out; a mean over them is NaN as well.
    if not all(map(scores.finite, record.scores.values())):
        lines.append(
            f"{label} has scores that are not finite ({record.workdir}): "
            "they are in the table alone, and so are their means"
        )

    # A score of an earlier checkpoint is worse than the model's own.
    score = record.scores.get("bits_per_byte")
    last = record.updates
    if score is None:
        if not _has_tasks_alone(record):
            command = f"python -m dlm.evaluate --workdir={record.workdir}"
            lines.append(f"{label} has no held-out score: {command}")
    elif score.get("step", last) != last:
        step = score["step"]
        lines.append(
            f"{label} was scored at step {step}, but trained to step {last} ({record.workdir})"
        )

    # --accept_data scores a text that is no longer the one of the training.
    accepted = {score.get("accepted_data") for score in record.scores.values()}
    changed = " and ".join(sorted(filter(None, accepted)))
    if changed:
        lines.append(
            f"{label} was scored after its {changed} text had changed ({record.workdir})"
        )
    return lines


def _has_tasks_alone(record: Record) -> bool:
    """Whether the config's evaluators leave likelihoods out, and have scored the run."""
    return bool(record.scores) and "bound" not in record.config.get("evals", ("bound",))


def _versions(groups: list[Group]) -> list[str]:
    codes = {record.commit: record.code(12) for record in all_records(groups)}
    if len(codes) < 2:
        return []
    listed = ", ".join(sorted(codes.values()))
    return [f"the runs are of {len(codes)} versions of the code ({listed})"]


def _unknown(runs: list[Run]) -> list[str]:
    """A line for the facets that rows of an earlier version lack."""
    facets: dict[str, dict[str, None]] = {}
    for _, record in runs:
        for score in record.scores.values():
            for facet, value in scores.identity(score).items():
                if value == UNKNOWN:
                    workdir = str(record.workdir)
                    facets.setdefault(workdir, {})[facet] = None
    if not facets:
        return []
    missing = dict.fromkeys(facet for lacking in facets.values() for facet in lacking)
    scored = ", ".join(facets)
    return [
        f"an earlier version scored {scored}, and did not record: {', '.join(missing)}"
    ]
