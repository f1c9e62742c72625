"""Certificates in Secrets: what is wrong with a pair, before anybody is given it.

A pair is tried as a server would, from memory: no key is written anywhere for that. Only standalone mode reads them.
"""

import os
import ssl
from typing import Final

from igw_api.objects import Secret

# The keys of a Secret of type kubernetes.io/tls.
CERTIFICATE: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"
AUTHORITIES: Final = "ca.crt"


def fault(secret: Secret) -> str | None:
    """Why no server can use it, without quoting it. None: one can."""
    for name in (CERTIFICATE, PRIVATE_KEY):
        if not secret.data.get(name, "").strip():
            return f"has no `{name}`"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as memory:
            memory.write(pem(secret).encode())
        # Without a password OpenSSL would ask on the terminal for that of an encrypted key.
        context.load_cert_chain(f"/proc/self/fd/{file}", password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"has a `{PRIVATE_KEY}` that is not that of the first certificate in `{CERTIFICATE}`"
        return f"has no PEM certificate in `{CERTIFICATE}`, or no unencrypted PEM key in `{PRIVATE_KEY}`"
    finally:
        os.close(file)
    return None


def pem(secret: Secret) -> str:
    """Key and certificates in one text, as servers read it. The key comes first: chains may be long."""
    return "".join(secret.data[name].strip() + "\n" for name in (PRIVATE_KEY, CERTIFICATE))
