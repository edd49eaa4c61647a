#!/bin/sh
# Runs a binary on lesser processors than today's: without AVX-512, without AVX2, without AVX at all.
# Training has to work on each, and samples have to be the same, byte for byte.
set -eu
program=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
"$program" train --steps 60 --quiet --threads 1 --output model > /dev/null
"$program" generate --model-dir model -n 50 > here
for cpu in Haswell SandyBridge Nehalem; do
	# The emulator says what of the processor it leaves out; only an error is of interest.
	on_cpu() {
		qemu-x86_64 -cpu "$cpu" "$program" "$@" 2> messages || { cat messages >&2; exit 1; }
	}
	on_cpu generate --model-dir model -n 50 --threads 1 > there
	cmp here there
	# Heads of sixteen: short names and long ones go different ways through attention.
	on_cpu train --n-embd 32 --n-head 2 --steps 60 --quiet --threads 2 --output trained --force \
		--log log \
		> /dev/null
	grep -q '"step":60,"loss":2\.' log
	echo "$cpu: trains, and makes the same samples"
done
