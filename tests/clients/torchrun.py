"""Runs examples/torchrun/finetune.py with two processes, and microgpt with the model that it saves.

usage: python torchrun.py PATH_TO_MICROGPT
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile

import program
from program import microgpt

EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/torchrun/finetune.py")
NAMES = ["anna", "bob", "christopher", "dana", "eve", "frank", "gina", "harriet"] * 4


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "names", "--steps", "200")
        microgpt(directory, "export", "-m", "names", "--format", "huggingface", "-o", "names-hf")
        with open(os.path.join(directory, "names.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(NAMES))
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        options = ["names-hf", "names.txt", "tuned-hf", "--steps", "20", "--lr", "0.005", "--in-order"]
        run = subprocess.run(
            [*launcher, EXAMPLE, *options],
            cwd=directory,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        losses = [float(loss) for loss in re.findall(r"^step \d+ loss (\S+)$", run.stdout, re.M)]
        assert len(losses) == 20, run.stdout
        lines = microgpt(
            directory, "score", "-m", "names", "--json", input="\n".join(NAMES)
        ).splitlines()
        scores = [json.loads(line) for line in lines]
        bits = sum(score["bits"] for score in scores) / sum(score["tokens"] for score in scores)
        assert abs(losses[0] - bits * math.log(2)) < 1e-4, (losses[0], bits * math.log(2))
        assert losses[-1] < losses[0] - 0.1, losses
        assert len(microgpt(directory, "generate", "-m", "tuned-hf", "-n", "5").splitlines()) == 5
        print(f"torchrun trains from {losses[0]:.4f} to {losses[-1]:.4f} nats")


if __name__ == "__main__":
    main()
