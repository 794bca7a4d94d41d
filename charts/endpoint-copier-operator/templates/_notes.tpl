{{/* What NOTES.txt finds unusual, where that takes more than a look at one value. */}}

{{/*
The value by which a PodDisruptionBudget admits no eviction. Percentages are rounded up, as Kubernetes does. Where somebody else
scales the Deployment, only what holds for any number counts.
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

{{/* Values of the VIP Service that are not the chart's own. */}}
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
