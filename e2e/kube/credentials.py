"""One certificate authority, and the few certificates and keys that a cluster needs."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Final

from e2e.kube.places import NODE, NODE_ADDRESS, PKI, SERVICE_ADDRESS

API_NAMES: Final = (
    "IP:127.0.0.1", f"IP:{NODE_ADDRESS}", f"IP:{SERVICE_ADDRESS}", "DNS:localhost",
    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
)  # fmt: skip
KUBELET_NAMES: Final = (f"IP:{NODE_ADDRESS}", f"DNS:{NODE}")
DAYS: Final = 365
ELLIPTIC: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make() -> None:
    """Make what is not there yet: ca, apiserver, kubelet, admin, and the key that signs service accounts."""
    PKI.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (PKI / "ca.crt").exists():
        _openssl(
            "req", "-x509", *ELLIPTIC, "-days", str(DAYS), "-subj", "/CN=kvtide-e2e",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", file("ca.key"), "-out", file("ca.crt"),
        )  # fmt: skip
    if not (PKI / "accounts.key").exists():
        _openssl("genrsa", "-out", file("accounts.key"), "2048")
        _openssl("rsa", "-in", file("accounts.key"), "-pubout", "-out", file("accounts.pub"))
    _sign("apiserver", "/CN=kube-apiserver", API_NAMES)
    _sign("kubelet", f"/O=system:nodes/CN=system:node:{NODE}", KUBELET_NAMES)
    _sign("admin", "/O=system:masters/CN=kvtide-e2e-admin", ())


def file(name: str) -> str:
    """The path of a credential, as command lines want it."""
    return str(PKI / name)


def write_kubeconfig(path: Path, who: str, server: str) -> None:
    """A kubeconfig (JSON is YAML) for the holder of one of the certificates."""

    def data(name: str) -> str:
        return base64.b64encode((PKI / name).read_bytes()).decode()

    user = {"client-certificate-data": data(f"{who}.crt"), "client-key-data": data(f"{who}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": who}}],
        "clusters": [
            {"name": "e2e", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}
        ],
        "users": [{"name": who, "user": user}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))


def _sign(name: str, subject: str, alternative_names: tuple[str, ...]) -> None:
    if (PKI / f"{name}.crt").exists():
        return
    extensions = ["keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
    if alternative_names:
        extensions.append(f"subjectAltName={','.join(alternative_names)}")
    (PKI / f"{name}.ext").write_text("\n".join(extensions))
    _openssl("req", *ELLIPTIC, "-keyout", file(f"{name}.key"), "-out", file(f"{name}.csr"), "-subj", subject)
    _openssl(
        "x509", "-req", "-in", file(f"{name}.csr"), "-CA", file("ca.crt"), "-CAkey", file("ca.key"),
        "-CAcreateserial", "-days", str(DAYS), "-extfile", file(f"{name}.ext"), "-out", file(f"{name}.crt"),
    )  # fmt: skip


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
