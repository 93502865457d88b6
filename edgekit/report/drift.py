"""The page of `edgekit drift report`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

from edgekit.monitor.estimate import labels_for
from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, number, plot, section, table

_COLORS = (plots.ONE, plots.TWO, plots.GOOD, plots.BAD, plots.SOFT, plots.INK)
_STYLES = ("-", "--", ":")
_DRAWN = 12
"""Boards in one drawing, those with alarms before others; more are told by the table."""
_NAMED = 5
"""Boards that the first line names."""
_CLASSES = 12
_ALARMS = 200
_MOVED = 0.3
"""Deviations from which on a shift is told."""
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
_WRONG = {"estimate": "estimate", "low": "high", "high": "low"}
"""Of the share of wrong answers: which end of that of right ones it follows from."""


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections."""
    boards, alarms = document["boards"], document["alarms"]
    title = f"{document['name']}: drift on {len(boards)} board{'s' if len(boards) != 1 else ''}"
    struck = [board for board in boards if board["alarms"]]
    verdict = _verdict(boards, struck)
    key = [
        ("samples seen", figure(document, "seen")),
        ("captured", figure(document, "samples")),
        ("labelled", figure(document, "labelled")),
    ]
    if document["accuracy"]:
        low, high = (number(document["accuracy"][edge], 3) for edge in ("low", "high"))
        key += [
            ("right answers, estimated", figure(document, "accuracy.estimate", 3)),
            ("95 % interval", f"{low} to {high}"),
        ]
    parts = [head(title, verdict, "", good=not struck), cards(key)]
    if alarms:
        parts.append(section("Alarms", _alarms(alarms)))
    parts += _over_time(boards)
    parts += [section("Boards", _boards(boards)), *_watched(boards), *_classes(boards), *_strata(document)]
    return title, parts


def _verdict(boards: list[dict[str, Any]], struck: list[dict[str, Any]]) -> str:
    """Which boards raised alarms, and where some stand."""
    if not struck:
        return "No board raised an alarm."
    standing = [board["called"] for board in struck if (board["monitor"] or {}).get("alarms")]
    now = f"; they stand on {', '.join(standing[:_NAMED])}" if standing else ""
    more = f" and {len(standing) - _NAMED} more" if len(standing) > _NAMED else ""
    return f"{len(struck)} of {len(boards)} boards raised alarms{now}{more}."


def _alarms(alarms: list[dict[str, Any]]) -> str:
    """The latest first; as lines, because their words are long and phones are narrow."""
    return notes(f"{_when(one['at'])}, {one['board']}: {one['message']}" for one in reversed(alarms[-_ALARMS:]))


def _over_time(boards: list[dict[str, Any]]) -> list[str]:
    drawn = [board for board in boards if len(board["series"]) > 1][:_DRAWN]
    if not drawn:
        return []
    timed = all(point["at"] is not None for board in drawn for point in board["series"])
    start = min((point["at"] for board in drawn for point in board["series"]), default=0.0) if timed else 0.0
    found = []
    for field, name, about in (
        ("ood", "Unlike the training data", "mean score; one in a hundred usual samples passes 1"),
        ("uncertainty", "Uncertainty", "mean; 0 is sure"),
        ("wrong", "Wrong answers, estimated", "by the board's monitor, without labels; in percent, with its band"),
    ):
        if not any(_value(point, field) for board in drawn for point in board["series"]):
            continue
        last = max(drawn, key=lambda board: _value(_end(board), field) or 0.0)
        caption = f"{name}, {about}. The highest at the end is {_at_last(last, field)}, on {last['called']}."
        if len(drawn) < len(boards):
            caption += f" Drawn are {len(drawn)} of {len(boards)} boards, those with alarms first."
        drawing = plots.draw(f"drift-{field}", 3.0, _lines(drawn, field, name, start if timed else None), caption)
        found.append(section(name, plot(caption, drawing)))
    return found


