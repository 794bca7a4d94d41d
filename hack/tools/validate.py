"""Validates Kubernetes objects with the schemas of the given versions. Reads a JSON list of [case, object] from
standard input."""

import json
import sys

import kubernetes_validate

objects = json.load(sys.stdin)
invalid = 0
for version in sys.argv[1:]:
    for case, thing in objects:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            invalid += 1
            print(f"{version}, {case}: {thing['kind']} {thing['metadata']['name']}: {error}")
print(f"{len(objects)} objects, {invalid} invalid")
sys.exit(1 if invalid else 0)
