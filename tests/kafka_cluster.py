"""The broker of a session of tests: plain, with TLS and with a password."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from examples.kafka.broker import Broker
from examples.ports import free_ports

USER, PASSWORD = "alice", "hunter2-hunter2"
_numbers = itertools.count()


class Cluster:
    """A broker, addresses of topics that are not there yet, and what users do to topics.

    ``tls``, ``sasl``: HOST:PORT for connections with TLS (by the certificate in ``certificate``) and with SASL/PLAIN.
    """

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "certificate.pem"
        both = folder / "broker.pem"
        both.write_bytes(_certified(self.certificate))
        self.tls, self.sasl = (f"127.0.0.1:{port}" for port in free_ports(2))
        login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        self.broker = Broker(
            folder / "broker",
            listeners=[f"SSL://{self.tls}", f"SASL_PLAINTEXT://{self.sasl}"],
            settings={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(both),
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": login,
            },
        )

    def new(self, options: str = "fetch.wait.max.ms=10", address: str = "") -> str:
        """A log's address. Readers that turn back wait for their last fetch, so tests let fetches be short."""
        return f"kafka://{address or self.broker.address}/log-{next(_numbers)}{'?' * bool(options)}{options}"

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.address})

    def make(self, uri: str, config: dict[str, str] | None = None) -> None:
        """Make the topic, as its owner does: with one partition."""
        self.admin.create_topics([NewTopic(topic(uri), 1, config=config or {})])[topic(uri)].result(30)

    def producer(self, **settings: Any) -> Producer:
        """As users have them."""
        return Producer({"bootstrap.servers": self.broker.address, **settings})


def topic(uri: str) -> str:
    """The topic in an address."""
    return uri.partition("?")[0].rpartition("/")[2]


def _certified(certificate: Path) -> bytes:
    """Writes a certificate for loopback; gives it and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    certificate.write_bytes(pem)
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *private) + pem
