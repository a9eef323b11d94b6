"""Prints a CycloneDX 1.5 bill of the crates that are built into the program.

usage: sbom.py TARGET
"""
import json
import subprocess
import sys

command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", sys.argv[1]]
metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
# The lock file's digests of the archives that crates.io serves.
checksums, name, version = {}, "", ""
with open(f"{metadata['workspace_root']}/Cargo.lock") as lock:
    for line in lock:
        key, _, value = line.strip().partition(" = ")
        value = value.strip('"')
        name, version = (value if key == "name" else name), (value if key == "version" else version)
        if key == "checksum":
            checksums[name, version] = value


def url(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def needed(node):
    """What is linked in: neither tests nor build scripts."""
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]


root = next(package["id"] for package in metadata["packages"] if package["name"] == "fileferry")
found, open_ids = {root}, [root]
while open_ids:
    for identifier in needed(nodes[open_ids.pop()]):
        if identifier not in found:
            found.add(identifier)
            open_ids.append(identifier)


def component(package, kind):
    entry = {"type": kind, "bom-ref": url(package), "name": package["name"], "version": package["version"], "purl": url(package)}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((package["name"], package["version"])):
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


ordered = sorted(found - {root}, key=lambda identifier: url(packages[identifier]))
bill = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "metadata": {"component": component(packages[root], "application")},
    "components": [component(packages[identifier], "library") for identifier in ordered],
    "dependencies": [
        {"ref": url(packages[identifier]), "dependsOn": sorted({url(packages[dep]) for dep in needed(nodes[identifier])})}
        for identifier in [root, *ordered]
    ],
}
json.dump(bill, sys.stdout, indent=1)
print()
