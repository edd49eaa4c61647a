#!/bin/sh
# Tests a package of `make dist`: its sum, what it holds, its size, and that the program runs from a
# root in which there is nothing else.
set -eu
archive=$1
(cd "$(dirname "$archive")" && sha256sum --check --quiet "$(basename "$archive").sha256")

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
tar -xzf "$archive" -C "$dir" --strip-components=1
for file in bin/microgpt share/man/man1/microgpt.1 README.md LICENSE CHANGELOG.md \
	share/bash-completion/completions/microgpt share/zsh/site-functions/_microgpt \
	share/fish/vendor_completions.d/microgpt.fish; do
	[ -s "$dir/$file" ] || { echo "$file is missing from the package" >&2; exit 1; }
done
size=$(wc -c < "$dir/bin/microgpt")
[ "$size" -lt 10000000 ] || { echo "the binary has $size bytes, 10 MB or more" >&2; exit 1; }

mkdir "$dir/root"
cp "$dir/bin/microgpt" "$dir/root"
in_root() {
	if [ "$(id -u)" = 0 ]; then
		chroot "$dir/root" /microgpt "$@"
	else
		unshare --user --map-root-user chroot "$dir/root" /microgpt "$@"
	fi
}
in_root train --steps 50 --quiet >/dev/null
samples=$(in_root generate -n 5 | wc -l)
[ "$samples" = 5 ] || { echo "$samples samples instead of 5" >&2; exit 1; }
echo "$(basename "$archive"): $size bytes of program, runs from an empty root"
