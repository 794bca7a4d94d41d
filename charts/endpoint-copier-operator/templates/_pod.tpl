{{/* Parts of the Pods: where they run, flags, probes. */}}

{{- define "endpoint-copier-operator.affinity" -}}
{{- $given := .Values.affinity | default dict }}
{{- $affinity := dict }}
{{- if .Values.controlPlane.preferNodes }}
{{- $expression := dict "key" "node-role.kubernetes.io/control-plane" "operator" "Exists" }}
{{- $term := dict "weight" 100 "preference" (dict "matchExpressions" (list $expression)) }}
{{- $_ := set $affinity "nodeAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- end }}
{{- $pods := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "endpoint-copier-operator.selectorLabels" . | fromYaml)) }}
{{- if eq .Values.podAntiAffinityPreset "hard" }}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $pods)) }}
{{- else if eq .Values.podAntiAffinityPreset "soft" }}
{{- $term := dict "weight" 100 "podAffinityTerm" $pods }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- end }}
{{- range $part, $terms := $given }}
{{- $_ := set $affinity $part $terms }}
{{- end }}
{{- if $affinity }}
{{- toYaml $affinity }}
{{- end }}
{{- end }}

{{/* Without an effect: of every effect. RKE2 and K3s use NoExecute for some of these. */}}
{{- define "endpoint-copier-operator.tolerations" -}}
{{- $tolerations := list }}
{{- if .Values.controlPlane.tolerateTaints }}
{{- range list "node-role.kubernetes.io/control-plane" "node-role.kubernetes.io/master" "node-role.kubernetes.io/etcd" "CriticalAddonsOnly" }}
{{- $tolerations = append $tolerations (dict "key" . "operator" "Exists") }}
{{- end }}
{{- end }}
{{- if not (kindIs "invalid" .Values.nodeFailureTolerationSeconds) }}
{{- $seconds := int64 .Values.nodeFailureTolerationSeconds }}
{{- range list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" }}
{{- $tolerations = append $tolerations (dict "key" . "operator" "Exists" "effect" "NoExecute" "tolerationSeconds" $seconds) }}
{{- end }}
{{- end }}
{{- with concat $tolerations (.Values.tolerations | default list) }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.topologySpreadConstraints" -}}
{{- $selector := dict "matchLabels" (include "endpoint-copier-operator.selectorLabels" . | fromYaml) }}
{{- range .Values.topologySpreadConstraints }}
- {{ hasKey . "labelSelector" | ternary . (merge (dict "labelSelector" $selector) .) | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.updateStrategy" -}}
{{- $affinity := include "endpoint-copier-operator.affinity" . | fromYaml }}
{{- if .Values.updateStrategy }}
{{- toYaml .Values.updateStrategy }}
{{- else if ($affinity.podAntiAffinity).requiredDuringSchedulingIgnoredDuringExecution }}
type: RollingUpdate
rollingUpdate:
  # A Pod too many may have no node to go to.
  maxSurge: 0
  maxUnavailable: 1
{{- else }}
type: RollingUpdate
rollingUpdate:
  maxSurge: 1
  maxUnavailable: 0
{{- end }}
{{- end }}

{{/* What no schema can say: the operator would refuse to start. Durations are compared as times after one moment. */}}
{{- define "endpoint-copier-operator.checkElection" -}}
{{- with .Values.leaderElection }}
{{- $start := toDate "2006" "2000" }}
{{- $form := "2006-01-02T15:04:05.000000000" }}
{{- $after := list }}
{{- range list (list .leaseDuration 1) (list .renewDeadline 1) (list .renewDeadline 5) (list .retryPeriod 6) }}
{{- $time := $start }}
{{- $duration := printf "+%s" (first .) }}
{{- range until (last .) }}
{{- $time = dateModify $duration $time }}
{{- end }}
{{- $after = append $after (dateInZone $form $time "UTC") }}
{{- end }}
{{- if le (index $after 0) (index $after 1) }}
{{- fail (printf "leaderElection.leaseDuration (%s) must be longer than leaderElection.renewDeadline (%s)" .leaseDuration .renewDeadline) }}
{{- end }}
{{- if le (index $after 2) (index $after 3) }}
{{- fail (printf "leaderElection.renewDeadline (%s) must be longer than 1.2 times leaderElection.retryPeriod (%s)" .renewDeadline .retryPeriod) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A value that is null gives no flag, and so the operator's own default. */}}
{{- define "endpoint-copier-operator.args" -}}
{{- include "endpoint-copier-operator.checkElection" . -}}
- --leader-elect
{{- with .Values.leaderElection }}
{{- with .leaseDuration }}
- --leader-election-lease-duration={{ . }}
{{- end }}
{{- with .renewDeadline }}
- --leader-election-renew-deadline={{ . }}
{{- end }}
{{- with .retryPeriod }}
- --leader-election-retry-period={{ . }}
{{- end }}
{{- with .namespace }}
- --leader-election-namespace={{ . }}
{{- end }}
{{- with .id }}
- --leader-election-id={{ . }}
{{- end }}
{{- end }}
{{- with .Values.defaultEndpoint }}
{{- with .name }}
- --default-endpoint-name={{ . }}
{{- end }}
{{- with .namespace }}
- --default-endpoint-namespace={{ . }}
{{- end }}
{{- end }}
{{- with .Values.managedEndpoint }}
{{- /* Empty is a value of its own here: none. */}}
{{- if kindIs "string" .name }}
- --managed-endpoint-name={{ .name }}
{{- end }}
{{- with .namespace }}
- --managed-endpoint-namespace={{ . }}
{{- end }}
{{- end }}
{{- with .Values.apiServer }}
{{- with .mode }}
- --api-server-mode={{ . }}
{{- end }}
{{- with .host }}
- --api-server-host={{ . }}
{{- end }}
{{- with .port }}
- --api-server-port={{ . }}
{{- end }}
{{- end }}
{{- with .Values.logLevel }}
- --log-level={{ . }}
{{- end }}
{{- with .Values.logFormat }}
- --log-format={{ . }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- if and (eq (.Values.apiServer.mode | default "") "local") (not .Values.apiServer.host) }}
- name: ENDPOINT_COPIER_API_SERVER_HOST
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* `include … (dict "probe" .Values.livenessProbe "path" "/healthz")`; nothing if it is switched off. */}}
{{- define "endpoint-copier-operator.probe" -}}
{{- if .probe.enabled }}
httpGet:
  path: {{ .path }}
  port: health
{{- with omit .probe "enabled" }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
