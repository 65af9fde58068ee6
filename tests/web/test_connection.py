"""One connection; test_connections.py attacks many over real sockets."""

import pytest

from killsnoopd.web.connection import network


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/socket", ""),
    ],
)
def test_what_is_one_peer(host, peer):
    """The holder of one IPv6 address has 2^64 of them."""
    assert network(host) == peer
