"""What boxes get of the host's way to the network."""

from __future__ import annotations

from pathlib import Path

from corral.runtime.oci import hostfiles


def host(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_hosts_resolvers_are_taken(tmp_path: Path) -> None:
    root = host(tmp_path, etc__resolv_DOT_conf="search x\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\n")
    found = hostfiles.read(root, {})
    assert found.resolvers == ("10.0.0.2",)
    assert b"search x" in found.files["etc/resolv.conf"]


def test_behind_a_resolver_on_the_loopback_are_the_real_ones(tmp_path: Path) -> None:
    root = host(tmp_path, etc__resolv_DOT_conf="nameserver 127.0.0.53\noptions edns0\n")
    host(root, run__systemd__resolve__resolv_DOT_conf="nameserver 192.168.1.1\n")
    found = hostfiles.read(root, {})
    assert found.resolvers == ("192.168.1.1",)
    assert b"127.0.0.53" not in found.files["etc/resolv.conf"]


def test_a_proxy_is_passed_on_and_one_with_a_password_is_not() -> None:
    environ = {"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://me:secret@proxy:3128", "HOME": "/root"}
    assert hostfiles.environment(environ) == {"HTTPS_PROXY": "http://proxy:3128"}


def test_a_bundle_variable_is_passed_on_when_boxes_have_that_file() -> None:
    environ = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "PIP_CERT": "/home/me/own.pem"}
    assert hostfiles.environment(environ) == {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}


def test_files_with_credentials_stay_on_the_host(tmp_path: Path) -> None:
    root = host(
        tmp_path,
        etc__pip_DOT_conf="[global]\nindex-url = https://user:pass@mirror/simple\n",
        etc__npmrc="//registry/:_authToken=abc\n",
    )
    assert {"etc/pip.conf", "etc/npmrc"}.isdisjoint(hostfiles.read(root, {}).files)


def test_the_layer_is_named_by_its_content_and_made_once(tmp_path: Path) -> None:
    root = host(tmp_path / "root", etc__resolv_DOT_conf="nameserver 10.0.0.2\n", etc__pip_DOT_conf="[global]\n")
    found = hostfiles.read(root, {})
    layer = hostfiles.write_layer(found, tmp_path / "layers")
    assert (layer.path / "etc/pip.conf").read_text() == "[global]\n"
    assert (layer.path / "etc").stat().st_mode & 0o777 == 0o755
    assert hostfiles.write_layer(found, tmp_path / "layers") == layer
    assert len(list((tmp_path / "layers").iterdir())) == 1
