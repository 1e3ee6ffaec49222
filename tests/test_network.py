"""The package reaches the network where it is told to and nowhere else, and its tests never do."""

import socket
import subprocess
import sys

import pytest

from hub import Hub

ELSEWHERE = ("192.0.2.1", 9)  # of a block that is reserved for documentation (RFC 5737)
WATCHED = """
import sys
sys.addaudithook(lambda event, _: event.startswith("socket.") and sys.exit(event))
import robustdeq
from robustdeq import cli
from robustdeq.cli.commands import COMMANDS, command
parts = [getattr(robustdeq, part) for part in robustdeq.__all__]
commands = [command(name) for name in COMMANDS]
cli.main(["--help"])
"""


def test_import_and_help_open_no_socket() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_a_test_that_asks_for_another_machine_fails() -> None:
    for ask in (
        lambda: socket.create_connection(ELSEWHERE, timeout=1),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ELSEWHERE),
    ):
        with pytest.raises(pytest.fail.Exception, match="tests reach no machine but this one"):
            ask()


def test_a_test_may_ask_its_own_machine() -> None:
    with Hub() as hub, socket.create_connection(hub.server_address):
        pass
