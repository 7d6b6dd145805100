# host.sh lazy|eager ARGUMENT... - a computer that runs `repagent ARGUMENT...` from the disk /dev/vdb and keeps what it
# has on /dev/vda, mounted at /data, which is made at the first start. It is switched off without a word.
#   lazy   the kernel writes to the disk only what somebody syncs
#   eager  it writes everything soon, synced or not
set -eu
echo 90 > /proc/sys/vm/dirty_ratio
if [ "$1" = lazy ]; then
  commit=3600
  echo 90 > /proc/sys/vm/dirty_background_ratio
  echo 0 > /proc/sys/vm/dirty_writeback_centisecs
else
  commit=1
  echo 10 > /proc/sys/vm/dirty_writeback_centisecs
  echo 10 > /proc/sys/vm/dirty_expire_centisecs
fi
shift

mkdir /computer
mount -t ext4 -o ro /dev/vdb /computer
for folder in proc sys dev; do mount --bind "/$folder" "/computer/$folder"; done
mount -t tmpfs tmpfs /computer/tmp
if [ -z "$(blkid /dev/vda)" ]; then
  mkfs.ext4 -q -F -J size=4 /dev/vda
else
  code=0
  e2fsck -p /dev/vda || code=$?
  [ "$code" -le 1 ] # 1: repaired, as after every power cut
fi
mount -t ext4 -o "commit=$commit" /dev/vda /computer/data
exec env HOME=/tmp REPAGENT_RUNTIME_DIR=/tmp/run chroot /computer /node /repagent/dist/cli/main.js "$@"
