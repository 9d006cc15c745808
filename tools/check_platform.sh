#!/usr/bin/env bash
# Fails if anything outside crates/platform names an operating system. The exception is where the
# kernels detect instruction sets, because a system has to permit AMX. Tests and examples may.
set -euo pipefail
cd "$(dirname "$0")/.."

names='cfg!?\(.*\b(unix|windows|target_os|target_family)\b'
names+='|\b(libc|rustix|nix|signal_hook|ctrlc|fs4|windows_sys)::'
names+='|\bstd::os::|"/(proc|sys|dev)\b'
found=$(grep -rnE "$names" src crates/*/src --include='*.rs' \
  | grep -vE '^crates/(platform/|kernels/src/(isa/amx|table)\.rs)' || true)
if [ -n "$found" ]; then
  echo "$found"
  echo "these lines name an operating system: move what they do to crates/platform" >&2
  exit 1
fi
echo "only crates/platform names an operating system"
