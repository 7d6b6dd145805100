# Structured replies and block status, seen by libnbd. Run by nbdsh like nbdsh-checks.py: CHECK names the function, URI is
# an export of SIZE bytes with data in its first MiB, in the MiB on either side of 4 GiB, in [SIZE - 1 MiB, SIZE) and
# little else, and holes between; FAULTY one whose reads fail.
import errno
import os

import nbd

URI = os.environ["URI"]
FAULTY = os.environ["FAULTY"]
SIZE = int(os.environ["SIZE"])
MIB = 1024 * 1024
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO


def connect(uri=URI, contexts=("base:allocation",)):
    h = nbd.NBD()
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(uri)
    h.set_strict_mode(0)
    return h


def chunks(h, length, offset, flags=0):
    """The chunks of a structured read: kind, offset, length."""
    seen = []

    def chunk(data, at, status, error):
        seen.append((status, at, len(data)))
        return 0

    data = h.pread_structured(length, offset, chunk, flags)
    return data, seen


def runs(h, length, offset, flags=0):
    """What block status tells, by context: (length, flags) in order."""
    told = {}

    def extent(context, at, entries, error):
        assert at == offset, (at, offset)
        told[context] = list(zip(entries[0::2], entries[1::2]))
        return 0

    h.block_status(length, offset, extent, flags)
    return told


def reads_in_chunks():
    h = connect()
    assert h.get_structured_replies_negotiated()
    assert h.can_df()
    data, seen = chunks(h, 4 * MIB, 0)
    assert len(data) == 4 * MIB and data[:MIB] != bytes(MIB) and data[MIB:] == bytes(3 * MIB)
    # Every byte is told by one chunk, and no hole begins before the data ends. libnbd hands out what a hole reads as.
    at = 0
    for status, offset, length in sorted(seen, key=lambda one: one[1]):
        assert offset == at and length > 0, seen
        assert status == nbd.READ_DATA or (status == nbd.READ_HOLE and offset >= MIB), seen
        at += length
    assert at == 4 * MIB and any(status == nbd.READ_HOLE for status, _, _ in seen), seen
    _, one = chunks(h, 4 * MIB, 0, nbd.CMD_FLAG_DF)
    assert [(s, a, n) for s, a, n in one] == [(nbd.READ_DATA, 0, 4 * MIB)], one
    _, small = chunks(h, 4096, 2 * MIB)
    assert len(small) == 1, small
    h.shutdown()


def tells_errors():
    h = connect()
    for call in (lambda: h.pread(4096, SIZE), lambda: h.pread(1, SIZE)):
        try:
            call()
        except nbd.Error as error:
            assert error.errnum == errno.EINVAL, error.errno
        else:
            raise AssertionError("a read past the end succeeded")
    assert h.pread(4096, SIZE - MIB) != bytes(4096)
    f = connect(FAULTY)
    try:
        f.pread(65536, 4096)
    except nbd.Error as error:
        assert error.errnum == errno.EIO, error.errno
    else:
        raise AssertionError("a read of a broken disk succeeded")
    seen = []

    def chunk(data, at, status, error):
        seen.append((status, error.value, at))
        return 0

    try:
        f.pread_structured(65536, 4096, chunk)
    except nbd.Error as error:
        assert error.errnum == errno.EIO, error.errno
    else:
        raise AssertionError("a structured read of a broken disk succeeded")
    assert all(status == nbd.READ_DATA for status, _, _ in seen), seen
    f.shutdown()
    h.shutdown()


def tells_allocation():
    h = connect()
    told = runs(h, 4 * MIB, 0)["base:allocation"]
    assert told[0][1] == 0 and told[0][0] >= MIB and told[-1][1] == HOLE, told
    assert sum(length for length, _ in told) == 4 * MIB, told
    one = runs(h, 4 * MIB, 0, nbd.CMD_FLAG_REQ_ONE)["base:allocation"]
    assert len(one) == 1 and one[0][0] <= 4 * MIB, one
    # Around 4 GiB, where 32 bits end, and to the very end.
    for at, first in ((4095 * MIB - 512, HOLE), (4096 * MIB - 512, 0), (4096 * MIB, 0), (SIZE - MIB - 512, HOLE)):
        length = min(SIZE - at, 4096 * MIB - 512)
        told = runs(h, length, at)["base:allocation"]
        assert told[0][1] == first and all(n > 0 for n, _ in told), (at, told)
        assert sum(n for n, _ in told) <= length, (at, told)
    told = runs(h, MIB, SIZE - MIB)["base:allocation"]
    assert told == [(MIB, 0)], told
    h.shutdown()


def tells_several_contexts():
    h = connect(contexts=("base:allocation", "repagent:dirty"))
    assert h.can_meta_context("base:allocation") and h.can_meta_context("repagent:dirty")
    told = runs(h, 4 * MIB, 0)
    assert set(told) == {"base:allocation", "repagent:dirty"}, told
    # Nobody has a replica of it: all is dirty.
    assert told["repagent:dirty"] == [(4 * MIB, 1)], told
    none = connect(contexts=("qemu:dirty-bitmap:x",))
    assert not none.can_meta_context("qemu:dirty-bitmap:x")
    try:
        runs(none, MIB, 0)
    except nbd.Error as error:
        assert error.errnum == errno.EINVAL, error.errno
    else:
        raise AssertionError("block status without a context succeeded")
    assert len(none.pread(4096, 0)) == 4096
    none.shutdown()
    h.shutdown()


def fast_zero():
    h = connect()
    assert h.can_fast_zero()
    # A hole is punched at once on every file system that the tests use.
    h.zero(MIB, 8 * MIB, nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(MIB, 8 * MIB) == bytes(MIB)
    h.shutdown()


globals()[os.environ["CHECK"]]()
print("ok", os.environ["CHECK"])
