#!/usr/bin/env bash
# Fails if a source file outside crates/platform names an operating system; tools/check_layers.py checks the
# manifests. There are three exceptions: the kernels where they detect AMX, which the operating system has to
# permit, the line that prints the system's name in the doctor, and the functions of the C interface. Tests and examples are exempt.
# The search is line by line: in a `cfg` over several lines, it finds only `target_os` and the like.
set -euo pipefail
cd "$(dirname "$0")/.."

crates='(libc|rustix|nix|signal_hook\w*|ctrlc|fs[24]|winapi|windows_sys)'
names='\bcfg(_attr)?!?\(.*\b(unix|windows)\b|\btarget_(os|family|vendor|env)\b'
names+="|\b$crates::|\b(use|crate)\b.*\b$crates\b"
names+='|\bos(::|[,}]| as\b)|\bstd::os\b|\bextern *["{]|"/(proc|sys|dev)\b'
names+='|\bconsts::.*\b(OS|FAMILY|(EXE|DLL)_\w+)\b|\benv::consts(;|::\*| as\b)'
allowed='^crates/platform/|^crates/kernels/src/isa/amx\.rs:'
allowed+='|^crates/capi/src/lib\.rs:[0-9]+:pub (unsafe )?extern "C" fn nanoinfer_'
allowed+='|^src/commands/doctor\.rs:[0-9]+: +system: std::env::consts::OS,$'

# grep returns 1 when it finds nothing, and 2 when it fails.
search() { grep -E "$@" || [ $? = 1 ]; }

found=$(search -rn "$names" src crates/*/src --include='*.rs' | search -v "$allowed")
if [ -n "$found" ]; then
  echo "$found"
  echo "these lines name an operating system: move the code to crates/platform" >&2
  exit 1
fi
echo "only crates/platform names an operating system"
