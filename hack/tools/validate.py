"""Validates Kubernetes objects, a JSON list on standard input, with the schemas of the named versions."""

import json
import sys

import kubernetes_validate

objects = json.load(sys.stdin)
wrong = 0
for version in sys.argv[1:]:
    for case, thing in objects:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            wrong += 1
            print(f"{version}, {case}: {thing['kind']} {thing['metadata']['name']}: {error}")
print(f"{len(objects)} objects, {wrong} wrong")
sys.exit(1 if wrong else 0)
