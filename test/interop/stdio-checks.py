# Run by nbdsh: one function is one check of a server that libnbd starts itself. COMMAND is a JSON list of words.
import json
import os

import nbd

command = json.loads(os.environ["COMMAND"])


def use(h):
    """Reads, writes, flushes, and leaves in order."""
    assert h.get_size() == 1048576, h.get_size()
    h.pwrite(b"repagent" * 64, 4096)
    h.flush()
    assert h.pread(512, 4096) == b"repagent" * 64
    h.shutdown()


def connect_command():
    h = nbd.NBD()
    h.connect_command(command)
    use(h)


def socket_activation():
    h = nbd.NBD()
    h.connect_systemd_socket_activation(command)
    use(h)


def listing():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_command(command)
    names = []
    h.opt_list(lambda name, description: names.append(name) and 0)
    assert names == ["a", "b"], names
    h.set_export_name("b")
    h.opt_go()
    assert h.get_size() == 512
    h.shutdown()


def leave_without_a_word():
    h = nbd.NBD()
    h.connect_command(command)
    h.pwrite(b"last" * 128, 0)
    del h


globals()[os.environ["CHECK"]]()
print("ok " + os.environ["CHECK"])
