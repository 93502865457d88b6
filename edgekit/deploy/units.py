"""systemd units: an app that follows a model, and a deployment that nobody at a desk has to wait for.

An app is restarted when its engine dies or hangs, and what ended it is told to the trial that may be under way
(`edgekit.store.faults`), so that the version before is back when it starts again. A trial under way when the power went
is nobody's: whoever starts next, the app or a deployment, returns to the version before, so that no unit of its own is
needed for that. Every directive stands in systemd.service(5); `systemd-analyze verify` has nothing to say of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Template

from edgekit.errors import UsageError
from edgekit.store.places import checked

_APP = Template("""\
[Unit]
Description=$name, a model deployed by EdgeKit
StartLimitIntervalSec=600
StartLimitBurst=20

[Service]
Type=notify
NotifyAccess=all
User=$user
${environment}ExecStart=$command
# What ended the app, for the trial of a new version that may be under way.
ExecStopPost=-$python -m edgekit.store.faults $name
WatchdogSec=$watchdog
Restart=on-failure
RestartSec=2
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
""")
_TRIAL = Template("""\
[Unit]
Description=Deployment of %i by EdgeKit, and its trial
RequiresMountsFor=$inbox

[Service]
Type=oneshot
User=$user
${environment}ExecStart=$python -m edgekit deploy $inbox/%i local --name %i --wait 60 --trial $seconds
# The trial, and what may come before and after it.
TimeoutStartSec=$timeout
NoNewPrivileges=yes
""")
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_SLACK = 900
"""Seconds for receiving, testing and waiting for others beside the trial."""


def app(
    name: str, command: Sequence[str], *, python: str, user: str, store: str | None = None, watchdog: float = 30.0
) -> str:
    """The unit of an app that opens a named model by `edgekit.watch` and tells systemd that it lives.

    Args:
        name: The model's.
        command: Of the app; the program by its absolute path.
        python: Of an environment with EdgeKit, on the device.
        user: Who runs it: the owner of the folder of models, so that faults can be told there.
        store: The folder of all models; None for the user's own.
        watchdog: Seconds that may pass between two beats.

    Raises:
        UsageError: `unit-invalid`, `model-name`.
    """
    if not command:
        raise UsageError("unit-invalid", "the command of the app is missing")
    if not watchdog > 0:
        raise UsageError("unit-invalid", f"a watchdog of {watchdog:g} s ends everything")
    words = " ".join([_program(command[0]), *(_word(word) for word in command[1:])])
    return _APP.substitute(
        name=checked(name), command=words, python=_program(python), user=_user(user), environment=_environment(store),
        watchdog=f"{watchdog:g}",
    )  # fmt: skip


def trial(*, python: str, user: str, inbox: str, store: str | None = None, seconds: float = 60.0) -> str:
    """The template `edgekit-deploy@.service`: deploys `INBOX/NAME` as NAME and supervises its trial on the device.

    Raises:
        UsageError: `unit-invalid`.
    """
    if not seconds > 0:
        raise UsageError("unit-invalid", f"a trial of {seconds:g} s proves nothing")
    return _TRIAL.substitute(
        inbox=_folder(inbox), python=_program(python), user=_user(user), environment=_environment(store),
        seconds=f"{seconds:g}", timeout=f"{seconds + _SLACK:g}",
    )  # fmt: skip


def _environment(store: str | None) -> str:
    return "" if store is None else f"Environment=EDGEKIT_STORE={_folder(store)}\n"


def _folder(path: str) -> str:
    """Stands where systemd takes no quotes, in part of a word."""
    if not (path.startswith("/") and _PLAIN.match(path)):
        raise UsageError("unit-invalid", f"{path!r} is no absolute path that a unit can name")
    return path.rstrip("/")


def _program(path: str) -> str:
    if not path.startswith("/"):
        raise UsageError("unit-invalid", f"{path!r} is no absolute path: systemd starts nothing else")
    return _word(path)


def _user(name: str) -> str:
    if not _USER.match(name):
        raise UsageError("unit-invalid", f"{name!r} is no name of a user")
    return name


def _word(text: str) -> str:
    """One word of a command line, as systemd.syntax(7) has it: no specifier and no variable is meant."""
    if _PLAIN.match(text):
        return text
    if not text.isprintable():
        raise UsageError("unit-invalid", f"{text!r} cannot stand in a unit")
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{quoted}"'
