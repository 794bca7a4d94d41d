{{/* The image, with replacements for reused values of charts before 0.4.0. */}}

{{- define "endpoint-copier-operator.repository" -}}
ghcr.io/endpoint-copier-operator/endpoint-copier-operator
{{- end }}

{{/* Not empty if the repository is the default of a chart before 0.4.0, which contains no image of this operator. */}}
{{- define "endpoint-copier-operator.isOldRepository" -}}
{{- $old := list
  "registry.opensuse.org/isv/suse/edge/containers/images/endpoint-copier-operator"
  "registry.opensuse.org/isv/suse/edge/metallb/images/endpoint-copier-operator" }}
{{- if has .Values.image.repository $old }}true{{ end }}
{{- end }}

{{/* Not empty if the tag is one of the Go operator, but the repository contains only images of this operator. */}}
{{- define "endpoint-copier-operator.isOldTag" -}}
{{- $ours := list nil "" (include "endpoint-copier-operator.repository" .) }}
{{- $isOurs := or (has .Values.image.repository $ours) (include "endpoint-copier-operator.isOldRepository" .) }}
{{- if and $isOurs (not .Values.image.digest) (regexMatch "^v?0\\.[0-3]([.+-]|$)" (.Values.image.tag | default "" | toString)) }}true{{ end }}
{{- end }}

{{/* Not empty if our version is requested from a repository that is neither ours nor a mirror with the same path. */}}
{{- define "endpoint-copier-operator.isElsewhere" -}}
{{- $path := include "endpoint-copier-operator.repository" . | trimPrefix "ghcr.io" }}
{{- $isOurs := or (not .Values.image.repository) (include "endpoint-copier-operator.isOldRepository" .) (hasSuffix $path .Values.image.repository) }}
{{- if not (or $isOurs .Values.image.tag .Values.image.digest) }}true{{ end }}
{{- end }}

{{/* The first part of a repository is a registry if it has a dot or a port, or if it is localhost. */}}
{{- define "endpoint-copier-operator.registryPattern" -}}
^([^/]*[.:][^/]*|localhost)/
{{- end }}

{{- define "endpoint-copier-operator.image" -}}
{{- $given := .Values.image.repository }}
{{- if or (not $given) (include "endpoint-copier-operator.isOldRepository" .) }}
{{- $given = include "endpoint-copier-operator.repository" . }}
{{- end }}
{{- $registry := (.Values.global).imageRegistry | default .Values.image.registry }}
{{- /* The cluster's registry is passed to every chart, so a registry that the user wrote takes precedence over it. */}}
{{- if or (eq $given (include "endpoint-copier-operator.repository" .)) (not (regexMatch (include "endpoint-copier-operator.registryPattern" .) $given)) }}
{{- $registry = $registry | default (.Values.global).systemDefaultRegistry | default ((.Values.global).cattle).systemDefaultRegistry }}
{{- end }}
{{- with $registry }}
{{- $path := regexReplaceAll (include "endpoint-copier-operator.registryPattern" $) $given "" }}
{{- $given = printf "%s/%s" (trimSuffix "/" .) $path }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $given .Values.image.digest }}
{{- else if or (not .Values.image.tag) (include "endpoint-copier-operator.isOldTag" .) }}
{{- printf "%s:%s" $given .Chart.AppVersion }}
{{- else }}
{{- printf "%s:%v" $given .Values.image.tag }}
{{- end }}
{{- end }}