def _end(board: dict[str, Any]) -> dict[str, Any]:
    """The last moment that is about as many samples as others: an app that ends tells of the few since."""
    series: list[dict[str, Any]] = board["series"]
    usual = sorted(point["seen"] for point in series)[len(series) // 2]
    return next(point for point in reversed(series) if 2 * point["seen"] >= usual)


def _at_last(board: dict[str, Any], field: str) -> str:
    """What is drawn, of a board's last moment, in words."""
    point = _end(board)
    if field == "wrong" and (accuracy := (point["monitor"] or {}).get("accuracy")):
        return _told({**accuracy, **{name: 1 - accuracy[end] for name, end in _WRONG.items()}})
    return number(_value(point, field) or 0.0, 3)


def _lines(boards: Sequence[dict[str, Any]], field: str, name: str, start: float | None) -> Any:
    span = 0.0 if start is None else max(point["at"] for board in boards for point in board["series"]) - start
    unit, seconds = next((one for one in _UNITS if span >= 2 * one[1]), _UNITS[-1])

    def paint(axes: Any) -> None:
        looks = cycle([(color, style) for style in _STYLES for color in _COLORS])
        for board, (color, style) in zip(boards, looks, strict=False):
            points = board["series"]
            at = [point["until"] if start is None else (point["at"] - start) / seconds for point in points]
            values = [float("nan") if (one := _value(point, field)) is None else one for point in points]
            axes.plot(at, values, style, color=color, linewidth=1.6, label=plots.short(board["called"], 28))
            if field == "wrong":
                axes.fill_between(at, *zip(*map(_band, points), strict=True), color=color, alpha=0.15, linewidth=0)
            before = [None, *(point["at"] for point in points)]
            told = [a for low, point, a in zip(before, points, at, strict=False) if _alarmed(board, low, point["at"])]
            axes.plot(told, [axes.get_ylim()[0]] * len(told), "^", color=plots.BAD, markersize=5, clip_on=False)
        axes.set_xlabel("samples seen" if start is None else f"{unit} since {_when(start)}")
        axes.set_ylabel(name.lower())
        axes.grid(visible=True, axis="y")
        axes.legend(loc="best", labelcolor=plots.INK, fontsize=9)

    return paint


def _value(point: dict[str, Any], field: str) -> float | None:
    """What is drawn of a moment."""
    if field != "wrong":
        value: float | None = point[field]
        return value
    accuracy = (point["monitor"] or {}).get("accuracy")
    return 100 * (1 - accuracy["estimate"]) if accuracy else None


def _band(point: dict[str, Any]) -> tuple[float, float]:
    """Between what the share of wrong answers lies, in percent."""
    accuracy = (point["monitor"] or {}).get("accuracy")
    return (100 * (1 - accuracy["high"]), 100 * (1 - accuracy["low"])) if accuracy else (float("nan"), float("nan"))


def _alarmed(board: dict[str, Any], low: float | None, high: float | None) -> bool:
    """Whether an alarm was raised between two moments; before the second where there is no first."""
    times = [alarm["at"] for alarm in board["alarms"] if alarm["at"] is not None]
    return high is not None and any((low is None or low < at) and at <= high for at in times)


def _boards(boards: list[dict[str, Any]]) -> str:
    rows = [
        (
            board["called"],
            board["seen"],
            board["captures"],
            len(board["alarms"]),
            ", ".join(version[:8] for version in board["versions"]),
            f"{_when(board['first'])} to {_when(board['last'])}" if board["first"] is not None else "clock not set",
        )
        for board in boards
    ]
    return table(("board", "seen", "captured", "alarms", "versions", "from, to"), rows)


def _watched(boards: list[dict[str, Any]]) -> list[str]:
    """The last snapshot of each board's monitor."""
    rows, said = [], []
    for board in boards:
        told = board["monitor"]
        if told is None:
            continue
        if words := _advised(told):
            said.append(f"{board['called']}: {words}")
        right = told["accuracy"] and _told(told["accuracy"])
        moved = ", ".join(f"{where} {shift:+.2f}" for where, shift in told["moved"].items() if abs(shift) >= _MOVED)
        standing = ", ".join(alarm["kind"] for alarm in told["alarms"])
        rows.append(
            (board["called"], _when(told["at"]), told["samples"], standing or "none", right, moved or "nothing")
        )
    heads = ("board", "told", "samples", "alarms that stand", "right, % (interval)", "moved, in deviations")
    return [section("What the monitors say", table(heads, rows), notes(said))] if rows else []


def _advised(told: dict[str, Any]) -> str | None:
    """What to do where a board does not tell its accuracy; None where it does."""
    accuracy = told["accuracy"]
    if accuracy is None:
        why: str | None = told.get("unestimated")  # boards of a version before do not say
        return why
    if accuracy.get("answered", True):
        return None
    return (
        "the accuracy cannot be told to a few points. With labels of about "
        f"{labels_for(accuracy['low'], accuracy['high'])} samples of the random stratum this page tells it to 3 points."
    )


def _told(accuracy: dict[str, Any]) -> str:
    """A share in percent; where a board cannot tell it, between what it lies."""
    estimate, low, high = (number(100 * accuracy[name], 3) for name in ("estimate", "low", "high"))
    # Boards of a version before do not say whether they can.
    return f"{estimate} ({low} to {high})" if accuracy.get("answered", True) else f"{low} to {high}"


def _classes(boards: list[dict[str, Any]]) -> list[str]:
    """What each board answers, in percent; the most frequent classes of all."""
    total: dict[str, int] = {}
    for board in boards:
        for name, count in board["classes"].items():
            total[name] = total.get(name, 0) + count
    names = sorted(total, key=lambda name: (-total[name], name))[:_CLASSES]
    if not names:
        return []
    rows = []
    for board in boards:
        whole = sum(board["classes"].values()) or 1
        shares = (f"{name} {number(100 * board['classes'].get(name, 0) / whole, 3)}" for name in names)
        rows.append((board["called"], ", ".join(shares)))
    return [section("Answers, in percent", table(("board", "answers"), rows))]


def _strata(document: dict[str, Any]) -> list[str]:
    rows = [
        (row["stratum"], row["samples"], row["labelled"], None if row["wrong"] is None else 100 * row["wrong"])
        for row in document["strata"]
    ]
    if not rows:
        return []
    return [section("How samples were drawn", table(("stratum", "samples", "labelled", "wrong, %"), rows))]


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
