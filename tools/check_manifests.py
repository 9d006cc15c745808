#!/usr/bin/env python3
"""Checks the manifests in packaging/kubernetes against the schemas of their kinds:

    pip install kubernetes-validate
    python3 tools/check_manifests.py [CRD.yaml …]

Kubernetes' own kinds are in that package. Of others, those that a CRD defines are checked, and the rest is listed.
Unknown fields are errors.
"""

import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

MANIFESTS = Path(__file__).resolve().parent.parent / "packaging" / "kubernetes"


def strict(schema):
    """The JSON Schema of a CRD, in which objects have no other fields than those that it describes."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(part) for name, part in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    return schema


def custom(files):
    """The schemas in some CRDs, by API version and kind."""
    schemas = {}
    for crd in (crd for file in files for crd in yaml.safe_load_all(Path(file).read_text())):
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return schemas


def check(manifest, schemas):
    """What is wrong with a manifest, or None; and whether its kind is known."""
    kind = manifest["apiVersion"], manifest["kind"]
    try:
        if kind in schemas:
            jsonschema.validate(manifest, schemas[kind])
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.utils.SchemaNotFoundError:
        return None, False
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}", True
    return None, True


def main():
    schemas, failed = custom(sys.argv[1:]), False
    files = sorted(MANIFESTS.glob("*.yaml"))
    assert files, f"no manifests in {MANIFESTS}"
    for file in files:
        for manifest in yaml.safe_load_all(file.read_text()):
            error, known = check(manifest, schemas)
            name = f"{file.name}: {manifest['kind']} {manifest['metadata']['name']}"
            print(f"{name}: {error or ('valid' if known else 'unknown kind, not checked')}")
            failed |= error is not None
    sys.exit(failed)


if __name__ == "__main__":
    main()
