{{/*
Defaults for sections, and for values in sections, that are absent or null. `helm upgrade --reuse-values` renders this chart
with the values of the old one, which has fewer sections, and Helm drops null values before it renders templates. A test
compares these defaults with values.yaml.
*/}}

{{- define "endpoint-copier-operator.defaults" -}}
image:
  registry: ""
  repository: ghcr.io/endpoint-copier-operator/endpoint-copier-operator
  tag: ""
  digest: ""
  pullPolicy: IfNotPresent
revisionHistoryLimit: 3
terminationGracePeriodSeconds: 10
podDisruptionBudget:
  enabled: true
  maxUnavailable: 1
  minAvailable: null
  unhealthyPodEvictionPolicy: AlwaysAllow
controlPlane:
  preferNodes: true
  tolerateTaints: true
podAntiAffinityPreset: soft
schedulerName: ""
runtimeClassName: ""
resourceQuota:
  enabled: false
  pods: 10
leaderElection:
  leaseDuration: 6s
  renewDeadline: 4s
  retryPeriod: 1s
  namespace: ""
  id: f668ae63.endpoint-copier-operator
apiServer:
  mode: auto
  host: ""
  port: 6443
probe:
  mode: enforce
  period: 1s
  timeout: 1s
consent:
  crossNamespace: consent
  allowSources: []
  allowPorts: [9345]
managedServices:
  max: 10000
  maxPerNamespace: 1000
admission:
  users:
    enabled: false
    verb: ""
  operator:
    enabled: false
serviceConditions:
  enabled: false
nodes:
  enabled: true
  selector: node-role.kubernetes.io/control-plane
defaultEndpoint:
  name: kubernetes
  namespace: default
managedEndpoint:
  name: kubernetes-vip
  namespace: default
vip:
  create: false
  name: ""
  namespace: ""
  distribution: rke2
  ports: []
  loadBalancerIP: ""
  loadBalancerClass: ""
  loadBalancerSourceRanges: []
  externalTrafficPolicy: Cluster
  allocateLoadBalancerNodePorts: null
  ipFamilyPolicy: ""
  ipFamilies: []
  labels: {}
  annotations: {}
  keep: true
hostNetwork: false
dnsPolicy: ""
logLevel: info
logFormat: text
startupProbe:
  enabled: true
  initialDelaySeconds: 0
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: 30
livenessProbe:
  enabled: true
  initialDelaySeconds: 0
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  enabled: true
  initialDelaySeconds: 0
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
serviceAccount:
  create: true
  annotations: {}
  name: endpoint-copier-operator
rbac:
  create: true
  goOperator: false
  namespaces: []
  endpointSlicesRestricted: false
apiPriority:
  enabled: false
metrics:
  secure:
    enabled: false
    secretName: ""
    tlsConfig: {}
    authorization: {}
  service:
    enabled: true
    type: ClusterIP
    port: 8080
    labels: {}
    annotations: {}
  serviceMonitor:
    enabled: false
    namespace: ""
    interval: ""
    scrapeTimeout: ""
    relabelings: []
    metricRelabelings: []
    renderMode: alwaysRender
    labels: {}
    annotations: {}
  podMonitor:
    enabled: false
    namespace: ""
    interval: ""
    scrapeTimeout: ""
    relabelings: []
    metricRelabelings: []
    renderMode: alwaysRender
    labels: {}
    annotations: {}
  prometheusRule:
    enabled: false
    namespace: ""
    disabledAlerts: []
    alertLabels: {}
    runbookURL: ""
    labels: {}
    annotations: {}
grafanaDashboard:
  enabled: false
  namespace: ""
  labels:
    grafana_dashboard: "1"
  annotations: {}
  grafanaOperator:
    enabled: false
    namespace: ""
    matchLabels: {}
    allowCrossNamespaceImport: true
    folder: ""
    labels: {}
    annotations: {}
networkPolicy:
  enabled: false
  metricsFrom: []
  apiServerPorts:
  - 443
  - 6443
  - 9345
  extraIngress: []
  extraEgress: []
{{- end }}

{{/* The first line of each template that reads values. */}}
{{- define "endpoint-copier-operator.fill" -}}
{{- $defaults := include "endpoint-copier-operator.defaults" . | fromYaml }}
{{- /*
null has a meaning for nodeFailureTolerationSeconds, so its default is set only if the values are those of a chart before 0.4.0.
Such values can have some of our sections, if the user set them too, but not most of them.
*/}}
{{- $missing := 0 }}
{{- range $key, $_ := $defaults }}
{{- if not (hasKey $.Values $key) }}
{{- $missing = add1 $missing }}
{{- end }}
{{- end }}
{{- if and (gt (mul 2 $missing) (len $defaults)) (not (hasKey .Values "nodeFailureTolerationSeconds")) }}
{{- $_ := set .Values "nodeFailureTolerationSeconds" 30 }}
{{- end }}
{{- include "endpoint-copier-operator.dropNulls" .Values }}
{{- include "endpoint-copier-operator.fillSection" (dict "values" .Values "defaults" $defaults) }}
{{- end }}

{{/* Removes nulls. Helm keeps a null if the chart has no default, as for `resources.limits.cpu`, and server-side apply treats it as 0. */}}
{{- define "endpoint-copier-operator.dropNulls" -}}
{{- range $key, $value := . }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $ $key }}
{{- else if kindIs "map" $value }}
{{- include "endpoint-copier-operator.dropNulls" $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* Adds the missing values of a section that has only some of them, as with `--reuse-values --set rbac.goOperator=false`. */}}
{{- define "endpoint-copier-operator.fillSection" -}}
{{- range $key, $default := .defaults }}
{{- $given := index $.values $key }}
{{- if kindIs "invalid" $given }}
{{- $_ := set $.values $key $default }}
{{- else if and (kindIs "map" $given) (kindIs "map" $default) }}
{{- include "endpoint-copier-operator.fillSection" (dict "values" $given "defaults" $default) }}
{{- end }}
{{- end }}
{{- end }}
