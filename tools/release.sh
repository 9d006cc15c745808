#!/usr/bin/env bash
# Makes one portable binary for this target, with manual pages and shell completions:
#   target/dist/nanoinfer-VERSION-TARGET.tar.gz
#
# The binary is built for the oldest CPU of the target. It contains the kernels of every instruction set
# and selects the best at start-up. If the toolchain has the musl target of this architecture (rustup
# target add x86_64-unknown-linux-musl), the binary is built for it and needs no system libraries.
# Otherwise it is built for glibc and runs on systems whose glibc is at least as new.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${1:-}
if [ -z "$target" ]; then
  target=$host
  musl="${host%%-*}-unknown-linux-musl"
  if rustup target list --installed 2>/dev/null | grep -qx "$musl"; then target=$musl; fi
fi

# Overrides the builder's settings: the binary must not depend on this machine's CPU or contain its paths.
remap="--remap-path-prefix=$PWD=nanoinfer --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
RUSTFLAGS="$remap" cargo build --release --locked --target "$target" \
  --config 'profile.release.strip="symbols"' --target-dir target/dist/build >&2
binary=target/dist/build/$target/release/nanoinfer

version=$("$binary" --version | cut -d' ' -f2)
name=nanoinfer-$version-$target
stage=target/dist/$name
rm -rf "$stage"
mkdir -p "$stage/completions"
cp "$binary" README.md LICENSE "$stage/"
"$binary" man --dir "$stage/man/man1"
for shell in bash zsh fish; do
  "$binary" completions "$shell" > "$stage/completions/nanoinfer.$shell"
done
tar -C target/dist --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -c "$name" \
  | gzip -n9 > "target/dist/$name.tar.gz"

# The instruction set must be selected at run time: one CPU feature too many, and an old CPU fails.
for isa in scalar avx2; do
  NANOINFER_ISA=$isa "$binary" doctor --json | grep -q "\"used\":\"$isa\""
done
size() { stat -c %s "$1" | awk '{ printf "%.1f MB", $1 / 1e6 }'; }
echo "$binary: $(size "$binary")"
echo "target/dist/$name.tar.gz: $(size "target/dist/$name.tar.gz")"
