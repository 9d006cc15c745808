#!/usr/bin/env bash
# Installs the C interface under PREFIX: the shared library, its header, and a file for pkg-config.
#
#     cargo build --release -p nanoinfer-capi
#     tools/install_capi.sh PREFIX [FOLDER WITH libnanoinfer_c.so]
set -euo pipefail
prefix=${1:?usage: tools/install_capi.sh PREFIX [FOLDER]}
root=$(cd "$(dirname "$0")/.." && pwd)
built=${2:-${CARGO_TARGET_DIR:-$root/target}/release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)

mkdir -p "$prefix"/{lib/pkgconfig,include}
prefix=$(cd "$prefix" && pwd)
install -m 755 "$built/libnanoinfer_c.so" "$prefix/lib/libnanoinfer_c.so.1"
ln -sf libnanoinfer_c.so.1 "$prefix/lib/libnanoinfer_c.so"
install -m 644 "$root/crates/capi/include/nanoinfer.h" "$prefix/include/"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" "$root/crates/capi/nanoinfer.pc.in" \
  >"$prefix/lib/pkgconfig/nanoinfer.pc"
