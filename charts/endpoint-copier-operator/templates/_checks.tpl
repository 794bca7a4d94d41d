{{/*
Checks that the schema cannot express, or only with an unhelpful error. Where Helm would print a pattern, the schema accepts
common mistakes, and these checks refuse them. The Deployment includes the checks before it renders.
*/}}

{{- define "endpoint-copier-operator.check" -}}
{{- include "endpoint-copier-operator.checkName" . }}
{{- include "endpoint-copier-operator.checkDurations" . }}
{{- include "endpoint-copier-operator.checkElection" . }}
{{- include "endpoint-copier-operator.checkProbe" . }}
{{- include "endpoint-copier-operator.checkStrategy" . }}
{{- include "endpoint-copier-operator.checkPorts" . }}
{{- include "endpoint-copier-operator.checkVip" . }}
{{- include "endpoint-copier-operator.checkImage" . }}
{{- include "endpoint-copier-operator.checkHost" . }}
{{- if and .Values.admission.operator.enabled .Values.rbac.create .Values.rbac.goOperator }}
{{- fail "admission.operator.enabled needs rbac.goOperator=false: Pods of the Go operator write slices that the policy rejects" }}
{{- end }}
{{- with .Values.rbac.namespaces }}
{{- $vip := include "endpoint-copier-operator.vipNamespace" $ }}
{{- if and $.Values.vip.create $.Values.rbac.create (not (has $vip .)) }}
{{- fail (printf "vip.create: the VIP Service is in the namespace %s, where the operator may not write; add it to rbac.namespaces" $vip) }}
{{- end }}
{{- end }}
{{- include "endpoint-copier-operator.checkFlags" . }}
{{- end }}

