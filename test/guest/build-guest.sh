#!/bin/bash
# Makes the small Linux that the guest suite boots: Debian's kernel package, fetched with apt-get download and only
# unpacked (nothing gets installed), and an initramfs of busybox, e2fsprogs, blkid, nbd-client, sqlite3 and the drivers
# they need.
# The kernel is kept in the folder given; the initramfs is made anew each time, it takes two seconds.
#   build-guest.sh FOLDER     makes FOLDER/vmlinuz and FOLDER/initramfs.cpio
set -euo pipefail
trap 'echo "build-guest.sh failed in line $LINENO: $BASH_COMMAND" >&2' ERR
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"

folder=${1:?usage: build-guest.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
metapackage=linux-image-cloud-amd64

[ "$(dpkg --print-architecture)" = amd64 ] || { echo "The guest suite boots an amd64 kernel; this is another machine." >&2; exit 1; }

scratch=$(mktemp -d "$folder/scratch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# The real package behind the metapackage, e.g. linux-image-6.1.0-40-cloud-amd64.
kernel_package() {
  apt-cache depends --no-recommends --no-suggests "$metapackage" 2>/dev/null |
    awk '/Depends: linux-image/ { print $2; exit }'
}

download_kernel() {
  local package
  package=$(kernel_package)
  [ -n "$package" ] || return 1
  (cd "$scratch" && apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" download "$package")
}

# Package lists that are missing or too old name files that the mirror no longer has.
refresh_lists() {
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  "${as_root[@]}" apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 update >&2
}

fetch_kernel() {
  echo "Fetching Debian's kernel package ..." >&2
  download_kernel || { refresh_lists && download_kernel; } || {
    echo "No $metapackage to be had: run apt-get update as root, and see that the machine reaches a Debian mirror." >&2
    exit 1
  }
  mkdir "$scratch/kernel"
  dpkg -x "$scratch"/linux-image-*.deb "$scratch/kernel"
  # Since Debian 13 everything lies under /usr.
  [ -d "$scratch/kernel/lib/modules" ] || mv "$scratch/kernel/usr/lib" "$scratch/kernel/lib"
  local version
  version=$(ls "$scratch/kernel/lib/modules")
  depmod -b "$scratch/kernel" "$version"
  cp "$scratch"/kernel/boot/vmlinuz-* "$scratch/kernel/vmlinuz"
  mv "$scratch/kernel" "$folder/kernel" # in one step: a run that was cut short leaves nothing half done
}

# copy_program ROOT PROGRAM: with the libraries it is linked to, at their own paths.
copy_program() {
  local root=$1 file library
  file=$(command -v "$2") || { echo "$2 is not installed; see test/support/install-debian-peers.sh --guest" >&2; exit 1; }
  install -D -m 755 "$(readlink -f "$file")" "$root/usr/bin/$2"
  { ldd "$file" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r library; do
    [ -e "$root$library" ] || install -D -m 755 "$(readlink -f "$library")" "$root$library"
  done
}

# copy_modules ROOT MODULE...: with what they depend on, unpacked (busybox reads plain .ko files only).
copy_modules() {
  local root=$1 version module file target
  shift
  version=$(ls "$folder/kernel/lib/modules")
  for module; do
    modprobe -d "$folder/kernel" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
  done | sort -u | while read -r file; do
    target=$root/lib/modules/${file##*/lib/modules/}
    mkdir -p "${target%/*}"
    case $file in
      *.xz) xz -dc "$file" > "${target%.xz}" ;;
      *.zst) zstd -qdc "$file" > "${target%.zst}" ;;
      *) cp "$file" "$target" ;;
    esac
  done
  mkdir -p "$root/lib/modules/$version"
  cp "$folder/kernel/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$version/"
  depmod -b "$root" "$version"
}

build_initramfs() {
  local root=$scratch/root program applet
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,tmp,mnt,run,var/run,var/lock}
  copy_program "$root" busybox
  ln -s ../usr/bin/busybox "$root/bin/busybox"
  for applet in $(busybox --list); do
    case $applet in
      busybox | mke2fs | mkfs.ext4 | e2fsck | blkid | nbd-client) ;;
      *) ln -s busybox "$root/bin/$applet" ;;
    esac
  done
  for program in mke2fs e2fsck blkid nbd-client sqlite3; do copy_program "$root" "$program"; done
  ln -s mke2fs "$root/usr/bin/mkfs.ext4"
  [ ! -e /etc/mke2fs.conf ] || cp /etc/mke2fs.conf "$root/etc/"
  : > "$root/etc/nbdtab"
  copy_modules "$root" virtio_pci virtio_blk virtio_net qemu_fw_cfg nbd ext4
  install -m 755 "$here/guest-init" "$root/init"
  # Not compressed: unpacking would cost the emulated processor more than reading a bigger file.
  (cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --quiet) > "$scratch/initramfs.cpio"
  mv "$scratch/initramfs.cpio" "$folder/initramfs.cpio"
}

[ -e "$folder/kernel/vmlinuz" ] || fetch_kernel
ln -sfn kernel/vmlinuz "$folder/vmlinuz"
build_initramfs
