{{/* What no schema can say, or not in words that help. The Deployment asks before it renders. */}}

{{- define "endpoint-copier-operator.check" -}}
{{- include "endpoint-copier-operator.checkName" . }}
{{- include "endpoint-copier-operator.checkElection" . }}
{{- include "endpoint-copier-operator.checkStrategy" . }}
{{- include "endpoint-copier-operator.checkPorts" . }}
{{- include "endpoint-copier-operator.checkFlags" . }}
{{- end }}

{{/* A nameOverride is a label first, and may be no name. */}}
{{- define "endpoint-copier-operator.checkName" -}}
{{- $name := include "endpoint-copier-operator.fullname" . }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" $name) }}
{{- fail (printf "%q can be no name of a Deployment: set fullnameOverride, or a nameOverride of a-z, 0-9 and '-'" $name) }}
{{- end }}
{{- end }}

{{/* The operator would refuse to start. Durations are compared as times after one moment. */}}
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

{{- define "endpoint-copier-operator.checkStrategy" -}}
{{- with .Values.updateStrategy }}
{{- $rolling := .rollingUpdate | default dict }}
{{- if and (eq (.type | default "") "Recreate") $rolling }}
{{- fail "updateStrategy.rollingUpdate is for the type RollingUpdate: Recreate takes every Pod away before it makes a new one" }}
{{- end }}
{{- $none := list "0" "0%" }}
{{- if and (has (toString $rolling.maxSurge) $none) (has (toString $rolling.maxUnavailable) $none) }}
{{- fail "updateStrategy.rollingUpdate: with maxSurge 0 and maxUnavailable 0 no Pod could ever be replaced" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkPorts" -}}
{{- $names := list }}
{{- range .Values.vip.ports }}
{{- $names = append $names (.name | default "") }}
{{- end }}
{{- if and (gt (len $names) 1) (or (has "" $names) (ne (len $names) (len (uniq $names)))) }}
{{- fail "vip.ports: of several ports each needs a name of its own" }}
{{- end }}
{{- end }}

{{/* A flag that contradicts the chart would do so silently. Each is also a variable; `extraEnv` is asked the same. */}}
{{- define "endpoint-copier-operator.checkFlags" -}}
{{- $ofValues := include "endpoint-copier-operator.settings" . | fromYaml }}
{{- $ofValues = merge $ofValues (dict "log-level" "logLevel" "log-format" "logFormat" "zap-log-level" "logLevel" "zap-encoder" "logFormat") }}
{{- $given := list }}
{{- range .Values.extraArgs }}
{{- $flag := regexReplaceAll "^--?([^=]*)(=.*)?$" . "${1}" }}
{{- $given = append $given (dict "by" (printf "extraArgs: --%s" $flag) "flag" $flag "value" (trimPrefix "=" (regexFind "=.*" .))) }}
{{- end }}
{{- $variables := list "POD_NAME" "POD_NAMESPACE" }}
{{- range .Values.extraEnv }}
{{- if has .name $variables }}
{{- fail (printf "extraEnv: %s is set already" .name) }}
{{- end }}
{{- $variables = append $variables .name }}
{{- if hasPrefix "ENDPOINT_COPIER_" .name }}
{{- $flag := trimPrefix "ENDPOINT_COPIER_" .name | lower | replace "_" "-" }}
{{- $given = append $given (dict "by" (printf "extraEnv: %s" .name) "flag" $flag "value" (.value | default "")) }}
{{- end }}
{{- end }}
{{- range $given }}
{{- if hasKey $ofValues .flag }}
{{- fail (printf "%s has a value of the chart: set %s" .by (get $ofValues .flag)) }}
{{- else if eq .flag "leader-elect" }}
{{- fail (printf "%s: the replicas need the election, and so does a single one, which an upgrade has a second one beside" .by) }}
{{- else if eq .flag "health-probe-bind-address" }}
{{- fail (printf "%s: the probes ask port 8081; see startupProbe, livenessProbe, readinessProbe" .by) }}
{{- else if and (eq .flag "metrics-bind-address") (ne .value "0") }}
{{- fail (printf "%s: metrics are at port 8080, or switched off with 0; metrics.service.port is the port of their Service" .by) }}
{{- end }}
{{- end }}
{{- end }}
