"""What makes a comparison unfair, or a mean narrower than it looks: one line for each, beside every table and every plot of it. No JAX."""

from collections import defaultdict
from collections.abc import Iterable

from dlm.reports import scores
from dlm.reports.groups import Group
from dlm.reports.record import Record
from dlm.reports.scores import BASELINES, UNKNOWN

_FACETS = dict(
    text="scored on different text",
    judge="judged by different models",
    task="asked different tasks",
)
_TOLD_APART = (".judge", "evals.bound.windows")  # settings that have lines of their own


def warnings(groups: list[Group]) -> list[str]:
    """Everything that is to be said about these models' tables."""
    runs = [(g.label, r) for g in groups for r in g.records]
    found = [
        *different(groups),
        *_windows(runs),
        *_settings(runs),
        *(line for g in groups for line in _left_out(g)),
    ]
    for label, record in runs:
        found += _run(label, record)
    if len(versions := {r.commit: r.code(12) for _, r in runs}) > 1:
        found.append(
            f"the runs are of {len(versions)} versions of the code ({', '.join(sorted(versions.values()))})"
        )
    return found + _unknown(runs)


def different(groups: list[Group], names: Iterable[str] = ()) -> list[str]:
    """A line for what was measured on different text, by different judges or with different tasks, naming the runs: of all scores, or of
    those of these names alone."""
    runs = [(g.label, r) for g in groups for r in g.records]
    wanted = set(names) or {name for _, r in runs for name in r.scores}
    found = _different(runs, wanted, "text")
    for name in sorted(wanted):
        found += [
            f"{name}: {line}"
            for facet in ("judge", "task")
            for line in _different(runs, {name}, facet)
        ]
    return found


def _different(runs: list[tuple[str, Record]], names: set[str], facet: str) -> list[str]:
    places: dict[tuple[str, str], list[tuple[str, Record]]] = defaultdict(list)
    for label, record in runs:
        for place in dict.fromkeys(
            _measured(record, name, facet) for name in sorted(names & record.scores.keys())
        ):
            if any(place):
                places[place].append((label, record))
    if any(
        digest for digest, _ in places
    ):  # where a hash is known of some, a name alone tells nothing
        places = {place: there for place, there in places.items() if place[0]}
    if len({digest or title for digest, title in places}) < 2:
        return []
    parts = sorted(f"{title}: {_named(there, runs)}" for (_, title), there in places.items())
    return [f"{_FACETS[facet]} ({' | '.join(parts)}): these scores do not compare"]


def _measured(record: Record, name: str, facet: str) -> tuple[str, str]:
    """(what tells the text, judge or task of a score apart, what it is called): ('', title) where only that is known, ('', '') where it
    has none."""
    score = record.scores[name]
    known = score.get(facet) or {}
    if facet == "text" and facet not in score and name in ("bits_per_byte", *BASELINES):
        size = record.scores.get(
            "held_out_bytes"
        )  # all that an earlier version tells of the text itself
        return "", f"{record.text_of(score)}" + (
            f", {scores.value(size):,.0f} bytes" if size else ""
        )
    if not known:
        return "", ""
    titles = dict(
        text=f"{record.text_of(score)}, {scores.text(score)}",
        judge=f"{known.get('dir')} at step {known.get('step')}, config {str(known.get('config'))[:8]}",
        task=f"{known.get('rows')} rows, {str(known.get('sha256'))[:8]}",
    )
    return scores.identity(score)[facet], titles[facet]


def _named(there: list[tuple[str, Record]], runs: list[tuple[str, Record]]) -> str:
    """The models all of whose runs are there, and the directories of others' runs."""
    names: dict[str, None] = {}
    for label, record in there:
        whole = sum(
            one == label for one, _ in dict.fromkeys((one, r.workdir) for one, r in there)
        ) == sum(one == label for one, _ in runs)
        names[label if whole else str(record.workdir)] = None
    return ", ".join(names)


def _windows(runs: list[tuple[str, Record]]) -> list[str]:
    windows = {
        r.scores["bits_per_byte"].get("settings", {}).get("windows", 0)
        for _, r in runs
        if "bits_per_byte" in r.scores
    }
    if not windows - {0} or (
        len(windows) == 1 and not any(n in r.scores for _, r in runs for n in BASELINES)
    ):
        return []
    told = ", ".join(f"{n} windows" if n else "all" for n in sorted(windows))
    return [f"bits per byte are of {told} of the held-out text, gzip, xz and order-0 of all of it"]


def _settings(runs: list[tuple[str, Record]]) -> list[str]:
    """Settings of one evaluator that are not the same for all models."""
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for label, record in runs:
        for score in record.scores.values():
            for field, value in scores.flattened(
                score.get("settings") or {}, f"evals.{score.get('eval', '?')}"
            ).items():
                if not field.endswith(_TOLD_APART):
                    found[field][str(value)][label] = None
    told = {
        field: [f"{value} ({', '.join(labels)})" for value, labels in values.items()]
        for field, values in found.items()
    }
    return [
        f"{field} is not the same: {' | '.join(values)}"
        for field, values in told.items()
        if len(values) > 1
    ]


def _left_out(group: Group) -> list[str]:
    """Which runs of a model are left out of which means, and why."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for r in group.records for name in r.scores):
        for record, facets in group.apart(name):
            found[str(record.workdir), f"measured otherwise ({', '.join(facets)})"].append(name)
        for record in group.records:
            if (
                record.scores
                and name not in record.scores
                and name not in (*BASELINES, "held_out_bytes")
            ):
                found[str(record.workdir), "missing"].append(name)
    return [
        f"{group.label}: {workdir} is not in the mean of {', '.join(names)}, {why}"
        for (workdir, why), names in found.items()
    ]


def _only_tasks(record: Record) -> bool:
    """Whether the config's evaluators leave likelihoods out, and have scored the run."""
    return bool(record.scores) and "bound" not in record.config.get("evals", ("bound",))


def _run(label: str, record: Record) -> list[str]:
    """What is to be said of one run alone."""
    found = []
    if not all(scores.finite(score) for score in record.scores.values()):
        found.append(
            f"{label} has scores that are not finite ({record.workdir}): they are in the table alone, and so are their means"
        )
    score, last = record.scores.get("bits_per_byte"), record.updates
    if score is None and not _only_tasks(record):
        found.append(
            f"{label} has no held-out score: python -m dlm.evaluate --workdir={record.workdir}"
        )
    elif score is not None and score.get("step", last) != last:
        found.append(
            f"{label} was scored at step {score['step']}, but trained to step {last} ({record.workdir})"
        )
    if changed := {
        score["accepted_data"] for score in record.scores.values() if score.get("accepted_data")
    }:
        found.append(
            f"{label} was scored after its {' and '.join(sorted(changed))} text had changed ({record.workdir})"
        )
    return found


def _unknown(runs: list[tuple[str, Record]]) -> list[str]:
    """What rows of an earlier version do not say."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for _, record in runs:
        for score in record.scores.values():
            for facet, value in scores.identity(score).items():
                if value == UNKNOWN:
                    found[str(record.workdir)][facet] = None
    facets = dict.fromkeys(facet for each in found.values() for facet in each)
    return (
        [f"an earlier version scored {', '.join(found)}, and did not record: {', '.join(facets)}"]
        if found
        else []
    )
