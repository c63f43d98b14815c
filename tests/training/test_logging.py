"""What a run tells: metrics that a resumed run takes up without repeats, pace, and the end at a NaN."""

import json
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from rag_jax.errors import UserError
from rag_jax.training.logging import NO_PROFILE, Pace, Profile, RunLog, finite, speed

CRC = "c22fd71f"  # zlib.crc32 of the line without it


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_goes_on_after_the_restored_step(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with RunLog(path.parent) as log:
        for step in range(10):
            log.write(step, {"stage": "joint", "loss": step / 4})
    with path.open("a") as file:
        file.write('{"step": 10, "lo')  # a kill in the middle of a line
    with RunLog(path.parent, resume_at=6) as log:
        assert steps(path) == [0, 1, 2, 3, 4, 5]
        log.write(6, {"loss": 9.0})
        assert steps(path) == [0, 1, 2, 3, 4, 5, 6]  # to be read while the run goes on
    assert json.loads(path.read_text().splitlines()[3]) == {"step": 3, "stage": "joint", "loss": 0.75, "crc": CRC}


def test_a_fresh_run_starts_an_empty_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with RunLog(tmp_path):
        assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_evaluations_are_kept_up_to_the_restored_step(tmp_path, capsys):
    """A damaged one is named, and left out."""
    path, records = tmp_path / "validation.jsonl", []
    with RunLog(tmp_path) as log:
        for step in range(41):
            log.write(step, {"loss": 1.25})
            if step in (10, 20, 30, 40):
                log.score(step, "joint", "EM", step / 100)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"0.2", b"0.9"), *lines[2:], b'{"step": 50, "st']))
    with RunLog(tmp_path, resume_at=30) as log:
        log.score(35, "joint", "EM", 0.5)
        records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["step"], record["value"]) for record in records] == [(10, 0.1), (30, 0.3), (35, 0.5)]
    assert {(record["stage"], record["measure"]) for record in records} == {("joint", "EM")}
    assert capsys.readouterr().err.splitlines() == [f"warning: {path}:{n}: damaged; left out" for n in (2, 5)]


def test_an_evaluation_that_will_be_done_again_is_cut_off(tmp_path):
    """Killed when its score was written, and not yet in the checkpoint."""
    path = tmp_path / "validation.jsonl"
    with RunLog(tmp_path) as log:
        for step in (10, 20):
            log.score(step, "joint", "EM", step / 100)
    for unscored, kept in ((False, [10, 20]), (True, [10])):
        with RunLog(tmp_path, resume_at=20, unscored=unscored):
            assert steps(path) == kept


def test_the_live_line_is_for_a_terminal_and_makes_way_for_lines_that_stay(tmp_path, capsys, monkeypatch):
    with RunLog(tmp_path) as log:
        log.live("unseen")
        log.say("stays")
        assert capsys.readouterr() == ("stays\n", "")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        log.live("a long line")
        log.live("short")
        assert capsys.readouterr().err == "\ra long line\rshort      "
        log.say("stays")
        assert capsys.readouterr() == ("stays\n", "\n")


def test_in_a_log_file_a_line_comes_where_nothing_was_said_for_a_minute(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with RunLog(tmp_path) as log:
        for step, seconds in enumerate((59, 2, 58, 1)):  # at 59, 61, 119, 120
            now[0] += seconds
            log.live(f"step {step}")
            log.say("saved") if step == 2 else None
    assert capsys.readouterr() == ("step 1\nsaved\n", "")


def test_pace_counts_from_where_it_was_made():
    pace = Pace(first=20, steps=100, batch=8)
    pace._began -= 50
    pace.waited = 10
    metrics = pace.metrics(step=40)  # 20 steps in 50 seconds
    assert metrics["questions_per_second"] == pytest.approx(20 * 8 / 50, rel=0.05)
    assert metrics["retrieval_wait"] == pytest.approx(0.2, rel=0.05)
    assert metrics["eta_seconds"] == pytest.approx(60 * 50 / 20, rel=0.05)
    assert speed(metrics | {"eta_seconds": 150}) == "3.2 q/s ETA 2 minutes"
    assert pace.metrics(step=100)["eta_seconds"] == 0
    assert time.monotonic() - pace._began >= 50


def test_the_devices_wait_from_the_end_of_a_step_until_the_next_batch():
    pace, outcome = Pace(first=0, steps=10, batch=8), jnp.zeros(1)
    pace.dispatched(outcome)
    time.sleep(0.3)
    pace.prepared()
    assert 0.1 < pace.waited < 0.3 + 0.2
    waited, busy = pace.waited, threading.Event()
    pace._over = pace._watcher.submit(lambda: (busy.wait(), time.monotonic())[1])  # a step that is not over
    pace.prepared()
    busy.set()
    assert pace.waited == waited


def test_metrics_become_numbers(tmp_path):
    found = finite("joint", 3, {"loss": jnp.float32(0.5), "hits": jnp.int32(2)}, tmp_path, None)
    assert found == {"loss": 0.5, "hits": 2.0} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(value, tmp_path):
    metrics, told = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(value)}, lambda step: [{"id": f"q{step}"}]
    with pytest.raises(UserError, match=r"^joint step 12: .*not finite.*nan|inf.*lower joint\.learning_rate") as error:
        finite("joint", 12, metrics, tmp_path, told)
    assert "the last checkpoint is intact" in str(error.value) and "\n" not in str(error.value)
    assert f"what the step learned from is in {tmp_path / 'not_finite.jsonl'}" in str(error.value)
    assert (tmp_path / "not_finite.jsonl").read_text() == '{"id": "q12"}\n'


