# Every NBD command and every error, sent by libnbd. Run by nbdsh (-n -c -): CHECK names the function to run, URI is a
# writable export of SIZE bytes that accepts any byte range, READ_ONLY_URI one that cannot be written.
# libnbd's own checks of arguments are switched off, so that the server gets what is wrong and has to answer.
import errno
import os
import random

import nbd

URI = os.environ["URI"]
READ_ONLY_URI = os.environ["READ_ONLY_URI"]
SIZE = int(os.environ["SIZE"])
MIB = 1024 * 1024


def connect(uri=URI):
    h = nbd.NBD()
    h.connect_uri(uri)
    h.set_strict_mode(0)
    return h


def pattern(length, seed):
    return random.Random(seed).randbytes(length)


def refused(what, names, call):
    """call() must fail with one of the errors named, e.g. 'EINVAL ENOSPC'."""
    allowed = [getattr(errno, name) for name in names.split()]
    try:
        call()
    except nbd.Error as error:
        assert error.errnum in allowed, f"{what}: {error.errno}, expected {names}"
        return
    raise AssertionError(f"{what} succeeded, expected {names}")


def still_serves(h, what):
    """The connection is in step after an error: what follows is understood and answered."""
    data = pattern(4096, what)
    h.pwrite(data, 8 * MIB)
    assert h.pread(4096, 8 * MIB) == data, f"after {what}: other data came back"


def close(h):
    h.shutdown()


def handshake():
    h = connect()
    assert h.get_protocol() == "newstyle-fixed", h.get_protocol()
    assert h.get_size() == SIZE
    assert not h.is_read_only()
    for name in ("can_flush", "can_fua", "can_trim", "can_zero", "can_cache", "can_multi_conn"):
        assert getattr(h, name)(), name
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
    assert h.get_block_size(nbd.SIZE_PREFERRED) >= 512
    assert h.get_block_size(nbd.SIZE_MAXIMUM) >= 32 * MIB
    close(h)
    r = connect(READ_ONLY_URI)
    assert r.is_read_only()
    close(r)


def options():
    """The negotiation, step by step and in orders that no ordinary client uses."""
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.set_full_info(True)
    h.connect_uri(URI)
    names = []
    for _ in range(2):
        names.clear()
        h.opt_list(lambda name, description: names.append(name))
        assert len(names) >= 2, names
    for name in names:
        h.set_export_name(name)
        h.opt_info()
        assert h.get_size() > 0
    h.set_export_name("no such export")
    refused("INFO of an unknown export", "ENOENT", h.opt_info)
    refused("GO to an unknown export", "ENOENT", h.opt_go)
    h.set_export_name("x" * 4000)
    refused("GO with a long name", "ENOENT EINVAL", h.opt_go)
    h.add_meta_context("base:allocation")
    try:
        h.opt_list_meta_context(lambda name: 0)
    except nbd.Error:
        pass  # it may not be offered; the negotiation must go on
    h.set_export_name("")
    h.opt_info()
    assert h.get_size() == SIZE
    h.opt_go()
    still_serves(h, "a long negotiation")
    close(h)

    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    h.opt_abort()


def read_write():
    h = connect()
    for offset, length in (
        (0, 512), (0, 1), (1, 1), (511, 2), (4095, 4098), (65535, 65537), (MIB - 1, 3 * MIB + 2),
        (SIZE - 1, 1), (SIZE - 4096, 4096), (4 * MIB, 32 * MIB),
    ):
        data = pattern(length, offset)
        h.pwrite(data, offset)
        assert h.pread(length, offset) == data, f"{length} bytes at {offset}"
    close(h)


def neighbours():
    """What is written beside a range stays as it was."""
    h = connect()
    base = bytearray(pattern(64 * 1024, "neighbours"))
    h.pwrite(bytes(base), 0)
    rng = random.Random(7)
    for _ in range(200):
        offset = rng.randrange(len(base) - 3000)
        length = rng.randrange(1, 3000)
        kind = rng.randrange(3)
        if kind == 0:
            data = rng.randbytes(length)
            h.pwrite(data, offset)
        elif kind == 1:
            data = bytes(length)
            h.zero(length, offset)
        else:
            data = bytes(length)
            h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE)
        base[offset:offset + length] = data
    assert h.pread(len(base), 0) == bytes(base)
    close(h)


