"""What the server shows of itself to SSH clients: its host key, and a certificate for those that come through TLS.

Owns two files in the data folder, both made at the first start. Must not be trusted to say which devbox is meant.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from corral.core import errors, wholefile
from corral.core.clock import Clock

HOST_KEY: Final = "ssh-host-key"
CERTIFICATE: Final = "ssh-tls.pem"

#: Clients of the dialect do not look at it: the host key is what a client can know the server by.
_VALID_DAYS: Final = 36_500


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The private host key, and the TLS side that carries SSH."""

    key: asyncssh.SSHKey
    tls: ssl.SSLContext

    @property
    def public_line(self) -> str:
        """The host key as in a file of known hosts, without the host: `ssh-ed25519 AAAA…`."""
        return " ".join(self.key.export_public_key().decode().split()[:2])


def load(folder: Path, clock: Clock, *, domain: str, certificate: Path | None = None) -> HostIdentity:
    """Read the files of the data folder, making what is missing. `certificate` holds a chain and its key, in PEM.

    Raises errors.Unavailable, with the file that it could not use.
    """
    return HostIdentity(_host_key(folder / HOST_KEY), _tls(certificate or _certificate(folder, clock, domain)))


def _host_key(path: Path) -> asyncssh.SSHKey:
    try:
        if not path.exists():
            wholefile.write(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        return asyncssh.import_private_key(path.read_bytes())
    except (OSError, asyncssh.KeyImportError) as error:
        raise errors.Unavailable(
            f"cannot use the SSH host key {path}: {error}", remedy="remove it or mend it"
        ) from error


def _certificate(folder: Path, clock: Clock, domain: str) -> Path:
    path = folder / CERTIFICATE
    if not path.exists():
        try:
            wholefile.write(path, self_signed(clock, f"*.ssh.{domain}"))
        except OSError as error:
            raise errors.Unavailable(
                f"cannot write {path}: {error.strerror}", remedy="let the server write its data folder"
            ) from error
    return path


def _tls(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise errors.Unavailable(
            f"cannot use the TLS certificate {path}: {error}",
            remedy="put a certificate chain and its key there, in PEM",
        ) from error
    return context


def self_signed(clock: Clock, name: str) -> bytes:
    """A key and a certificate for `name`, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corral SSH")])
    now = dt.datetime.fromtimestamp(clock.now_ms() / 1000, dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + made.public_bytes(serialization.Encoding.PEM)
