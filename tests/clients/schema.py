"""Runs schemathesis on /openapi.json of a server of a text model and of one of a chat model.

usage: python schema.py PATH_TO_MICROGPT
"""

import os
import subprocess
import sys
import tempfile

import program

OPTIONS = [
    "--seed", "1", "--max-examples", "25", "--no-color",
    # A schema cannot say which characters a model knows, or how many tokens fit its context.
    "--exclude-checks", "positive_data_acceptance",
]


def main():
    schemathesis = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "text", "--steps", "30")
        program.train(directory, "chat", "--chat", "--steps", "30", "--block-size", "48")
        for model in ("text", "chat"):
            with program.Server(directory, model) as server:
                command = [schemathesis, "run", server.url + "/openapi.json", *OPTIONS]
                subprocess.run(command, check=True, cwd=directory)


if __name__ == "__main__":
    main()
