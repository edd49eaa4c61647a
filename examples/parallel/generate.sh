#!/bin/sh
# Generates samples with GNU parallel, in parts of one run of `microgpt generate`, and prints them in
# order. With SSHLOGINS, such as "4/host1,4/host2", the parts run on these hosts, which have the program
# and the model:
#
#   PARTS=100 SAMPLES=1000000 generate.sh > samples.txt
#
# A part that fails is tried twice more; then the script fails.
set -eu
parts=${PARTS:-100}
samples=${SAMPLES:-1000000}
model=${MODEL_DIR:-microgpt-model}
# shellcheck disable=SC2016 # parallel's shell computes the index
seq 0 $((parts - 1)) | parallel --keep-order --retries 3 --halt soon,fail=1 \
	${SSHLOGINS:+--sshlogin "$SSHLOGINS"} \
	microgpt generate --threads 1 --model-dir "$model" --num-samples "$samples" \
	--first '$(({} *' "$samples" '))'
