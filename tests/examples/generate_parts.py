"""Generates samples in parts with GNU parallel, here and over ssh, with an array of a Slurm cluster of one node that this
test starts, and with the command of the Kubernetes Job: the concatenation of the parts is the output of
one process.

usage: python generate_parts.py PATH_TO_MICROGPT
"""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time

import program
import yaml

EXAMPLES = os.path.join(os.path.dirname(__file__), "..", "..", "examples")
PARTS = 5
SAMPLES = 300


def run(command, directory, **environment):
    bin_directory = os.path.dirname(program.PROGRAM)
    return subprocess.run(
        command, cwd=directory, check=True, stdout=subprocess.PIPE,
        env={
            **os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "MODEL_DIR": os.path.join(directory, "model"), "SAMPLES": str(SAMPLES), **environment,
        },
    ).stdout


def read_parts(parts):
    names = sorted(os.listdir(parts))
    assert len(names) == PARTS, names
    return b"".join(open(os.path.join(parts, name), "rb").read() for name in names)


def test_parallel(directory, whole):
    script = os.path.abspath(f"{EXAMPLES}/parallel/generate.sh")
    assert run([script], directory, PARTS=str(PARTS)) == whole


def test_parallel_fails_with_a_part(directory, _):
    script = os.path.abspath(f"{EXAMPLES}/parallel/generate.sh")
    try:
        run([script], directory, PARTS=str(PARTS), MODEL_DIR="absent")
    except subprocess.CalledProcessError:
        return
    raise AssertionError("the script succeeded without a model")


def test_parallel_over_ssh(directory, whole):
    with SshServer(directory) as login:
        script = os.path.abspath(f"{EXAMPLES}/parallel/generate.sh")
        assert run([script], directory, PARTS=str(PARTS), SSHLOGINS=f"1/{login}") == whole


def test_kubernetes_job(directory, whole):
    with open(f"{EXAMPLES}/kubernetes/generate-job.yaml") as file:
        container = yaml.safe_load(file)["spec"]["template"]["spec"]["containers"][0]
    parts = os.path.join(directory, "pods")
    os.mkdir(parts)
    for index in range(PARTS):
        run(
            container["command"] + container["args"], directory,
            PARTS=parts, JOB_COMPLETION_INDEX=str(index), HOSTNAME=f"microgpt-generate-{index}",
        )
    assert read_parts(parts) == whole


def test_slurm_array(directory, whole):
    with Slurm(directory) as configuration:
        script = os.path.abspath(f"{EXAMPLES}/slurm/generate.sh")

        def submit(array):
            run(["sbatch", "--wait", f"--array={array}", script], directory, SLURM_CONF=configuration)

        submit(f"0-{PARTS - 1}")
        parts = os.path.join(directory, "parts")
        assert read_parts(parts) == whole
        # A repeated task replaces its part.
        with open(os.path.join(parts, "000002.txt"), "w"):
            pass
        submit("2")
        assert read_parts(parts) == whole


SLURM_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def find(command):
    path = shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin")
    assert path, f"this test needs {command}"
    return path


class SshServer:
    """An ssh server on a free port of this machine; entering it returns the command that logs in."""

    def __init__(self, directory):
        self.key = os.path.join(directory, "ssh-key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.port = free_port()
        options = {
            "ListenAddress": "127.0.0.1", "AuthorizedKeysFile": f"{self.key}.pub", "StrictModes": "no",
            "UsePAM": "no", "PidFile": "none",
            "SetEnv": f"PATH={os.path.dirname(program.PROGRAM)}:/usr/bin:/bin",
        }
        os.makedirs("/run/sshd", exist_ok=True)
        self.process = subprocess.Popen(
            [find("sshd"), "-D", "-f", "/dev/null", "-p", str(self.port), "-h", self.key]
            + [f"-o{name}={value}" for name, value in options.items()],
        )

    def __enter__(self):
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
                    return f"ssh -p {self.port} -i {self.key} {options} 127.0.0.1"
            time.sleep(0.1)
        raise AssertionError("sshd does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=10)


class Slurm:
    """A Slurm cluster of this machine alone; entering it returns the path of its configuration."""

    def __init__(self, directory):
        self.directory = os.path.join(directory, "slurm")
        os.makedirs(os.path.join(self.directory, "state"))
        self.configuration = os.path.join(self.directory, "slurm.conf")
        self.daemons = []

    def start(self, command, *options):
        path = find(command)
        log = open(os.path.join(self.directory, f"{command}.log"), "w")
        environment = {**os.environ, "SLURM_CONF": self.configuration}
        self.daemons.append(
            subprocess.Popen([path, *options], stdout=log, stderr=log, env=environment)
        )

    def __enter__(self):
        with open(self.configuration, "w") as file:
            file.write(SLURM_CONFIGURATION.format(
                directory=self.directory, host=socket.gethostname().split(".")[0],
                user=os.getuid(), controller_port=free_port(), node_port=free_port(),
            ))
        key = os.path.join(self.directory, "munge.key")
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(os.urandom(128))
        munge = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        options = [f"--{option}={self.directory}/munge.{name}" for option, name in munge.items()]
        self.start("munged", "--foreground", "--force", *options)
        self.wait_for(os.path.exists, os.path.join(self.directory, "munge.socket"))
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait_for(self.is_idle)
        return self.configuration

    def is_idle(self):
        sinfo = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "SLURM_CONF": self.configuration},
        )
        return sinfo.stdout.strip() == b"idle"

    def wait_for(self, condition, *arguments):
        for _ in range(300):
            if condition(*arguments):
                return
            time.sleep(0.2)
        logs = "".join(open(path).read() for path in glob.glob(f"{self.directory}/*.log"))
        raise AssertionError(f"Slurm does not start:\n{logs}")

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait(timeout=30)


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "model", "--steps", "30")
        whole = run(["microgpt", "generate", "-n", str(PARTS * SAMPLES)], directory)
        for test in (
            test_parallel, test_parallel_fails_with_a_part, test_parallel_over_ssh, test_kubernetes_job,
            test_slurm_array,
        ):
            test(directory, whole)
            print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
