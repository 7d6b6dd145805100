#!/bin/bash
# Makes the disk that test/guest/jobs/host.sh runs the program from: ext4 with Node, its libraries, the built program in
# one file, and the package for system calls. Anew each time, it takes a second or two.
#   build-computer.sh DISK NODE PROGRAM
set -euo pipefail
trap 'echo "build-computer.sh failed in line $LINENO: $BASH_COMMAND" >&2' ERR
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"

disk=${1:?usage: build-computer.sh DISK NODE PROGRAM}
node=${2:?usage: build-computer.sh DISK NODE PROGRAM}
program=${3:?usage: build-computer.sh DISK NODE PROGRAM}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
root=$(mktemp -d "$disk.XXXXXX")
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{proc,sys,dev,tmp,data,repagent/dist/cli,repagent/node_modules}
install -m 755 "$node" "$root/node"
{ ldd "$node" || true; } | { grep -oE '/[^ ]+' || true; } | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
cp "$repository/package.json" "$root/repagent/"
cp "$program" "$root/repagent/dist/cli/main.js"
for package in koffi @koromix; do
  [ ! -e "$repository/node_modules/$package" ] || cp -r "$repository/node_modules/$package" "$root/repagent/node_modules/"
done

size_kib=$(du -sk "$root" | cut -f1)
rm -f "$disk"
mke2fs -q -F -t ext4 -m 0 -O ^has_journal -d "$root" "$disk" "$((size_kib + size_kib / 10 + 4096))k" > "$root.log"
rm -f "$root.log"
