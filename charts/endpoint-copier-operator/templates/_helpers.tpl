{{/* Names and labels. */}}

{{- define "endpoint-copier-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The Deployment's name, truncated as in charts before 0.4.0. With another name, an upgrade would create a second Deployment. */}}
{{- define "endpoint-copier-operator.fullname" -}}
{{- $name := include "endpoint-copier-operator.name" . }}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $made | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The metrics Service's name: a DNS label, so at most 63 characters and no dots, which the name of a release can have. */}}
{{- define "endpoint-copier-operator.metricsName" -}}
{{- $name := include "endpoint-copier-operator.fullname" . | replace "." "-" }}
{{- printf "%s-metrics" ($name | trunc 55 | trimSuffix "-") }}
{{- end }}

{{- define "endpoint-copier-operator.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{/* The Deployment's selector cannot change, so these labels are the same in every chart version. */}}
{{- define "endpoint-copier-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "endpoint-copier-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "endpoint-copier-operator.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "endpoint-copier-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels and annotations of an object: `include … (dict "root" $ "labels" … "annotations" …)`. Labels of the chart cannot be replaced. */}}
{{- define "endpoint-copier-operator.metadata" -}}
{{- $labels := include "endpoint-copier-operator.ownLabels" .root | fromYaml -}}
labels:
  {{- merge $labels (.labels | default dict) (.root.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "endpoint-copier-operator.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.leaseNamespace" -}}
{{- .Values.leaderElection.namespace | default (include "endpoint-copier-operator.namespace" .) }}
{{- end }}

{{- define "endpoint-copier-operator.leaseName" -}}
{{- .Values.leaderElection.id | default "f668ae63.endpoint-copier-operator" }}
{{- end }}

{{/* YAML parses a bare off as false. */}}
{{- define "endpoint-copier-operator.probeMode" -}}
{{- kindIs "bool" .Values.probe.mode | ternary "off" .Values.probe.mode }}
{{- end }}

{{- define "endpoint-copier-operator.vipName" -}}
{{- .Values.vip.name | default .Values.managedEndpoint.name | default "kubernetes-vip" }}
{{- end }}

{{- define "endpoint-copier-operator.vipNamespace" -}}
{{- .Values.vip.namespace | default .Values.managedEndpoint.namespace | default "default" }}
{{- end }}

{{/* Not empty if an object of this kind is rendered: `include … (dict "root" $ "kind" … "path" … "mode" .renderMode)`. */}}
{{- define "endpoint-copier-operator.isRendered" -}}
{{- if or (eq .mode "alwaysRender") (.root.Capabilities.APIVersions.Has .kind) }}true
{{- else if eq .mode "failIfMissing" }}
{{- fail (printf "%s.enabled: the cluster does not have %s, and %s.renderMode is failIfMissing" .path .kind .path) }}
{{- end }}
{{- end }}
