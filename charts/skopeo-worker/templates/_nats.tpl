{{- define "skopeo-worker.natsURL" -}}
{{- if .Values.nats.install -}}
{{ ternary "tls" "nats" .Values.nats.server.tls.enabled }}://{{ include "skopeo-worker.fullname" . }}-nats.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{ .Values.nats.url }}
{{- end }}
{{- end }}

{{- define "skopeo-worker.natsReplicas" -}}
{{- .Values.nats.replicas | default (ternary .Values.nats.server.replicas 1 .Values.nats.install) }}
{{- end }}

{{- define "skopeo-worker.natsAuthType" -}}
{{- ternary "user" .Values.nats.auth.type .Values.nats.install }}
{{- end }}

{{- define "skopeo-worker.natsAuthSecret" -}}
{{- .Values.nats.auth.existingSecret | default (printf "%s-nats-auth" (include "skopeo-worker.fullname" .)) }}
{{- end }}

{{- define "skopeo-worker.natsTLSSecret" -}}
{{- if include "skopeo-worker.natsServerCA" . }}
{{- include "skopeo-worker.natsServerTLSSecret" . }}
{{- else }}
{{- .Values.nats.tls.existingSecret | default (printf "%s-nats-tls" (include "skopeo-worker.fullname" .)) }}
{{- end }}
{{- end }}

{{/*
The password of the broker that we install: the value, or the one of the existing
Secret, or a new one. It is made once per rendering, because the checksums depend on it.
*/}}
{{- define "skopeo-worker.natsPassword" -}}
{{- $auth := .Values.nats.auth -}}
{{- if not (or $auth.password (hasKey $auth "made")) }}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "skopeo-worker.natsAuthSecret" .) | default dict }}
{{- $there := get ($secret.data | default dict) $auth.keys.password | b64dec }}
{{- $_ := set $auth "made" ($there | default (randAlphaNum 40)) }}
{{- end }}
{{- $auth.password | default $auth.made }}
{{- end }}

{{/* The data of the Secret with the NATS credentials; empty if the chart does not create it. */}}
{{- define "skopeo-worker.natsAuthData" -}}
{{- $auth := .Values.nats.auth -}}
{{- $type := include "skopeo-worker.natsAuthType" . -}}
{{- if and $type (not $auth.existingSecret) }}
{{- if eq $type "user" }}
{{ $auth.keys.user }}: {{ $auth.user | quote }}
{{- if .Values.nats.install }}
{{ $auth.keys.password }}: {{ include "skopeo-worker.natsPassword" . | quote }}
{{- else }}
{{ $auth.keys.password }}: {{ required "nats.auth.password or nats.auth.existingSecret is needed for nats.auth.type=user" $auth.password | quote }}
{{- end }}
{{- else }}
{{ get $auth.keys $type }}: {{ required (printf "nats.auth.%s or nats.auth.existingSecret is needed for nats.auth.type=%s" $type $type) (get $auth $type) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the chart creates the Secret for TLS. */}}
{{- define "skopeo-worker.natsTLSMade" -}}
{{- $tls := .Values.nats.tls -}}
{{- if and (not $tls.existingSecret) (or $tls.ca $tls.cert) }}true{{ end }}
{{- end }}

{{/* The files for TLS that clients have: a JSON list of ca, cert and key. */}}
{{- define "skopeo-worker.natsTLSFiles" -}}
{{- $tls := .Values.nats.tls -}}
{{- $files := list -}}
{{- if include "skopeo-worker.natsServerCA" . }}{{ $files = list "ca" }}
{{- else }}
{{- if ternary $tls.keys.ca $tls.ca (not (empty $tls.existingSecret)) }}{{ $files = append $files "ca" }}{{ end }}
{{- if ternary $tls.clientCertificate (not (empty $tls.cert)) (not (empty $tls.existingSecret)) }}{{ $files = concat $files (list "cert" "key") }}{{ end }}
{{- end }}
{{- toJson $files }}
{{- end }}

{{/* The key of one of these files in its Secret: root, file. */}}
{{- define "skopeo-worker.natsTLSKey" -}}
{{- $v := .root.Values.nats -}}
{{- if include "skopeo-worker.natsServerCA" .root }}{{ $v.server.tls.keys.ca }}{{ else }}{{ get $v.tls.keys .file }}{{ end }}
{{- end }}

{{- define "skopeo-worker.natsEnv" -}}
{{- $auth := .Values.nats.auth -}}
{{- $type := include "skopeo-worker.natsAuthType" . -}}
{{- $secret := include "skopeo-worker.natsAuthSecret" . -}}
- name: NATS_URL
  value: {{ include "skopeo-worker.natsURL" . | quote }}
- name: NATS_REPLICAS
  value: {{ include "skopeo-worker.natsReplicas" . | quote }}
{{- if has $type (list "creds" "nkey") }}
- name: NATS_{{ upper $type }}
  value: /etc/skopeo-worker/nats-auth/{{ get $auth.keys $type }}
{{- else if eq $type "user" }}
- name: NATS_USER
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $auth.keys.user }}}}
- name: NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $auth.keys.password }}}}
{{- else if eq $type "token" }}
- name: NATS_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $auth.keys.token }}}}
{{- end }}
{{- range include "skopeo-worker.natsTLSFiles" . | fromJsonArray }}
- name: NATS_{{ upper . }}
  value: /etc/skopeo-worker/nats-tls/{{ include "skopeo-worker.natsTLSKey" (dict "root" $ "file" .) }}
{{- end }}
{{- end }}

{{/* Volumes of the NATS credentials, with their mounts: a JSON list of {name, secret, keys}. */}}
{{- define "skopeo-worker.natsFiles" -}}
{{- $files := list -}}
{{- $type := include "skopeo-worker.natsAuthType" . -}}
{{- if has $type (list "creds" "nkey") }}
{{- $files = append $files (dict "name" "nats-auth" "secret" (include "skopeo-worker.natsAuthSecret" .) "keys" (list (get .Values.nats.auth.keys $type))) }}
{{- end }}
{{- with include "skopeo-worker.natsTLSFiles" . | fromJsonArray }}
{{- $keys := list }}
{{- range . }}{{ $keys = append $keys (include "skopeo-worker.natsTLSKey" (dict "root" $ "file" .)) }}{{ end }}
{{- $files = append $files (dict "name" "nats-tls" "secret" (include "skopeo-worker.natsTLSSecret" $) "keys" $keys) }}
{{- end }}
{{- toJson $files }}
{{- end }}
