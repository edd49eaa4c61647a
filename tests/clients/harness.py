"""Runs EleutherAI's lm-evaluation-harness (local-completions) against a server, and compares its
loglikelihoods with `microgpt score`.

usage: python harness.py PATH_TO_MICROGPT
"""

import json
import math
import os
import subprocess
import tempfile

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

import program

LINES = ["emma", "olivia", "xqzw", "an", "bartholomew"]
BOS = "<bos>"


def write_tokenizer(directory, model):
    """Writes the model's characters as a tokenizer of transformers, with an id per character."""
    with open(os.path.join(directory, model, "meta.json")) as file:
        chars = json.load(file)["chars"]
    vocabulary = {char: index for index, char in enumerate([*chars, BOS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=BOS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens([BOS])
    path = os.path.join(directory, "tokenizer")
    os.mkdir(path)
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": BOS}
    with open(os.path.join(path, "tokenizer_config.json"), "w") as file:
        json.dump(config, file)
    return path


def scores(directory, model):
    """The natural logarithm of each line's probability, with its end."""
    output = subprocess.run(
        [program.PROGRAM, "score", "--model-dir", model, "--json"],
        cwd=directory, check=True, text=True, input="\n".join(LINES), capture_output=True,
    )
    return [-json.loads(line)["bits"] * math.log(2) for line in output.stdout.splitlines()]


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "model", "--steps", "300")
        with program.Server(directory, "model") as server:
            harness = LocalCompletionsAPI(
                base_url=server.url + "/v1/completions",
                tokenizer=write_tokenizer(directory, "model"),
                model="microgpt",
                max_length=16,
                batch_size=2,
                num_concurrent=1,
            )
            requests = [
                Instance("loglikelihood", {}, arguments=("", line + BOS), idx=index)
                for index, line in enumerate(LINES)
            ]
            found = harness.loglikelihood(requests)
        for line, (logprob, _), expected in zip(LINES, found, scores(directory, "model"), strict=True):
            assert abs(logprob - expected) < 1e-6, (line, logprob, expected)
        print(f"lm-evaluation-harness agrees with score on {len(LINES)} lines")


if __name__ == "__main__":
    main()