def fua_and_flush():
    h = connect()
    data = pattern(8192, "fua")
    h.pwrite(data, 4096, nbd.CMD_FLAG_FUA)
    h.flush()
    h.zero(4096, 4096, nbd.CMD_FLAG_FUA)
    h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
    h.flush()
    assert h.pread(4096, 4096) == bytes(4096)
    close(h)


def trim_zero_cache():
    h = connect()
    at, length = 2 * MIB, MIB
    h.pwrite(pattern(length, 1), at)
    h.trim(length, at)
    assert h.pread(length, at) == bytes(length), "a trimmed range reads as zeroes"
    h.pwrite(pattern(length, 2), at)
    h.zero(length, at)
    assert h.pread(length, at) == bytes(length)
    h.pwrite(pattern(length, 3), at)
    h.zero(length, at, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    assert h.pread(length, at) == bytes(length)
    h.cache(length, at)
    h.cache(SIZE, 0)
    h.zero(SIZE - 4 * MIB, 4 * MIB)  # larger than any write may be
    h.trim(SIZE - 4 * MIB, 4 * MIB)
    assert h.pread(MIB, SIZE - MIB) == bytes(MIB)
    close(h)


def many_in_flight():
    """64 requests at a time, on four connections, each connection in its own quarter."""
    handles = [connect() for _ in range(4)]
    quarter = SIZE // 4
    rng = random.Random(11)
    cookies = [[] for _ in handles]
    expected = {}
    for round_ in range(8):
        for index, h in enumerate(handles):
            for slot in range(16):
                length = rng.choice((512, 4096, 5000, 65536, 100_000))
                offset = index * quarter + (round_ * 16 + slot) * 102_400
                data = rng.randbytes(length)
                expected[offset] = data
                cookies[index].append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset))
        for h, issued in zip(handles, cookies):
            wait(h, issued)
    reads = {}
    for turn, (offset, data) in enumerate(expected.items()):
        reads[offset] = nbd.Buffer(len(data))
        cookies[turn % 4].append(handles[turn % 4].aio_pread(reads[offset], offset))
    for h, issued in zip(handles, cookies):
        wait(h, issued)
    for offset, data in expected.items():
        assert bytes(reads[offset].to_bytearray()) == data, f"at {offset}"
    for h in handles:
        close(h)


def wait(h, cookies):
    while h.aio_in_flight() > 0:
        h.poll(-1)
    for cookie in cookies:
        assert h.aio_command_completed(cookie)  # raises the request's error, if it had one
    cookies.clear()


def connections_see_each_other():
    """What multi-conn promises: a flush on one connection covers, and a read sees, what another one wrote."""
    a, b = connect(), connect()
    for turn in range(20):
        data = pattern(4096, turn)
        (a if turn % 2 else b).pwrite(data, 4096 * turn)
        (b if turn % 2 else a).flush()
        assert (b if turn % 2 else a).pread(4096, 4096 * turn) == data
    close(a)
    close(b)


def out_of_range():
    h = connect()
    for what, offset, length in (
        ("one byte past the end", SIZE, 1),
        ("over the end", SIZE - 512, 1024),
        ("far past the end", 1 << 40, 4096),
        ("at 2^53", 1 << 53, 4096),
        ("at 2^63 - 512", (1 << 63) - 512, 512),
        ("around 2^64", (1 << 64) - 512, 1024),
    ):
        offset = offset if offset < 1 << 63 else offset - (1 << 64)  # the binding wants it signed
        refused(f"read {what}", "EINVAL", lambda: h.pread(length, offset))
        refused(f"write {what}", "ENOSPC", lambda: h.pwrite(bytes(length), offset))
        refused(f"trim {what}", "EINVAL", lambda: h.trim(length, offset))
        refused(f"zero {what}", "ENOSPC EINVAL", lambda: h.zero(length, offset))
        refused(f"cache {what}", "EINVAL", lambda: h.cache(length, offset))
        still_serves(h, what)
    refused("trim of 4 GiB - 512", "EINVAL", lambda: h.trim((1 << 32) - 512, 0))
    refused("zero of 4 GiB - 512", "ENOSPC EINVAL", lambda: h.zero((1 << 32) - 512, 0))
    still_serves(h, "lengths near 2^32")
    close(h)


