# database.sh DEVICE load - makes ext4 and two SQLite databases on it, and adds a row to each, one transaction after the
#   other, for ever, to be killed; files that are never synced change beside them. Prints `committed NAME N` only after
#   the transaction of row N was committed, and that is when SQLite had it synced.
# database.sh DEVICE check - what a machine does that starts from such a disk: repairs the file system as at a boot,
#   checks it and the databases, prints what is in them, and adds five rows to each.
# The databases are `wal` and `delete`, by their journal modes. Row N has a body that only N can have; beside the rows a
# total is kept in the same transactions.
set -eu
device=$1

# `extra` also syncs the folder when the journal was deleted: without it a committed transaction may come undone.
settings() {
  echo "PRAGMA synchronous = EXTRA; PRAGMA wal_autocheckpoint = 100; PRAGMA cache_size = -1000;"
}

body() { echo "printf('%0*d', 50 + $1 * 37 % 3000, $1)"; }

# rows FROM TO NAME: statements that add them; TO 0: no end.
rows() {
  n=$1
  while [ "$2" = 0 ] || [ "$n" -le "$2" ]; do
    echo "BEGIN; INSERT INTO entry VALUES ($n, $(body "$n")); UPDATE total SET entries = entries + 1, last = $n; COMMIT;"
    echo "SELECT 'committed $3 $n';"
    n=$((n + 1))
  done
}

load() {
  {
    settings
    echo "PRAGMA journal_mode = $1;"
    echo "CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT NOT NULL);"
    echo "CREATE INDEX by_length ON entry (length(body), id);"
    echo "CREATE TABLE total (entries INTEGER NOT NULL, last INTEGER NOT NULL); INSERT INTO total VALUES (0, 0);"
    rows 1 0 "$1"
  } | sqlite3 -batch -bail "/mnt/$1.db"
}

noise() {
  i=0
  while :; do
    seq $((i * 1000)) $((i * 1000 + 8000)) > "/mnt/noise-$((i % 5)).new"
    mv "/mnt/noise-$((i % 5)).new" "/mnt/noise-$((i % 5))"
    i=$((i + 1))
    sleep 0.3
  done
}

check() {
  database=/mnt/$1.db
  sqlite3 -batch -bail "$database" "SELECT 'integrity $1 ' || integrity_check FROM pragma_integrity_check;
    SELECT 'rows $1 ' || count(*) || ' from ' || min(id) || ' to ' || max(id) FROM entry;
    SELECT 'wrong $1 ' || count(*) FROM entry WHERE body <> $(body id);
    SELECT 'total $1 ' || entries || ' to ' || last FROM total;
    SELECT 'mode $1 ' || journal_mode FROM pragma_journal_mode;"
  last=$(sqlite3 "$database" "SELECT last FROM total")
  { settings; rows $((last + 1)) $((last + 5)) "$1"; } | sqlite3 -batch -bail "$database"
}

case $2 in
  load)
    mkfs.ext4 -q -F "$device"
    mount -t ext4 "$device" /mnt
    sync
    noise &
    { load wal || poweroff -f; } &
    load delete
    ;;
  check)
    code=0
    e2fsck -p "$device" || code=$?
    [ "$code" -le 1 ] # 1: the journal was replayed
    e2fsck -fn "$device"
    echo "guest: fsck is clean"
    mount -t ext4 "$device" /mnt
    check wal
    check delete
    umount /mnt
    e2fsck -fn "$device"
    ;;
esac
