{{- define "skopeo-worker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The prefix of all names. It is short, because a CronJob's name leaves 11 characters to its Jobs. */}}
{{- define "skopeo-worker.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "skopeo-worker.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "skopeo-worker.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "skopeo-worker.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "skopeo-worker.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* Labels that never change during an object's life: selectors use them. */}}
{{- define "skopeo-worker.selector" -}}
app.kubernetes.io/name: {{ include "skopeo-worker.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object: root, component, and optionally labels. The selector's win over the user's. */}}
{{- define "skopeo-worker.labels" -}}
{{- $ours := dict
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" "skopeo-worker"
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
}}
{{- merge (include "skopeo-worker.selector" . | fromYaml) (.labels | default dict) .root.Values.commonLabels $ours | toYaml }}
{{- end }}

{{/* Metadata of an object: root, component, name (a suffix) or fullName, and optionally labels and annotations. */}}
{{- define "skopeo-worker.metadata" -}}
name: {{ .fullName | default (printf "%s-%s" (include "skopeo-worker.fullname" .root) .name) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "skopeo-worker.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Metadata of a pod: root, component, values (of the component), and optionally checksums. */}}
{{- define "skopeo-worker.podMetadata" -}}
labels:
  {{- merge (include "skopeo-worker.selector" . | fromYaml) .values.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (.checksums | default dict) .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image: root, and registry, repository, tag, digest. */}}
{{- define "skopeo-worker.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .registry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "skopeo-worker.ownImage" -}}
{{- $v := .root.Values -}}
image: {{ include "skopeo-worker.image" (dict "root" .root "registry" $v.image.registry "repository" .image.repository "tag" (coalesce .image.tag $v.image.tag .root.Chart.AppVersion) "digest" .image.digest) | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
{{- end }}

{{/* The spec that all pods share: root, component, values (of the component), podSecurityContext, and optionally nativeSidecars. */}}
{{- define "skopeo-worker.podSpec" -}}
serviceAccountName: {{ include "skopeo-worker.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "skopeo-worker.pullSecrets" .root | fromJsonArray }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $name := list "hostAliases" "dnsPolicy" "dnsConfig" "runtimeClassName" "schedulerName" }}
{{- with get $.values $name }}
{{ dict $name . | toYaml }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml .podSecurityContext | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $selector := dict "labelSelector" (dict "matchLabels" (include "skopeo-worker.selector" $ | fromYaml)) }}
  - {{- toYaml (merge (dict) . $selector) | nindent 4 }}
  {{- end }}
{{- end }}
{{- with concat .values.initContainers (.nativeSidecars | default list) }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The names of the Secrets with which images are pulled: a JSON list. An entry of global.imagePullSecrets is a name, or a mapping with it. */}}
{{- define "skopeo-worker.pullSecrets" -}}
{{- $names := list }}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.image.pullSecrets }}
{{- if kindIs "map" . }}{{ $names = append $names .name }}{{ else }}{{ $names = append $names . }}{{ end }}
{{- end }}
{{- uniq $names | toJson }}
{{- end }}

{{/* What all containers share, from the values of their component: envFrom, lifecycle and resources. */}}
{{- define "skopeo-worker.container" -}}
{{- with .values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .values.resources | nindent 2 }}
{{- end }}

{{/*
Bytes of a quantity, such as 1.5Gi; empty if it is written in another way, as with an
exponent.
*/}}
{{- define "skopeo-worker.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 }}
{{- with kindIs "float64" . | ternary (int64 .) . | toString | regexFind "^[0-9]+(\\.[0-9]+)?([kMGTP]|[KMGTP]i)?$" }}
{{- $number := regexFind "^[0-9.]+" . }}
{{- mulf (float64 $number) (get $units (trimPrefix $number .)) | floor | int64 }}
{{- end }}
{{- end }}

{{/*
GOMEMLIMIT: root, percent of the memory limit, resources, and the lists of variables
that may set it themselves: env. Without it, Go's garbage collector knows no limit, and
the kernel kills the process.
*/}}
{{- define "skopeo-worker.goMemLimit" -}}
{{- $set := false }}
{{- range .env }}{{ if eq .name "GOMEMLIMIT" }}{{ $set = true }}{{ end }}{{ end }}
{{- with include "skopeo-worker.bytes" (dig "limits" "memory" "" .resources) }}
{{- if not $set }}
- name: GOMEMLIMIT
  value: {{ printf "%dMiB" (divf (mulf . $.percent) 104857600 | floor | int64) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Checks that required values are set and that values do not contradict each other. */}}
{{- define "skopeo-worker.check" -}}
{{- $v := .Values -}}
{{- if not $v.destination }}
{{- fail "destination is empty: set it to the destination registry, as registry.example.com/mirror" }}
{{- end }}
{{- $lists := include "skopeo-worker.given" (dict "list" $v.list "source.url" $v.source.url "source.existingSecret" $v.source.existingSecret) }}
{{- if or (not $lists) (contains "," $lists) }}
{{- fail (printf "set exactly one of list, source.url and source.existingSecret; set are: %s" ($lists | default "none")) }}
{{- end }}
{{- $c := $v.registries.credentials }}
{{- $given := include "skopeo-worker.given" (dict "existingSecret" $c.existingSecret "logins" $c.logins "authFile" $c.authFile) }}
{{- if contains "," $given }}
{{- fail (printf "registries.credentials: set one of %s" $given) }}
{{- end }}
{{- $ca := $v.caBundle }}
{{- $given := include "skopeo-worker.given" (dict "existingConfigMap" $ca.existingConfigMap "existingSecret" $ca.existingSecret "pem" $ca.pem) }}
{{- if contains "," $given }}
{{- fail (printf "caBundle: set one of %s" $given) }}
{{- end }}
{{- if and $v.signaturePolicy.existingConfigMap $v.signaturePolicy.policy }}
{{- fail "signaturePolicy: set one of existingConfigMap, policy" }}
{{- end }}
{{- if eq (empty $v.nats.url) (not $v.nats.install) }}
{{- fail "set either nats.url, the broker to use, or nats.install=true, to install one" }}
{{- end }}
{{- if and $v.nats.install (not (regexMatch "^[A-Za-z0-9]*$" $v.nats.auth.password)) }}
{{- fail "nats.auth.password must be letters and digits: it is part of the URLs by which the servers connect to each other" }}
{{- end }}
{{- if and $v.worker.autoscaling.enabled $v.worker.keda.enabled }}
{{- fail "enable worker.autoscaling or worker.keda, not both: they would undo each other's changes" }}
{{- end }}
{{- if and $v.worker.keda.enabled (not $v.nats.install) (not $v.worker.keda.monitoringEndpoint) }}
{{- fail "worker.keda needs worker.keda.monitoringEndpoint: host:port of the monitoring of the broker at nats.url" }}
{{- end }}
{{- if and $v.metrics.podMonitor.enabled $v.metrics.serviceMonitor.enabled }}
{{- fail "enable metrics.podMonitor or metrics.serviceMonitor, not both: Prometheus would count everything twice" }}
{{- end }}
{{- $o := $v.console }}
{{- if and (or $o.service.enabled $o.ingress.enabled $o.httpRoute.enabled) (not (or $o.login.existingSecret $o.trustProxy $o.readOnly)) }}
{{- fail "console: others reach the page through its Service: set console.login.existingSecret, console.trustProxy or console.readOnly" }}
{{- end }}
{{- if and $o.httpRoute.enabled (not $o.httpRoute.parentRefs) }}
{{- fail "console.httpRoute.parentRefs is required: the gateways that the route belongs to" }}
{{- end }}
{{- if and $o.login.existingSecret $o.trustProxy }}
{{- fail "console: set console.login.existingSecret or console.trustProxy, not both" }}
{{- end }}
{{- include "skopeo-worker.checkServers" . }}
{{- end }}

{{/* The names of the values that are not empty. */}}
{{- define "skopeo-worker.given" -}}
{{- $names := list }}
{{- range $name, $value := . }}{{ if $value }}{{ $names = append $names $name }}{{ end }}{{ end }}
{{- join ", " $names }}
{{- end }}