def too_long():
    """Requests longer than what is advertised: taken up to 64 MiB, which is as much as this client sends."""
    h = connect()
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MIB
    data = pattern(48 * MIB, "longer than advertised")
    h.pwrite(data, 0)
    assert h.pread(48 * MIB, 0) == data, "48 MiB came back changed"
    h.zero(48 * MIB, 0)
    still_serves(h, "requests that are longer than advertised")
    close(h)


def unknown_flags():
    h = connect()
    unknown = 1 << 14
    data = pattern(4096, "flags")
    h.pwrite(data, 0)
    refused("read", "EINVAL", lambda: h.pread(4096, 0, unknown))
    refused("write", "EINVAL", lambda: h.pwrite(bytes(4096), 0, unknown))
    refused("trim", "EINVAL", lambda: h.trim(4096, 0, unknown))
    refused("zero", "EINVAL", lambda: h.zero(4096, 0, unknown))
    refused("cache", "EINVAL", lambda: h.cache(4096, 0, unknown))
    refused("flush", "EINVAL", lambda: h.flush(unknown))
    refused("NO_HOLE on a write", "EINVAL", lambda: h.pwrite(bytes(4096), 0, nbd.CMD_FLAG_NO_HOLE))
    assert h.pread(4096, 0) == data, "a refused request changed the disk"
    still_serves(h, "unknown flags")
    close(h)


def zero_length():
    """The protocol leaves it open: done or refused, but answered, and nothing changes."""
    h = connect()
    data = pattern(4096, "zero length")
    h.pwrite(data, 0)
    for call in (
        lambda: h.pread(0, 0), lambda: h.pwrite(b"", 0), lambda: h.trim(0, 0),
        lambda: h.zero(0, 0), lambda: h.cache(0, 0), lambda: h.pwrite(b"", SIZE),
    ):
        try:
            call()
        except nbd.Error as error:
            assert error.errnum in (errno.EINVAL, errno.ENOSPC), error.errno
    assert h.pread(4096, 0) == data
    close(h)


def read_only():
    h = connect(READ_ONLY_URI)
    before = h.pread(MIB, 0)
    refused("write", "EPERM EROFS", lambda: h.pwrite(bytes(4096), 0))
    refused("write with FUA", "EPERM EROFS", lambda: h.pwrite(bytes(4096), 0, nbd.CMD_FLAG_FUA))
    refused("trim", "EPERM EROFS", lambda: h.trim(4096, 0))
    refused("zero", "EPERM EROFS", lambda: h.zero(4096, 0))
    h.flush()
    assert h.pread(MIB, 0) == before
    close(h)


def hang_up():
    """A client that leaves in the middle takes nobody down."""
    stays = connect()
    for _ in range(5):
        leaves = connect()
        for slot in range(32):
            leaves.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(MIB // 4)), slot * MIB // 4)
        leaves.poll(0)
        del leaves  # closes the socket with requests in flight
        still_serves(stays, "another client's hang-up")
    close(stays)


def unaligned():
    """URI is an export with 512-byte blocks."""
    h = connect()
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
    for offset, length in ((1, 512), (0, 511), (100, 100)):
        refused("read", "EINVAL", lambda: h.pread(length, offset))
        refused("write", "EINVAL", lambda: h.pwrite(bytes(length), offset))
        refused("trim", "EINVAL", lambda: h.trim(length, offset))
        refused("zero", "EINVAL", lambda: h.zero(length, offset))
    still_serves(h, "unaligned requests")
    close(h)


globals()[os.environ["CHECK"]]()
print("ok", os.environ["CHECK"])
