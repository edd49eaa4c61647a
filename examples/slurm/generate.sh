#!/bin/sh
# Generates samples in the tasks of a Slurm array, each a part of one run of `microgpt generate`:
#
#   sbatch --array=0-99 generate.sh
#   cat parts/*.txt > samples.txt
#
# The environment sets the model (MODEL_DIR), the samples per task (SAMPLES) and the output directory
# (PARTS), all of which the nodes share. A repeated task replaces its part by the same one.
#SBATCH --job-name=microgpt
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
set -eu
samples=${SAMPLES:-1000000}
parts=${PARTS:-parts}
part=$parts/$(printf %06d "$SLURM_ARRAY_TASK_ID").txt
mkdir -p "$parts"
microgpt generate --threads "${SLURM_CPUS_PER_TASK:-1}" \
	--num-samples "$samples" --first $((SLURM_ARRAY_TASK_ID * samples)) > "$part.partial"
mv "$part.partial" "$part"