{{/* The schema accepts every nameOverride that is a valid label, but not every label is a valid name. */}}
{{- define "endpoint-copier-operator.checkName" -}}
{{- $name := include "endpoint-copier-operator.fullname" . }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" $name) }}
{{- fail (printf "%q is not a valid name of a Deployment: set fullnameOverride, or a nameOverride of a-z, 0-9 and '-'" $name) }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkDurations" -}}
{{- range $section, $values := dict "leaderElection" .Values.leaderElection "probe" .Values.probe "metrics.serviceMonitor" .Values.metrics.serviceMonitor "metrics.podMonitor" .Values.metrics.podMonitor }}
{{- range $name := list "leaseDuration" "renewDeadline" "retryPeriod" "period" "timeout" "interval" "scrapeTimeout" }}
{{- $given := get $values $name }}
{{- if not (kindIs "string" $given) }}
{{- fail (printf "%s.%s is %v: a duration has a unit, write %vs" $section $name $given $given) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.leaderElection.leaseDuration }}
{{- if not (regexMatch "^(([2-9]|[1-5][0-9]|60)s|1m(0s)?)$" .) }}
{{- fail (printf "leaderElection.leaseDuration is %s: it must be a whole number of seconds between 2s and 60s" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator would refuse these values when it starts. Durations are compared as times after a common start. */}}
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

{{/* The limits of the probe flags. */}}
{{- define "endpoint-copier-operator.checkProbe" -}}
{{- $start := toDate "2006" "2000" }}
{{- $form := "2006-01-02T15:04:05.000000000" }}
{{- range $name, $shortest := dict "period" "500ms" "timeout" "100ms" }}
{{- $given := get $.Values.probe $name }}
{{- $after := list }}
{{- range list $shortest $given "2s" }}
{{- $after = append $after (dateInZone $form (dateModify (printf "+%s" .) $start) "UTC") }}
{{- end }}
{{- if or (lt (index $after 1) (index $after 0)) (gt (index $after 1) (index $after 2)) }}
{{- fail (printf "probe.%s is %s: it must be between %s and 2s" $name $given $shortest) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkStrategy" -}}
{{- with .Values.updateStrategy }}
{{- $rolling := .rollingUpdate | default dict }}
{{- if and (eq (.type | default "") "Recreate") $rolling }}
{{- fail "updateStrategy.rollingUpdate is for the type RollingUpdate: Recreate deletes all Pods before it creates new ones" }}
{{- end }}
{{- $none := list "0" "0%" }}
{{- if and (has (toString $rolling.maxSurge) $none) (has (toString $rolling.maxUnavailable) $none) }}
{{- fail "updateStrategy.rollingUpdate: with maxSurge 0 and maxUnavailable 0, no Pod could be replaced" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkPorts" -}}
{{- $names := list }}
{{- range .Values.vip.ports }}
{{- $names = append $names (.name | default "") }}
{{- end }}
{{- if and (gt (len $names) 1) (or (has "" $names) (ne (len $names) (len (uniq $names)))) }}
{{- fail "vip.ports: if there are several ports, each needs a unique name" }}
{{- end }}
{{- end }}

{{/* 4 or 6 for an IP address, otherwise nothing. */}}
{{- define "endpoint-copier-operator.ipVersion" -}}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" }}
{{- $four := printf "%s(\\.%s){3}" $byte $byte }}
{{- if regexMatch (printf "^%s$" $four) . }}4
{{- else if contains ":" . }}
{{- /* An IPv4 address at the end counts as two groups. */}}
{{- $halves := regexReplaceAll (printf ":%s$" $four) . ":0:0" | splitList "::" }}
{{- $groups := 0 }}
{{- $isGood := le (len $halves) 2 }}
{{- range compact $halves }}
{{- $isGood = and $isGood (regexMatch "^[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4})*$" .) }}
{{- $groups = add $groups (len (splitList ":" .)) }}
{{- end }}
{{- if and $isGood (eq (len $halves) 2 | ternary (le (int $groups) 7) (eq (int $groups) 8)) }}6{{ end }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkVip" -}}
{{- if and .Values.vip.create (eq (.Values.vip.externalTrafficPolicy | default "") "Local") (not .Values.nodes.enabled) }}
{{- fail "vip.externalTrafficPolicy is Local: that needs nodes.enabled, since without Nodes no endpoint names a node, and no node announces the VIP" }}
{{- end }}
{{- $annotations := merge (dict) (.Values.vip.annotations | default dict) (.Values.commonAnnotations | default dict) }}
{{- with .Values.vip.loadBalancerIP }}
{{- if contains "/" . }}
{{- fail (printf "vip.loadBalancerIP is %s: write the address without %s" . (regexFind "/.*" .)) }}
{{- else if not (include "endpoint-copier-operator.ipVersion" .) }}
{{- fail (printf "vip.loadBalancerIP is %s: that is not an IP address" .) }}
{{- end }}
{{- range list "metallb.io/loadBalancerIPs" "metallb.universe.tf/loadBalancerIPs" }}
{{- if get $annotations . }}
{{- fail (printf "vip.loadBalancerIP and the annotation %s both request an address, which MetalLB rejects: keep one of them" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.vip.loadBalancerSourceRanges }}
{{- $address := first (splitList "/" .) }}
{{- $length := regexFind "/.*" . | trimPrefix "/" }}
{{- $version := include "endpoint-copier-operator.ipVersion" $address }}
{{- if not $version }}
{{- fail (printf "vip.loadBalancerSourceRanges has %s: %s is not an IP address" . $address) }}
{{- end }}
{{- $longest := eq $version "4" | ternary 32 128 }}
{{- if not $length }}
{{- fail (printf "vip.loadBalancerSourceRanges has %s: write %s/%d for this one address" . . $longest) }}
{{- else if gt (atoi $length) $longest }}
{{- fail (printf "vip.loadBalancerSourceRanges has %s: the longest prefix is /%d" . $longest) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkImage" -}}
{{- range $name, $given := dict "global.imageRegistry" (.Values.global).imageRegistry "global.systemDefaultRegistry" (.Values.global).systemDefaultRegistry "global.cattle.systemDefaultRegistry" ((.Values.global).cattle).systemDefaultRegistry "image.registry" .Values.image.registry "image.repository" .Values.image.repository }}
{{- if contains "://" ($given | default "") }}
{{- fail (printf "%s is %s: write it without %s" $name $given (regexFind "^.*://" $given)) }}
{{- end }}
{{- end }}
{{- $repository := .Values.image.repository | default "" }}
{{- if contains "@" $repository }}
{{- fail (printf "image.repository is %s: write it without %s, which is image.digest" $repository (regexFind "@.*" $repository)) }}
{{- else if regexMatch ":[^/]*$" $repository }}
{{- fail (printf "image.repository is %s: write it without %s, which is image.tag" $repository (regexFind ":[^/]*$" $repository)) }}
{{- end }}
{{- end }}

{{- define "endpoint-copier-operator.checkHost" -}}
{{- with .Values.apiServer.host }}
{{- $isAddress := include "endpoint-copier-operator.ipVersion" . }}
{{- if contains "://" . }}
{{- fail (printf "apiServer.host is %s: write it without %s" . (regexFind "^.*://" .)) }}
{{- else if and (contains ":" .) (not $isAddress) }}
{{- fail (printf "apiServer.host is %s: write an address or a name without its port, which is apiServer.port" .) }}
{{- else if and (regexMatch "^[0-9.]+$" .) (not $isAddress) }}
{{- fail (printf "apiServer.host is %s: that is not an IP address" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses flags that contradict the chart, because they would override its values silently. Each flag is also a variable, so `extraEnv` is checked too. */}}
{{- define "endpoint-copier-operator.checkFlags" -}}
{{- $ofValues := include "endpoint-copier-operator.settings" . | fromYaml }}
{{- $ofValues = merge $ofValues (dict "log-level" "logLevel" "log-format" "logFormat" "zap-log-level" "logLevel" "zap-encoder" "logFormat") }}
{{- $given := list }}
{{- range .Values.extraArgs }}
{{- $flag := regexReplaceAll "^--?([^=]*)(=.*)?$" . "${1}" }}
{{- $given = append $given (dict "by" (printf "extraArgs: --%s" $flag) "flag" $flag "value" (trimPrefix "=" (regexFind "=.*" .))) }}
{{- end }}
{{- $variables := list "POD_NAME" "POD_NAMESPACE" "HOST_IPS" }}
{{- range .Values.extraEnv }}
{{- if has .name $variables }}
{{- fail (printf "extraEnv: %s is already set" .name) }}
{{- end }}
{{- $variables = append $variables .name }}
{{- if hasPrefix "ENDPOINT_COPIER_" .name }}
{{- $flag := trimPrefix "ENDPOINT_COPIER_" .name | lower | replace "_" "-" }}
{{- $given = append $given (dict "by" (printf "extraEnv: %s" .name) "flag" $flag "value" (.value | default "")) }}
{{- end }}
{{- end }}
{{- range $given }}
{{- if hasKey $ofValues .flag }}
{{- fail (printf "%s: the chart has a value for it; set %s" .by (get $ofValues .flag)) }}
{{- else if eq .flag "leader-elect" }}
{{- fail (printf "%s: even a single replica needs leader election, because an upgrade runs a second one next to it" .by) }}
{{- else if eq .flag "health-probe-bind-address" }}
{{- fail (printf "%s: the kubelet's probes use port 8081; see startupProbe, livenessProbe, readinessProbe" .by) }}
{{- else if and (eq .flag "metrics-bind-address") (ne .value "0") }}
{{- fail (printf "%s: metrics use port 8080, or are disabled with 0; metrics.service.port is the port of their Service" .by) }}
{{- end }}
{{- end }}
{{- end }}
