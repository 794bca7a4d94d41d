{{/* Parts of the Pods: placement, flags, probes. */}}

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
{{- /* Only Pods of the same ReplicaSet exclude each other, so that an upgrade needs no free node. Kubernetes 1.30 ignores this field. */}}
{{- $_ := set $pods "matchLabelKeys" (list "pod-template-hash") }}
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

{{/* Without `effect`, a toleration matches every effect. RKE2 and K3s use NoExecute for some of these taints. */}}
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
{{- else if or .Values.hostNetwork ($affinity.podAntiAffinity).requiredDuringSchedulingIgnoredDuringExecution }}
type: RollingUpdate
rollingUpdate:
  # There may be no node for an additional Pod. Two Pods with hostNetwork need two nodes because of their ports.
  maxSurge: 0
  maxUnavailable: 1
{{- else }}
type: RollingUpdate
rollingUpdate:
  maxSurge: 1
  maxUnavailable: 0
{{- end }}
{{- end }}

{{/* Settings that are flags: those of charts before 0.4.0, and those of the log, which have other defaults in `status` and `plan`. */}}
{{- define "endpoint-copier-operator.args" -}}
- --leader-elect
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

{{/* Flags that the chart sets in the environment, and the chart value of each. */}}
{{- define "endpoint-copier-operator.settings" -}}
allow-port: consent.allowPorts
allow-source: consent.allowSources
api-server-host: apiServer.host
api-server-mode: apiServer.mode
api-server-port: apiServer.port
cross-namespace: consent.crossNamespace
default-endpoint-name: defaultEndpoint.name
default-endpoint-namespace: defaultEndpoint.namespace
leader-election-id: leaderElection.id
leader-election-lease-duration: leaderElection.leaseDuration
leader-election-namespace: leaderElection.namespace
leader-election-renew-deadline: leaderElection.renewDeadline
leader-election-retry-period: leaderElection.retryPeriod
managed-endpoint-name: managedEndpoint.name
managed-endpoint-namespace: managedEndpoint.namespace
max-services: managedServices.max
max-services-per-namespace: managedServices.maxPerNamespace
metrics-cert-path: metrics.secure.secretName
metrics-secure: metrics.secure.enabled
nodes-selector: nodes.selector
probe: probe.mode
probe-period: probe.period
probe-timeout: probe.timeout
service-conditions: serviceConditions.enabled
{{- end }}

{{/* These settings are variables, so that `kubectl exec … /endpoint-copier-operator status` uses those of the operator in the Pod. */}}
{{- define "endpoint-copier-operator.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: HOST_IPS
  valueFrom:
    fieldRef:
      fieldPath: status.hostIPs
{{- range $flag, $path := include "endpoint-copier-operator.settings" . | fromYaml }}
{{- $value := $.Values }}
{{- range splitList "." $path }}
{{- $value = index $value . }}
{{- end }}
{{- if eq $flag "probe" }}
{{- $value = include "endpoint-copier-operator.probeMode" $ }}
{{- else if eq $flag "metrics-cert-path" }}
{{- $value = include "endpoint-copier-operator.metricsSecret" $ | empty | ternary "" "/metrics-certificate" }}
{{- else if eq $flag "allow-source" }}
{{- $value = join ";" $value }}
{{- else if eq $flag "allow-port" }}
{{- /* Without the flag, the operator uses its default, so an empty list is passed as 0. */}}
{{- $value = join "," $value | default "0" }}
{{- else if hasPrefix "max-services" $flag }}
{{- /* A million would be written as 1e+06. */}}
{{- $value = int64 $value }}
{{- end }}
{{- $name := printf "ENDPOINT_COPIER_%s" ($flag | upper | replace "-" "_") }}
{{- if and (eq $flag "api-server-host") (not $value) }}
{{- if eq $.Values.apiServer.mode "local" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- end }}
{{- /* For two flags, an empty value has a meaning: no Service is managed by its name, and all Nodes are selected. */}}
{{- else if or $value (has $flag (list "managed-endpoint-name" "nodes-selector")) }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The Secret with the certificate of the metrics, or nothing. */}}
{{- define "endpoint-copier-operator.metricsSecret" -}}
{{- if .Values.metrics.secure.enabled }}{{ .Values.metrics.secure.secretName }}{{ end }}
{{- end }}

{{/* Fields of a monitor that scrapes secure metrics: `include … (dict "root" $ "monitor" .Values.metrics.podMonitor "hasTokenFile" false)`. */}}
{{- define "endpoint-copier-operator.secureScrape" -}}
{{- $namespace := include "endpoint-copier-operator.namespace" .root }}
{{- with .root.Values.metrics.secure }}
{{- if .enabled }}
scheme: https
{{- if .authorization }}
authorization:
  {{- toYaml .authorization | nindent 2 }}
{{- else if $.hasTokenFile }}
bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- else }}
{{- fail "metrics.podMonitor.enabled with metrics.secure.enabled needs metrics.secure.authorization: a PodMonitor cannot use the token file of Prometheus" }}
{{- end }}
tlsConfig:
{{- if .tlsConfig }}
  {{- toYaml .tlsConfig | nindent 2 }}
{{- else if .secretName }}
{{- if ne ($.monitor.namespace | default $namespace) $namespace }}
{{- fail "metrics.secure.secretName: Prometheus reads the CA in the namespace of the monitor, which is another one; set metrics.secure.tlsConfig" }}
{{- end }}
  ca:
    secret:
      name: {{ .secretName }}
      key: ca.crt
  serverName: {{ printf "%s.%s.svc" (include "endpoint-copier-operator.metricsName" $.root) $namespace }}
{{- else }}
  # The certificate is self-signed.
  insecureSkipVerify: true
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A probe of the kubelet, or nothing if it is disabled: `include … (dict "probe" .Values.livenessProbe "path" "/healthz")`. */}}
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

{{/* Fields that the Pods of the Deployment and the Pod of `helm test` share: permissions, network, scheduling. */}}
{{- define "endpoint-copier-operator.podFields" -}}
serviceAccountName: {{ include "endpoint-copier-operator.serviceAccountName" . }}
automountServiceAccountToken: true
# A Service named endpoint-copier-api-server would otherwise set ENDPOINT_COPIER_API_SERVER_PORT.
enableServiceLinks: false
{{- if .Values.hostNetwork }}
hostNetwork: true
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . }}
  {{- end }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "endpoint-copier-operator.tolerations" . }}
tolerations:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
