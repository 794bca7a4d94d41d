{{/* Rules for writes, in the ClusterRole or in a Role for each of `rbac.namespaces`. */}}

{{- define "endpoint-copier-operator.writeRules" -}}
# Writes copies.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [create, update, delete]
# Reports problems of a Service in Events about it. patch: to repeat an Event.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.serviceConditions.enabled }}
# Writes the condition endpoint-copier/InSync of managed Services.
- apiGroups: [""]
  resources: [services/status]
  verbs: [patch]
{{- end }}
{{- if .Values.rbac.endpointSlicesRestricted }}
# OpenShift requires this to write slices with addresses of Pods or Services.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices/restricted]
  verbs: [create]
{{- end }}
{{- if .Values.rbac.goOperator }}
# Removes the Endpoints that version 0.2 of the Go operator left, once copies exist.
- apiGroups: [""]
  resources: [endpoints]
  verbs: [get, delete]
# Not used by this operator: Pods of the Go operator 0.3.0 need it for their slice until they are replaced.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [patch]
# Not used by this operator: Pods of the Go operator 0.2 need it for their Endpoints until they are replaced.
- apiGroups: [""]
  resources: [endpoints]
  verbs: [create, update]
{{- end }}
{{- end }}
