"""Scores a data set with Spark, each executor through its own `microgpt score`.

usage: spark-submit score.py [--microgpt PROGRAM] [--model-dir DIR] [--column NAME] INPUT OUTPUT

Without --column, INPUT and OUTPUT are text: OUTPUT has the lines that `microgpt score` prints. With it,
they are Parquet: the rows of INPUT with the bits and the number of tokens of column NAME in two more
columns, bits and tokens. The driver sends the program and the model to the executors. They need Python
with pandas and pyarrow.
"""

import argparse
import json
import os
import subprocess

from pyspark import SparkFiles
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType


def score(lines):
    """The bits and the number of tokens of each line."""
    for line in lines:
        if line is None or "\n" in line or "\r" in line:
            raise ValueError(f"a row must be one line of text, got {line!r}")
    command = [
        SparkFiles.get("microgpt"), "score", "--json", "--model-dir", SparkFiles.getRootDirectory(),
        "--threads", "1",  # Spark runs a task per core
    ]
    text = "".join(line + "\n" for line in lines)
    output = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    scores = [json.loads(line) for line in output.splitlines()]
    assert [score["line"] for score in scores] == list(lines), "microgpt did not score every line once"
    return [score["bits"] for score in scores], [score["tokens"] for score in scores]


def score_rows(column):
    """The function for mapInPandas that adds the columns bits and tokens."""

    def add_columns(batches):
        for rows in batches:
            bits, tokens = score(rows[column])
            yield rows.assign(bits=bits, tokens=tokens)

    return add_columns


def score_lines(batches):
    """The function for mapInPandas that returns what `microgpt score` prints."""
    for rows in batches:
        bits, tokens = score(rows["value"])
        rows["value"] = [f"{b / t:.6f}\t{line}" for b, t, line in zip(bits, tokens, rows["value"])]
        yield rows


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    parser.add_argument("--microgpt", default="/usr/local/bin/microgpt")
    parser.add_argument("--model-dir", default="microgpt-model")
    parser.add_argument("--column")
    parser.add_argument("input")
    parser.add_argument("output")
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("microgpt score").getOrCreate()
    for file in (
        arguments.microgpt,
        os.path.join(arguments.model_dir, "meta.json"),
        os.path.join(arguments.model_dir, "weights.safetensors"),
    ):
        spark.sparkContext.addFile(os.path.abspath(file))

    if arguments.column:
        rows = spark.read.parquet(arguments.input)
        schema = StructType(list(rows.schema)).add("bits", "double").add("tokens", "long")
        rows.mapInPandas(score_rows(arguments.column), schema).write.parquet(arguments.output)
    else:
        lines = spark.read.text(arguments.input)
        lines.mapInPandas(score_lines, lines.schema).write.text(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
