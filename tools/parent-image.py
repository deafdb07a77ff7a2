#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the image fleximigrate/parent: from scratch, with the nest as its entry point (docs/CONTAINERS.md).

OUT/fleximigrate-parent.tar is an OCI layout and a docker archive at once: whatever loads one or the other takes it. OUT/fleximigrate-parent.spdx.json says what is in it. The same program makes the
same bytes: nothing in here is about the time (unless SOURCE_DATE_EPOCH says so), the machine or who makes it."""
import argparse, datetime, hashlib, io, json, os, platform, re, subprocess, sys, tarfile
from pathlib import Path

MAX_BYTES = 5_000_000
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NAME = "fleximigrate/parent"


def digest(data):
    return hashlib.sha256(data).hexdigest()


def encoded(document):
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def tar_of(entries, epoch):
    """entries: (path, mode, content or None for a folder)"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, mode, content in entries:
            info = tarfile.TarInfo(path)
            info.mode, info.mtime = mode, epoch
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def stripped(path, out):
    copy = out / ".nest-stripped"
    try:
        subprocess.run(["strip", "-s", "-o", copy, path], check=True)
        data = copy.read_bytes()
    finally:
        copy.unlink(missing_ok=True)
    if b"/ld-linux" in data or b"/ld-musl" in data:
        sys.exit(f"{path} is linked dynamically: nothing in the image could load it")
    return data


def image_config(layer, version, created):
    labels = {"title": "FlexiMigrate parent", "description": "PID 1 of a container whose application can be moved to another host while it runs", "licenses": "MIT", "version": version}
    nest = "/.fleximigrate/nest"
    return {"architecture": ARCHITECTURES[platform.machine()], "os": "linux", "created": created,
            "config": {"Entrypoint": [nest, "--"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/", "StopSignal": "SIGTERM",
                       "Healthcheck": {"Test": ["CMD", nest, "--health"], "Interval": 30_000_000_000, "Timeout": 10_000_000_000, "Retries": 3},
                       "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]}, "history": [{"created": created, "created_by": "make parent-image"}]}


def descriptor(kind, data, **more):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest(data)}", "size": len(data), **more}


def archive(nest, version, epoch, created):
    layer = tar_of([(".fleximigrate", 0o755, None), (".fleximigrate/nest", 0o755, nest), (".fleximigrate/run", 0o1777, None)], epoch)
    config = encoded(image_config(layer, version, created))
    manifest = encoded({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor("config.v1+json", config),
                        "layers": [descriptor("layer.v1.tar", layer)]})
    names = {"io.containerd.image.name": f"docker.io/{NAME}:latest", "org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest, annotations=names)]}
    blob = lambda data: f"blobs/sha256/{digest(data)}"
    docker = [{"Config": blob(config), "Layers": [blob(layer)], "RepoTags": [f"{NAME}:latest"]}]
    blobs = sorted((blob(data), 0o644, data) for data in (layer, config, manifest))
    return tar_of([("blobs", 0o755, None), ("blobs/sha256", 0o755, None), *blobs, ("index.json", 0o644, encoded(index)), ("manifest.json", 0o644, encoded(docker)),
                   ("oci-layout", 0o644, encoded({"imageLayoutVersion": "1.0.0"}))], epoch)


def libc():
    """(name, version, licence) of what is linked into the nest."""
    text = subprocess.run(["ldd", "--version"], capture_output=True, text=True).stdout.splitlines()
    if not text or not ("GNU libc" in text[0] or "GLIBC" in text[0].upper()):
        sys.exit("the C library is not glibc: say in tools/parent-image.py what its licence is")
    return "glibc", re.search(r"([0-9.]+)\s*$", text[0])[1], "LGPL-2.1-or-later"


def package(key, name, version, licence, **more):
    return {"SPDXID": f"SPDXRef-{key}", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": licence,
            "licenseDeclared": licence, "copyrightText": "NOASSERTION", **more}


def spdx(nest, image, version, created):
    name, libc_version, licence = libc()
    relation = lambda a, kind, b: {"spdxElementId": f"SPDXRef-{a}", "relationshipType": kind, "relatedSpdxElement": f"SPDXRef-{b}"}
    checksum = lambda data: {"checksums": [{"algorithm": "SHA256", "checksumValue": digest(data)}]}
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"fleximigrate-parent-{version}",
            "documentNamespace": f"https://spdx.org/spdxdocs/fleximigrate-parent-{digest(image)}", "creationInfo": {"created": created, "creators": ["Tool: fleximigrate-parent-image"]},
            "packages": [package("image", NAME, version, f"MIT AND {licence}", primaryPackagePurpose="CONTAINER", **checksum(image)),
                         package("nest", "fleximigrate-nest", version, "MIT", primaryPackagePurpose="APPLICATION", **checksum(nest)),
                         package("libc", name, libc_version, licence, primaryPackagePurpose="LIBRARY")],
            "relationships": [relation("DOCUMENT", "DESCRIBES", "image"), relation("image", "CONTAINS", "nest"), relation("nest", "STATIC_LINK", "libc")]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nest", type=Path, default=Path("build/fleximigrate-nest"))
    parser.add_argument("--out", type=Path, default=Path("build"))
    args = parser.parse_args()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = re.search(r"version:\s*'([^']+)'", (Path(__file__).parent.parent / "meson.build").read_text())[1]
    nest = stripped(args.nest, args.out)
    image = archive(nest, version, epoch, created)
    if len(image) >= MAX_BYTES:
        sys.exit(f"the image has {len(image)} bytes, allowed are less than {MAX_BYTES}")
    tar = args.out / "fleximigrate-parent.tar"
    tar.write_bytes(image)
    (args.out / "fleximigrate-parent.spdx.json").write_text(json.dumps(spdx(nest, image, version, created), indent=2, sort_keys=True) + "\n")
    print(f"{tar}: {NAME}:latest, {len(image)} bytes, sha256 {digest(image)}")


if __name__ == "__main__":
    main()
