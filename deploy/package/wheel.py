"""Packs the program as a Python wheel, so that `uvx fileferry` and `pipx run fileferry` need no compiler.

usage: wheel.py TREE VERSION DIRECTORY
"""
import base64
import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path

tree, version, into = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
# The program is static: any Linux of this processor will do, whatever its C library.
TAGS = ["py3-none-manylinux_2_17_x86_64", "py3-none-manylinux2014_x86_64", "py3-none-musllinux_1_1_x86_64"]
name = f"fileferry-{version}"
summary = "Delivers objects from S3 to SFTP, FTP and FTPS servers: resumable, and proven with a signed receipt"
metadata = f"""Metadata-Version: 2.1
Name: fileferry
Version: {version}
Summary: {summary}
License: Apache-2.0
Requires-Python: >=3.8
Description-Content-Type: text/markdown

{(tree / "README.md").read_text()}"""
wheel = "Wheel-Version: 1.0\nGenerator: wheel.py\nRoot-Is-Purelib: false\n" + "".join(f"Tag: {tag}\n" for tag in TAGS)
files = {
    f"{name}.data/scripts/fileferry": ((tree / "fileferry").read_bytes(), 0o755),
    f"{name}.dist-info/METADATA": (metadata.encode(), 0o644),
    f"{name}.dist-info/WHEEL": (wheel.encode(), 0o644),
    f"{name}.dist-info/licenses/LICENSE": ((tree / "LICENSE").read_bytes(), 0o644),
    f"{name}.dist-info/sboms/fileferry.cdx.json": ((tree / "fileferry.cdx.json").read_bytes(), 0o644),
}
record = "".join(
    f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
    for path, (data, _) in files.items()
)
files[f"{name}.dist-info/RECORD"] = ((record + f"{name}.dist-info/RECORD,,\n").encode(), 0o644)
platforms = ".".join(tag.rsplit("-", 1)[1] for tag in TAGS)
when = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800))[:6]
with zipfile.ZipFile(into / f"{name}-py3-none-{platforms}.whl", "w", zipfile.ZIP_DEFLATED) as archive:
    for path, (data, mode) in files.items():
        entry = zipfile.ZipInfo(path, when)
        entry.external_attr, entry.compress_type = (0o100000 | mode) << 16, zipfile.ZIP_DEFLATED
        archive.writestr(entry, data)
