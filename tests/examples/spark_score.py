"""Scores text and Parquet with Spark on two executors, one of which is killed: every line is scored once,
and as by one process.

usage: python spark_score.py PATH_TO_MICROGPT
"""

import collections
import glob
import json
import os
import random
import runpy
import stat
import subprocess
import sys
import tempfile

import program
import pyarrow
import pyarrow.parquet

SCORE = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "spark", "score.py")
LINES = 20_000
BATCH = 500

# Kills the executor above it at the tenth batch, once.
KILLER = """#!/bin/sh
touch "{calls}/$$"
if [ "$(ls "{calls}" | wc -l)" -ge 10 ] && mkdir "{killed}" 2>/dev/null; then
	process=$$
	until tr '\\0' ' ' < "/proc/$process/cmdline" | grep -q '[C]oarseGrainedExecutorBackend'; do
		process=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' "/proc/$process/stat")
	done
	kill -KILL "$process"
fi
exec "{program}" "$@"
"""


def spark_submit(directory, *arguments):
    bin_directory = os.path.dirname(sys.executable)
    environment = {
        **os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}", "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        # Short runs spend most of their time on the compilation of Spark itself.
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    run = subprocess.run(
        [
            os.path.join(bin_directory, "spark-submit"), "--master", "local-cluster[2,1,1024]",
            "--conf", "spark.ui.enabled=false",
            # Small partitions and batches, so that each executor has several.
            "--conf", "spark.sql.files.maxPartitionBytes=20000",
            "--conf", f"spark.sql.execution.arrow.maxRecordsPerBatch={BATCH}",
            SCORE, "--model-dir", "model", *arguments,
        ],
        cwd=directory, env=environment, stderr=subprocess.PIPE, text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def score(directory, *options):
    return subprocess.run(
        [program.PROGRAM, "score", "--model-dir", "model", *options, "lines.txt"],
        cwd=directory, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.splitlines()


def test_text_with_a_killed_executor(directory):
    calls, killed = os.path.join(directory, "calls"), os.path.join(directory, "killed")
    os.mkdir(calls)
    killer = os.path.join(directory, "microgpt")
    with open(killer, "w") as file:
        file.write(KILLER.format(calls=calls, killed=killed, program=program.PROGRAM))
    os.chmod(killer, os.stat(killer).st_mode | stat.S_IXUSR)

    log = spark_submit(directory, "--microgpt", killer, "lines.txt", "scored.txt")
    assert os.path.isdir(killed) and "Command exited with code 137" in log, log
    scored = []
    for path in glob.glob(os.path.join(directory, "scored.txt", "part-*")):
        with open(path) as file:
            scored += file.read().splitlines()
    assert collections.Counter(scored) == collections.Counter(score(directory))


def test_parquet(directory):
    spark_submit(
        directory, "--microgpt", program.PROGRAM, "--column", "name", "lines.parquet", "scored.parquet"
    )
    rows = pyarrow.parquet.read_table(os.path.join(directory, "scored.parquet")).sort_by("id").to_pylist()
    expected = [json.loads(line) for line in score(directory, "--json")]
    assert rows == [
        {"id": id, "name": line["line"], "bits": line["bits"], "tokens": line["tokens"]}
        for id, line in enumerate(expected)
    ]


def test_a_line_break_in_a_row_is_an_error(_):
    score_rows = runpy.run_path(SCORE)["score"]
    try:
        score_rows(["anna", "bo\nb"])
    except ValueError as error:
        assert str(error) == r"a row must be one line of text, got 'bo\nb'", error
    else:
        raise AssertionError("the row was accepted")


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "model", "--steps", "30")
        random.seed(42)
        letters = "abcdefghijklmnopqrstuvwxyzé "
        lines = ["".join(random.choices(letters, k=random.randrange(12))) for _ in range(LINES)]
        with open(os.path.join(directory, "lines.txt"), "w") as file:
            file.write("".join(line + "\n" for line in lines))
        pyarrow.parquet.write_table(
            pyarrow.table({"id": range(LINES), "name": lines}),
            os.path.join(directory, "lines.parquet"), row_group_size=LINES // 8,
        )
        for test in (
            test_text_with_a_killed_executor, test_parquet, test_a_line_break_in_a_row_is_an_error
        ):
            test(directory)
            print(f"{test.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
