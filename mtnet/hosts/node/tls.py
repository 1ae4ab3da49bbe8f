"""TLS from 1.2, with certificates as the config has them."""

from __future__ import annotations

import ssl

from mtnet.hosts.node.config import ConfigError, Tls


def server_context(tls: Tls | None) -> ssl.SSLContext | None:
    """For the DICOM port; with ``ca``, senders need a certificate of it.

    Raises:
        ConfigError: there is no certificate, or a file holds none.
    """
    if tls is None:
        return None
    if tls.cert is None:
        raise ConfigError("receiver: tls has no cert and key; a server needs them.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Towards a destination, whose certificate has to come from ``ca``, or else from one that the system trusts.

    Raises:
        ConfigError: a file holds no certificate or key.
    """
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.ca)
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"tls: {tls.cert or tls.ca} cannot be used ({type(error).__name__}).") from None
