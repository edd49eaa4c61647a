"""Runs the task of examples/lm-eval on a server and on the exported model, and compares the results.

usage: python lm_eval_tasks.py PATH_TO_MICROGPT
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

import program

TASKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/lm-eval")
NAMES = ["anna", "bob", "christopher", "dana", "eve", "frank", "gina", "harriet"]


def evaluate(directory, name, *options):
    """The task's result with a model of the harness."""
    command = [
        "lm_eval",
        "--tasks",
        "names",
        "--include_path",
        TASKS,
        "--device",
        "cpu",
        "--output_path",
        name,
    ]
    subprocess.run(
        [sys.executable, "-m", *command, *options],
        cwd=directory,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": os.path.join(directory, name + "-cache")},
    )
    [path] = glob.glob(os.path.join(directory, name, "**/results_*.json"), recursive=True)
    with open(path, encoding="utf-8") as file:
        return json.load(file)["results"]["names"]["perplexity,none"]


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "names", "--steps", "200")
        subprocess.run(
            [program.PROGRAM, "export", "-m", "names", "--format", "huggingface", "-o", "names-hf"],
            cwd=directory,
            check=True,
        )
        with open(os.path.join(directory, "names.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(NAMES) + "\n")
        options = "pretrained=names-hf,trust_remote_code=True"
        exported = evaluate(directory, "exported", "--model", "hf", "--model_args", options)
        with program.Server(directory, "names") as server:
            options = (
                f"model=microgpt,base_url={server.url}/v1/completions,tokenizer=names-hf,max_length=16"
            )
            options += ",trust_remote_code=True"
            served = evaluate(
                directory, "served", "--model", "local-completions", "--model_args", options
            )
        assert abs(served / exported - 1) < 1e-4, (served, exported)
        print(f"lm-evaluation-harness: perplexity {exported:.4f} exported, {served:.4f} served")


if __name__ == "__main__":
    main()