def test_what_a_step_learned_from_repeats_no_id(tmp_path):
    """As no file of questions may: a question comes with each of its answers."""
    told = [{"id": name, "answer": answer} for name, answer in zip("aba", "xyz", strict=True)]
    with pytest.raises(UserError):
        finite("joint", 12, {"loss": jnp.float32(jnp.nan)}, tmp_path, lambda step: told)
    kept = [json.loads(line) for line in (tmp_path / "not_finite.jsonl").read_text().splitlines()]
    assert kept == [*told[:2], {"id": "a (2)", "answer": "z"}]


def test_the_steps_asked_for_are_profiled_and_no_others(tmp_path, capsys):
    profile = Profile(tmp_path / "profile", 1, 2)
    for step in range(5):
        profile.at(step)
        NO_PROFILE.at(step)
        jax.block_until_ready(jnp.arange(4) + step)
    assert capsys.readouterr().out == f"{tmp_path / 'profile'}: steps 1 to 2 as jax.profiler saw them\n"
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_a_silent_log_leaves_no_trace(tmp_path, capsys):
    with RunLog(tmp_path / "run", silent=True) as log:
        log.write(0, {"loss": 1.0})
        log.score(1, "joint", "EM", 0.5)
        log.say("a line")
        log.live("a line")
    assert not (tmp_path / "run").exists() and capsys.readouterr().out == ""


def test_a_trace_ends_with_the_run(tmp_path, capsys):
    with Profile(tmp_path / "profile", 1, 20) as profile:
        for step in range(3):
            profile.at(step)
            jax.block_until_ready(jnp.arange(4) + step)
    assert "as jax.profiler saw them" in capsys.readouterr().out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_damaged_lines_of_metrics_are_named(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path) as log:
        for step in range(5):
            log.write(step, {"loss": 1.25})
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[1].replace(b"1.25", b"1.35"), lines[2].replace(b"1.25", b"1.5")
    path.write_bytes(b"".join(lines))
    with RunLog(tmp_path, resume_at=4):
        pass
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {path}:{number}: damaged; expected the numbers of step {number - 1}" for number in (2, 3)
    ]
    assert path.read_bytes() == b"".join(lines[:4])


def test_lines_that_are_missing_are_named_and_none_is_doubled(tmp_path, capsys):
    """As where the file was put back from an older copy, or its end lost with the power."""
    path = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path) as log:
        for step in range(5):
            log.write(step, {"loss": 1.25})
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    for resume_at, expected in ((5, [0, 1, 2]), (7, [0, 1, 2, 5, 6]), (7, [0, 1, 2, 5, 6])):
        with RunLog(tmp_path, resume_at=resume_at) as log:
            assert steps(path) == expected
            for step in range(resume_at, 9):
                log.write(step, {"loss": 1.25})
        assert f"warning: {path}: the numbers of 2 steps from 3 on are missing" in capsys.readouterr().err
    path.unlink()
    with RunLog(tmp_path, resume_at=4):
        assert "the numbers of 4 steps from 0 on are missing" in capsys.readouterr().err


def test_a_last_line_that_was_cut_takes_no_other_with_it(tmp_path, capsys):
    """As by a full disk, or a machine that went down: by its end alone, or by more; in both files."""
    for cut in (1, 9):
        folder = tmp_path / str(cut)
        with RunLog(folder) as log:
            for step in range(2):
                log.write(step, {"loss": 1.25})
            log.score(1, "joint", "EM", 0.5)
        for path in folder.glob("*.jsonl"):
            path.write_bytes(path.read_bytes()[:-cut])
        with RunLog(folder, resume_at=2) as log:
            log.write(2, {"loss": 1.5})
            log.score(2, "joint", "EM", 0.75)
        capsys.readouterr()
        with RunLog(folder, resume_at=3):
            found = (folder / "metrics.jsonl").read_bytes().splitlines()
        assert len(found) == 3 and json.loads(found[2])["step"] == 2
        assert capsys.readouterr().err.count("damaged") == (cut > 1)
        scores = [json.loads(line)["value"] for line in (folder / "validation.jsonl").read_text().splitlines()]
        assert scores == ([0.5, 0.75] if cut == 1 else [0.75])
