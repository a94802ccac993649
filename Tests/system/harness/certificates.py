"""Authorities, certificates and keys, made by the openssl command in a directory of a test's own."""

import os
import pathlib
import shutil
import subprocess
import time

P256, P521 = (("ec", "-pkeyopt", f"ec_paramgen_curve:{curve}") for curve in ("prime256v1", "secp521r1"))

_CONFIGURATION = """
[ca]
default_ca = own
[own]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


def _moment(seconds):
    """A moment so many seconds from now, as openssl takes it."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))


class Certificate:
    """A certificate with its key."""

    def __init__(self, path):
        self.path = pathlib.Path(f"{path}.pem")
        self.key = pathlib.Path(f"{path}.key")

    def replace(self, other):
        """Puts another one into its place, as a tool that rotates does: whole files under the same names."""
        for own, new in ((self.path, other.path), (self.key, other.key)):
            copy = own.with_suffix(".new")
            copy.write_bytes(new.read_bytes())
            os.replace(copy, own)


class Authority(Certificate):
    """Signs certificates. One that is signed by another, `above`, is no root."""

    def __init__(self, directory, name, above=None):
        self.directory = pathlib.Path(directory) / name
        self.directory.mkdir()
        super().__init__(self.directory / "ca")
        self.name = name
        if above:
            signed = above.sign(name, constraints="critical,CA:TRUE")
            shutil.copy(signed.path, self.path)
            shutil.copy(signed.key, self.key)
        else:
            _openssl("req", "-x509", *_new_key(self.key), "-out", self.path, "-subj", f"/CN={name}", "-days", "3650")
        (self.directory / "index").touch()
        self.configuration = self.directory / "ca.cnf"
        self.configuration.write_text(_CONFIGURATION.format(directory=self.directory))

    def sign(self, name, names=None, begins=-3600, ends=86400, usage=None, constraints=None, kind=P256):
        """A certificate for `names` (as openssl writes them, such as `DNS:a,IP:127.0.0.1`), good from `begins` to `ends`
        seconds from now, and a key of a `kind` as `openssl req -newkey` takes it."""
        made = Certificate(self.directory / name)
        request = self.directory / f"{name}.csr"
        wanted = [("subjectAltName", names), ("extendedKeyUsage", usage), ("basicConstraints", constraints)]
        extensions = [word for key, value in wanted if value for word in ("-addext", f"{key}={value}")]
        _openssl("req", *_new_key(made.key, kind), "-out", request, "-subj", f"/CN={name}", *extensions)
        _openssl("ca", "-batch", "-config", self.configuration, "-cert", self.path, "-keyfile", self.key, "-in", request,
                 "-out", made.path, "-notext", "-startdate", _moment(begins), "-enddate", _moment(ends))
        return made

    def before_renewal(self):
        """The certificate that this root had before: of the same name and key, and over."""
        request, path = self.directory / "before.csr", self.directory / "before.pem"
        _openssl("req", "-new", "-key", self.key, "-out", request, "-subj", f"/CN={self.name}",
                 "-addext", "basicConstraints=critical,CA:TRUE")
        _openssl("ca", "-batch", "-config", self.configuration, "-selfsign", "-keyfile", self.key, "-in", request,
                 "-out", path, "-notext", "-startdate", _moment(-7200), "-enddate", _moment(-3600))
        return path


def _new_key(path, kind=P256):
    return ["-newkey", *kind, "-nodes", "-keyout", path]


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
