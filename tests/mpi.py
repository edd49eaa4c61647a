"""Tests data-parallel training with mpirun: two processes on one machine and on two hosts.

usage: python mpi.py PATH_TO_MICROGPT

The program is a build with `--features mpi`. The hosts are network namespaces, which need root.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[1])
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
# mpirun kills processes this many seconds after SIGTERM, and waits as long if they end sooner. A save on
# a busy machine may take longer than the default of 1.
MPIRUN += ["--mca", "odls_base_sigkill_timeout", "10"]
MODEL = ["--n-embd", "32", "--batch-size", "12", "--block-size", "16", "--threads", "1", "--seed", "3"]


def train(*arguments, processes=0, check=True):
    launcher = [*MPIRUN, "-n", str(processes)] if processes else []
    command = [*launcher, PROGRAM, "train", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if check and run.returncode:
        raise AssertionError(f"{command} exits with {run.returncode}: {run.stderr}")
    return run


def log(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def assert_same_losses(path, expected):
    runs = [log(path), log(expected)]
    assert [[line["step"] for line in run] for run in runs][0] == [line["step"] for line in runs[1]]
    for found, one in zip(*runs):
        assert abs(found["loss"] - one["loss"]) < 1e-5, (found, one)
        assert found["tokens"] == one["tokens"], (found, one)
        if "validation_loss" in one:
            assert abs(found["validation_loss"] - one["validation_loss"]) < 1e-5, (found, one)


def files(directory):
    """The contents of a model's files, by name."""
    paths = pathlib.Path(directory).iterdir()
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.name != ".lock"}


def ours(run):
    """The lines of stderr that microgpt wrote, without those of mpirun."""
    return [line for line in run.stderr.splitlines() if line.startswith("microgpt: ")]


def test_losses_equal_one_process():
    options = [*MODEL, "--steps", "60", "--validation-fraction", "0.1", "--eval-every", "20"]
    options += ["--grad-clip", "1", "--weight-decay", "0.1", "--dropout", "0.1"]
    train(*options, "-o", "one", "--log", "one.log")
    for name in ["two", "again"]:
        run = train(*options, "-o", name, "--log", f"{name}.log", processes=2)
    assert_same_losses("two.log", "one.log")
    assert files("two") == files("again"), "two runs of two processes differ"
    assert sum(line.startswith("model ") for line in run.stderr.splitlines()) == 1, run.stderr
    assert "on      cpu, 2 processes of 1 thread\n" in run.stderr, run.stderr
    assert len(run.stdout.splitlines()) == 20, run.stdout


def test_one_process_of_mpirun_equals_a_run_without_it():
    train(*MODEL, "--steps", "20", "-o", "without")
    train(*MODEL, "--steps", "20", "-o", "with", processes=1)
    assert files("with") == files("without")


def test_three_processes_share_a_batch_of_two():
    options = ["--batch-size", "2", "--threads", "1", "--steps", "20", "-q"]
    train(*options, "-o", "small-one", "--log", "small-one.log")
    train(*options, "-o", "small", "--log", "small.log", processes=3)
    assert_same_losses("small.log", "small-one.log")


def test_resume_and_init_from():
    for processes in [0, 2]:
        name = f"resumed-{processes}"
        train(*MODEL, "--steps", "20", "-o", name, "--validation-fraction", "0.1", processes=processes)
        train("--resume", name, "--steps", "20", "--threads", "1", "--log", f"{name}.log", processes=processes)
        options = ["--init-from", name, "--threads", "1", "--steps", "20"]
        train(*options, "-o", f"tuned-{processes}", "--log", f"tuned-{processes}.log", processes=processes)
    assert_same_losses("resumed-2.log", "resumed-0.log")
    assert_same_losses("tuned-2.log", "tuned-0.log")


def test_error_is_one_line():
    for arguments, message in [
        (["--input", "missing"], "error: cannot read missing"),
        (["--input", "-"], "only one of several processes gets the standard input"),
        (["--lr", "1e30", "--steps", "50"], "training diverges"),
        (["--log", "missing/log"], "cannot write the log"),
        (["--log", "/dev/full", "--steps", "5000"], "cannot write the log /dev/full"),
    ]:
        run = train(*MODEL, "-q", "-o", "failed", "--force", *arguments, processes=2, check=False)
        lines = ours(run)
        assert run.returncode and len(lines) == 1 and message in lines[0], run.stderr


