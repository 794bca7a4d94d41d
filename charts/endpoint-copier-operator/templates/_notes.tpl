{{/* Conditions of NOTES.txt that depend on more than one value. */}}

{{/*
The value that makes a PodDisruptionBudget allow no eviction. Percentages are rounded up, as in Kubernetes. If something else
scales the Deployment, only values that block drains with any number of replicas count.
*/}}
{{- define "endpoint-copier-operator.blocksDrains" -}}
{{- $isScaled := kindIs "invalid" .Values.replicaCount }}
{{- $replicas := $isScaled | ternary 1000 .Values.replicaCount | int }}
{{- with .Values.podDisruptionBudget }}
{{- $isLeast := not (kindIs "invalid" .minAvailable) }}
{{- $given := $isLeast | ternary .minAvailable .maxUnavailable | toString }}
{{- $count := trimSuffix "%" $given | atoi }}
{{- if hasSuffix "%" $given }}
{{- $count = div (add (mul $count $replicas) 99) 100 | int }}
{{- end }}
{{- if and .enabled (gt $replicas 0) }}
{{- if and (not $isLeast) (eq $count 0) }}maxUnavailable is {{ $given }}
{{- else if and $isLeast (ge $count $replicas) }}minAvailable is {{ $given }}{{ if not $isScaled }}, replicaCount {{ $replicas }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Values of the VIP Service that differ from the defaults. */}}
{{- define "endpoint-copier-operator.vipGiven" -}}
{{- $defaults := (include "endpoint-copier-operator.defaults" . | fromYaml).vip }}
{{- $given := list }}
{{- range $name, $value := .Values.vip }}
{{- if and (ne $name "create") (ne (toJson $value) (toJson (get $defaults $name))) }}
{{- $given = append $given (printf "vip.%s" $name) }}
{{- end }}
{{- end }}
{{- join ", " $given }}
{{- end }}
