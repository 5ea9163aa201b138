import pytest

from userservice._address import parse_address
from userservice._proxies import proxy_of

PROXY = "http://user:secret@proxy.example:3128"
NAMES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


def source(monkeypatch: pytest.MonkeyPatch, address: str, variables: dict[str, str], **options: object) -> str:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [target] = parse_address(address).targets
    return proxy_of(target, [(name.replace("__", "."), value) for name, value in options.items()])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"grpc_proxy": PROXY}, "$grpc_proxy"),
        ({"https_proxy": PROXY}, "$https_proxy"),
        ({"http_proxy": PROXY}, "$http_proxy"),
        ({"http_proxy": PROXY, "https_proxy": PROXY}, "$https_proxy"),
        ({"http_proxy": PROXY, "https_proxy": PROXY, "grpc_proxy": PROXY}, "$grpc_proxy"),
        # gRPC takes the first one that is set, even if it turns proxies off or is of no use.
        ({"http_proxy": PROXY, "grpc_proxy": ""}, ""),
        ({"http_proxy": PROXY, "https_proxy": "socks5://proxy.example:1080"}, ""),
        ({"https_proxy": "proxy.example:3128"}, ""),
        ({"HTTPS_PROXY": PROXY}, ""),
        ({"https_proxy": PROXY, "no_proxy": "internal"}, ""),
        ({"https_proxy": PROXY, "no_proxy": "a.example, .INTERNAL"}, ""),
        ({"https_proxy": PROXY, "no_proxy": "users"}, "$https_proxy"),
        ({"https_proxy": PROXY, "no_proxy": "10.0.0.0/8,"}, "$https_proxy"),
        ({"https_proxy": PROXY, "no_grpc_proxy": "", "no_proxy": "internal"}, "$https_proxy"),
    ],
)
def test_the_variable_that_grpc_uses(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    assert source(monkeypatch, "users.internal:50051", variables) == expected


@pytest.mark.parametrize(
    ("address", "no_proxy", "expected"),
    [
        ("10.1.2.3:1", "10.0.0.0/8", ""),
        ("10.1.2.3:1", "10.9.9.9/8", ""),
        ("10.1.2.3:1", "10.1.2.3", ""),
        ("10.1.2.3:1", "192.168.0.0/16", "$https_proxy"),
        ("10.1.2.3:1", "nonsense/8,/8,10/", "$https_proxy"),
        ("[2001:db8::1]:1", "2001:db8::/32", ""),
        ("[2001:db8::1]:1", "10.0.0.0/8", "$https_proxy"),
    ],
)
def test_networks_in_no_proxy(monkeypatch: pytest.MonkeyPatch, address: str, no_proxy: str, expected: str) -> None:
    assert source(monkeypatch, address, {"https_proxy": PROXY, "no_proxy": no_proxy}) == expected


def test_channel_options_decide_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"https_proxy": PROXY}
    assert source(monkeypatch, "users.internal:1", variables, grpc__enable_http_proxy=0) == ""
    assert (
        source(monkeypatch, "users.internal:1", variables, grpc__http_proxy=PROXY)
        == "the channel option grpc.http_proxy"
    )
    assert source(monkeypatch, "unix:/run/users.sock", variables) == ""