def test_ranks_that_differ():
    pathlib.Path("a.txt").write_text("abc\ncab\nbca\n" * 20)
    pathlib.Path("b.txt").write_text("acb\ncba\nbac\n" * 20)
    for text, message in [
        ("missing", "error: rank 1 of 2: cannot read missing"),
        ("b.txt", "the 2 processes differ"),
    ]:
        of_rank = lambda text: ["-n", "1", PROGRAM, "train", *MODEL, "-q", "-o", "differ", "--input", text]
        command = [*MPIRUN, *of_rank("a.txt"), ":", *of_rank(text)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        lines = ours(run)
        assert run.returncode and len(lines) == 1 and message in lines[0], run.stderr
        assert not os.path.exists("differ")


class Training:
    """A long run of two processes."""

    def __init__(self, output):
        self.output = output
        command = [*MPIRUN, "-n", "2", PROGRAM, "train", *MODEL, "--steps", "1000000", "-o", output]
        command += ["--checkpoint-every", "20"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not os.path.exists(f"{output}/train_state.json"):
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.1)

    def pids(self):
        """The processes of the run by rank."""
        pids = {}
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if f"\0{self.output}\0".encode() not in (entry / "cmdline").read_bytes():
                    continue
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            for variable in variables:
                if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                    pids[int(variable.split(b"=")[1])] = int(entry.name)
        return pids

    def end(self):
        _, stderr = self.process.communicate(timeout=120)
        return stderr

    def resume(self):
        train("--resume", self.output, "--steps", "5", processes=2)


def test_killed_rank_ends_the_run():
    for rank in [0, 1]:
        run = Training(f"killed-{rank}")
        os.kill(run.pids()[rank], signal.SIGKILL)
        run.end()
        assert run.process.returncode, "the run outlives a rank"
        run.resume()


def test_signals_save():
    run = Training("signalled")
    run.process.send_signal(signal.SIGUSR1)
    lines = iter(run.process.stderr.readline, "")
    assert any("because of SIGUSR1" in line for line in lines)
    run.process.send_signal(signal.SIGTERM)
    stderr = run.end()
    assert stderr.count("stopped after step") == 1, stderr
    run.resume()


def namespace(*command):
    subprocess.run(["ip", *command], check=True)


def test_two_hosts():
    """Two hosts with a network of their own, and orted started in the other as by ssh."""
    hosts = {"microgpt-a": "10.213.57.1", "microgpt-b": "10.213.57.2"}
    agent = pathlib.Path("agent")
    agent.write_text(
        '#!/bin/sh\n# As ssh: agent HOST COMMAND...\nhost=$1\nshift\n'
        'exec ip netns exec microgpt-b unshare --uts sh -c "hostname microgpt-b; $*"\n'
    )
    agent.chmod(0o755)
    options = [*MODEL, "--steps", "40", "-q"]
    train(*options, "-o", "host", "--log", "host.log")
    try:
        for name in hosts:
            namespace("netns", "add", name)
        namespace("link", "add", "mga", "netns", "microgpt-a", "type", "veth", "peer", "mgb", "netns", "microgpt-b")
        for (name, address), device in zip(hosts.items(), ["mga", "mgb"]):
            namespace("-n", name, "addr", "add", f"{address}/24", "dev", device)
            namespace("-n", name, "link", "set", device, "up")
            namespace("-n", name, "link", "set", "lo", "up")
        mpirun = [*MPIRUN, "--mca", "plm_rsh_agent", str(agent.absolute())]
        mpirun += ["--host", ",".join(hosts.values()), "-n", "2"]
        command = ["ip", "netns", "exec", "microgpt-a", "unshare", "--uts", "sh", "-c", 'hostname microgpt-a; exec "$@"', "sh"]
        command += [*mpirun, PROGRAM, "train", *options, "-o", "hosts", "--log", "hosts.log"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
    finally:
        for name in hosts:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    assert_same_losses("hosts.log", "host.log")


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    wanted = sys.argv[2:] or tests
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for name in wanted:
            if name == "test_two_hosts" and os.geteuid() != 0:
                print(f"skipped: {name} needs root, for network namespaces")
                continue
            tests[name]()
            print(f"{name}: ok", flush=True)


main()
