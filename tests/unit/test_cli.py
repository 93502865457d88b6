"""The command line: exit codes, one JSON document, help with examples. Engines are not needed here."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgekit import cli, errors
from edgekit.cli import output


def invoke(capsys, *args: str) -> tuple[int, str, str]:
    code = cli.run(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def commands() -> list[str]:
    return cli.cli.list_commands(click.Context(cli.cli))


def test_the_commands_are_these():
    assert commands() == [
        "bench", "check", "collect", "convert", "debug", "deploy", "devices", "doctor", "drift", "emulator",
        "evaluate", "explain", "history", "inspect", "keys", "profile", "prune", "rollback", "run", "serve",
        "status", "target", "tune", "unit", "verify",
    ]  # fmt: skip


@pytest.mark.parametrize("name", commands())
def test_help_has_an_example(name, capsys):
    code, out, _ = invoke(capsys, name, "--help")
    assert code == 0
    assert f"edgekit {name}" in out or name in ("devices", "emulator", "target")
    assert "Usage: edgekit" in out


def test_no_arguments_show_the_help(capsys):
    code, out, err = invoke(capsys)
    assert code == 2
    assert "convert" in out + err


def test_usage_errors_exit_2_with_a_hint(capsys):
    code, out, err = invoke(capsys, "convert")
    assert (code, out) == (2, "")
    assert "Missing argument" in err
    assert "edgekit convert --help" in err
    code, _, err = invoke(capsys, "frobnicate")
    assert code == 2
    assert "frobnicate" in err


def test_a_failure_with_json_is_one_document(capsys):
    code, out, err = invoke(capsys, "convert", "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert {"code", "message", "cause", "next_step"} <= set(error)
    assert error["code"] == "usage"
    assert err == ""


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.UsageError, 2), (errors.DataError, 3), (errors.WorkerError, 4), (errors.VerificationError, 5),
     (errors.LimitError, 6), (errors.EngineMissingError, 7), (errors.TargetError, 8), (errors.InternalError, 70)],
)  # fmt: skip
def test_every_class_has_its_exit_code(kind, code, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise kind("file-missing", "told", next_step="do this")

    monkeypatch.setattr("edgekit.errors.explanations", refuse)
    monkeypatch.setattr("edgekit.cli.cmd_explain.explanations", refuse)
    monkeypatch.setattr("edgekit.errors._catalogued", lambda *_: "")
    got, out, err = invoke(capsys, "explain")
    assert (got, out) == (code, "")
    assert "error: told" in err
    assert "next: do this" in err
    assert "Traceback" not in err


def test_a_bug_in_a_child_process_is_shown_when_debugging(capsys, monkeypatch):
    def bug() -> None:
        raise errors.InternalError("internal", "KeyError: 'x'", traceback="where the child was")

    monkeypatch.setattr("edgekit.cli.cmd_explain.explanations", bug)
    assert "where the child was" not in invoke(capsys, "explain")[2]
    monkeypatch.setenv("EDGEKIT_DEBUG", "1")
    code, _, err = invoke(capsys, "explain")
    assert code == 70
    assert "where the child was" in err


def test_a_bug_is_70_without_a_traceback_unless_debugging(capsys, monkeypatch):
    def bug() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("edgekit.cli.cmd_explain.explanations", bug)
    code, _, err = invoke(capsys, "explain")
    assert code == 70
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    monkeypatch.setenv("EDGEKIT_DEBUG", "1")
    _, _, err = invoke(capsys, "explain")
    assert "Traceback" in err


def test_explain_knows_all_codes_and_hints_at_near_ones(capsys):
    code, out, _ = invoke(capsys, "explain", "artifact-damaged")
    assert code == 0
    assert "cause" in out
    assert "fix" in out
    code, out, _ = invoke(capsys, "explain", "--json")
    assert {entry["code"] for entry in json.loads(out)["codes"]} == set(errors.explanations())
    code, _, err = invoke(capsys, "explain", "artifact-damged")
    assert code == 2
    assert "artifact-damaged" in err


def test_missing_files_exit_3(capsys, tmp_path):
    for args in (["inspect"], ["check", "--device", "raspberry-pi-4b"], ["verify"], ["bench"]):
        code, out, _ = invoke(capsys, args[0], str(tmp_path / "no.tflite"), *args[1:], "--json")
        assert code == 3, args
        assert json.loads(out)["error"]["code"] == "file-missing"


def test_shapes_of_inputs_are_parsed():
    from edgekit.cli.options import input_sizes

    parse = lambda *values: input_sizes(None, None, values)  # noqa: E731
    assert parse("a=1,N,3", "b:0=[2,?]") == {"a": ((1, None, 3), None), "b:0": ((2, None), None)}
    assert parse("ids=N,16:int64") == {"ids": ((None, 16), "int64")}
    for wrong in ("a", "=1,2", "a=", "a=1,x", "a=1.5", "a=1:", "a=1:long", "a=:int64"):
        with pytest.raises(errors.UsageError) as caught:
            parse(wrong)
        assert caught.value.code == "shape-syntax"


def test_json_has_no_nan(capsys):
    output.document({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": float("-inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_sizes_for_people():
    assert [output.size(n) for n in (0, 999, 87_152, 1_392_846, 3e9, None)] == [
        "0 B", "999 B", "87.2 kB", "1.4 MB", "3.0 GB", "unknown",
    ]  # fmt: skip


def spawn(command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEKIT": f"{sys.executable} -m edgekit"}
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)


def test_a_reader_that_goes_away_is_no_error():
    done = spawn(
        "$EDGEKIT explain | head -1; echo ${PIPESTATUS[0]}; $EDGEKIT explain --json | true; echo ${PIPESTATUS[0]}"
    )
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["0", "0"]
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_full_disk_behind_stdout_is_one_message(form):
    done = spawn(f"$EDGEKIT explain usage {form} > /dev/full")
    assert done.returncode == 2
    assert "cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_other_system_errors_are_ours(capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EBADF, "bad")

    monkeypatch.setattr(output, "table", fail)
    assert invoke(capsys, "explain")[0] == 70


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_interrupt_is_one_line_or_one_document(form, capsys, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(errors, "explanations", interrupt)
    monkeypatch.setattr("edgekit.cli.cmd_explain.explanations", interrupt)
    monkeypatch.setattr(errors, "_catalogued", lambda *_: "")
    code, out, err = invoke(capsys, "explain", *form)
    assert code == 130
    if form:
        assert json.loads(out)["error"]["code"] == "interrupted"
    else:
        assert out == ""
        assert err.lstrip() == "error: interrupted; nothing was written\n  more: edgekit explain interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_says_so_in_one_document(number):
    code = (
        f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_DFL);"  # nohup ignores it, and so would we
        "from edgekit import cli; import edgekit.cli.cmd_explain as command;"
        f"command.explanations = lambda *_: os.kill(os.getpid(), {int(number)});"
        "sys.argv = ['edgekit', 'explain', '--json']; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 128 + number
    assert json.loads(ended.stdout)["error"]["code"] == "interrupted"


def test_names_in_tables_are_never_folded(capsys):
    _, out, _ = invoke(capsys, "devices", "list")
    assert "raspberry-pi-zero-2w-32bit " in out
    assert "raspberry-pi-3b-plus-32bit " in out


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (11827.4, "11827"), (0.01234567, "0.01235"), (585.04, "585")])
def test_figures_for_people_have_no_exponents_where_they_are_large(value, text):
    assert output.number(value) == text


# Commands that write files: what they are called with, where M is a file of any content, and their outputs.
WRITERS = [
    (["bench", "M"], ["-o", "--report"]),
    (["check", "M", "--device", "raspberry-pi-4b"], ["--report"]),
    (["convert", "M", "-o", "NEW.tflite"], ["--report"]),
    (["convert", "no.keras", "--calibration", "M", "--to", "onnx"], ["-o"]),
    (["debug", "no.tflite", "--against", "no.keras", "--data", "M"], ["--report"]),
    (["drift", "report", "M"], ["-o"]),
    (["profile", "M"], ["-o", "--trace", "--report"]),
    (["run", "M", "no.npz"], ["-o"]),
    (["run", "no.tflite", "M"], ["-o"]),
    (["tune", "M", "--eval", "no.npz", "--device", "raspberry-pi-4b"], ["-o", "--report"]),
]


@pytest.mark.parametrize(("call", "option"), [(call, option) for call, options in WRITERS for option in options])
def test_outputs_are_checked_before_the_work(call, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("M").write_bytes(b"mine")
    code, out, _ = invoke(capsys, *call, option, str(tmp_path / "M"), "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "output-is-source")
    code, out, _ = invoke(capsys, *call, option, "nowhere/x", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "output-unwritable")
    assert os.listdir() == ["M"]
    assert Path("M").read_bytes() == b"mine"


def test_a_page_is_not_written_over_the_artifact(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (["convert", "no.keras", "-o", "x.tflite"], ["tune", "no.keras", "--eval", "d.npz", "-o", "x.tflite"]):
        code, out, _ = invoke(capsys, *call, "--report", "./x.tflite", "--json")
        assert (code, json.loads(out)["error"]["code"]) == (2, "output-is-source")
    code, out, _ = invoke(capsys, "devices", "probe", "-o", "nowhere/x.toml", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "output-unwritable")


SHUT = [  # in a folder that may not be searched
    (["inspect", "S/m.tflite"], 3),
    (["convert", "S/m.onnx", "-o", "x.tflite"], 3),
    (["convert", "M", "-o", "S/x.tflite"], 2),
    (["convert", "M", "-o", "x.tflite", "--labels", "S/labels.txt"], 3),
    (["convert", "M", "-o", "x.tflite", "--metadata", "S/about.toml"], 3),
    (["tune", "S/m.onnx", "--eval", "d.npz", "--device", "raspberry-pi-4b"], 3),
    (["serve", "S/models"], 3),
    (["keys", "make", "S/key"], 2),
    (["keys", "secret", "S/key"], 2),
    (["collect", "captures", "-o", "S/dataset"], 2),
    (["drift", "report", "S/dataset", "--json"], 3),
]


@pytest.mark.parametrize(
    ("call", "expected"), SHUT, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_may_not_be_reached_is_no_bug_of_ours(call, expected, capsys, tmp_path, monkeypatch, unprivileged):
    monkeypatch.chdir(tmp_path)
    Path("M").write_bytes(b"mine")
    Path("captures").mkdir()
    Path("S").mkdir(0o000)
    code, out, _ = invoke(capsys, *call, "--json")
    Path("S").chmod(0o700)
    error = json.loads(out)["error"]
    assert code == expected, error
    assert "Permission denied" in error["message"]


@pytest.mark.parametrize("call", [["inspect", "M"], ["verify", "M"], ["convert", "M", "-o", "x.tflite"], ["check", "M",
                         "--device", "raspberry-pi-4b"], ["evaluate", "M", "d.npz"]])  # fmt: skip
def test_a_file_that_may_not_be_read_is_an_input_error(call, capsys, tmp_path, monkeypatch, unprivileged):
    monkeypatch.chdir(tmp_path)
    Path("M").write_bytes(b"mine")
    Path("M").chmod(0)
    code, out, _ = invoke(capsys, *call, "--json")
    # As root, the child process may read it after all.
    expected = "artifact-unknown" if call[0] in ("verify", "evaluate") and os.geteuid() == 0 else "file-unreadable"
    assert (code, json.loads(out)["error"]["code"]) == (3, expected)


@pytest.mark.parametrize("option", [["--time-limit", "0"], ["--time-limit", "nan"], ["--memory-limit", "1"]])
def test_limits_that_start_nothing_are_usage_errors(option, capsys):
    for call in (
        ["debug", "m.tflite", "--against", "m.keras", "--data", "d.npz"],
        ["convert", "m.keras", "-o", "x.tflite"],
    ):
        code, out, _ = invoke(capsys, *call, *option, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (2, "option-value")


def test_a_long_list_of_lifted_operators_is_cut_and_names_each_once():
    from edgekit.cli.cmd_convert import _left_behind

    norms = [f"MUL (norm/{number})" for number in range(40)]
    lifted = [*(f"{op}: float" for op in norms), "ADD (last): int16x8"]
    shown = dict(_left_behind([*norms, "TOPK (best)"], lifted))
    assert shown["float ops"] == "TOPK (best)"
    assert shown["lifted"].count("float") == 8
    assert shown["lifted"].endswith("and 33 more")
    assert _left_behind([], []) == []
