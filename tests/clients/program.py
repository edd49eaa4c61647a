"""Runs the program at the path in sys.argv[1], for the tests of its server."""

import os
import re
import subprocess
import sys

PROGRAM = os.path.abspath(sys.argv[1])


def train(directory, name, *options):
    subprocess.run(
        [PROGRAM, "train", "--quiet", "--output", name, *options],
        cwd=directory, check=True, stdout=subprocess.DEVNULL,
    )


def microgpt(directory, *arguments, **options):
    """Runs a command and returns its standard output."""
    run = subprocess.run(
        [PROGRAM, *arguments],
        cwd=directory, check=True, text=True, capture_output=True, **options,
    )
    return run.stdout


class Server:
    """A server of one model, by default on a free port."""

    def __init__(self, directory, model, *options, port=0):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--model-dir", model, "--port", str(port), "--quiet", *options],
            cwd=directory, stderr=subprocess.PIPE, text=True,
        )
        self.url = re.search(r"http://\S+", self.process.stderr.readline()).group()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=15) == 0
