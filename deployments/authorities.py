"""The authorities that Prefect's clients trust on this host: none but one that has signed nothing.

Its API speaks plain HTTP on the loopback address, and still each client reads all authorities of
the world when it is made: 25 ms of the processor, some twenty times in a run.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from deployments.secret_files import secret_file

_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
_DAYS = timedelta(days=36500)


def no_authority(home: Path) -> Path:
    """The file of it; made on first use."""
    file = home / "no-authority.pem"
    secret_file(file, _certificate)
    return file


def _certificate() -> str:
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(_NAME, _NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _DAYS)
        .sign(key, None)  # and the key is forgotten
    )
    return made.public_bytes(Encoding.PEM).decode()
