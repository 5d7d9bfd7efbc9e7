{{/* Environment of planner, console and worker. */}}
{{- define "skopeo-worker.commonEnv" -}}
{{- $v := .Values -}}
{{ include "skopeo-worker.natsEnv" . }}
- name: LOG_LEVEL
  value: {{ $v.log.level }}
- name: LOG_FORMAT
  value: {{ $v.log.format }}
{{- with $v.registries.insecure }}
- name: INSECURE_REGISTRIES
  value: {{ join "," . | quote }}
{{- end }}
{{- with $v.registries.quayHosts }}
- name: QUAY_HOSTS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $v.registries.harborHosts }}
- name: HARBOR_HOSTS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $v.registries.cloudCredentials }}
- name: CLOUD_CREDENTIALS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $v.registries.childEnv }}
- name: CHILD_ENV
  value: {{ join "," . | quote }}
{{- end }}
{{- if include "skopeo-worker.caSource" . }}
# SSL_CERT_DIR replaces the system's folders but not its bundle file, so these CAs are
# added to that bundle.
- name: SSL_CERT_DIR
  value: /etc/ssl/certs:/etc/skopeo-worker/ca
{{- end }}
{{- with $v.proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with $v.proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or $v.proxy.http $v.proxy.https }}
- name: NO_PROXY
  value: {{ $v.proxy.noProxy | quote }}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Environment that says what to mirror and how: planner and console. */}}
{{- define "skopeo-worker.mirrorEnv" -}}
{{- $v := .Values -}}
{{- $p := $v.planner -}}
- name: MIRROR_SOURCE_URL
{{- if $v.source.existingSecret }}
  valueFrom: {secretKeyRef: {name: {{ $v.source.existingSecret }}, key: {{ $v.source.key }}}}
{{- else }}
  value: {{ $v.source.url | default "/etc/skopeo-worker/list/list.yaml" | quote }}
{{- end }}
- name: MIRROR_DEST_URL
  value: {{ $v.destination | quote }}
- name: MIRROR_NAME
  value: {{ $v.mirrorName | quote }}
- name: CHUNK_SIZE
  value: {{ $p.chunkSize | int64 | quote }}
- name: CHUNK_NUMBER
  value: {{ $p.chunkNumber | int64 | quote }}
- name: CHUNK_INTERVAL
  value: {{ $p.chunkInterval | quote }}
- name: OUTAGE_TIMEOUT
  value: {{ $p.outageTimeout | quote }}
{{- with $p.filter }}
- name: FILTER
  value: {{ . | quote }}
{{- end }}
- name: LIMIT
  value: {{ $p.limit | int64 | quote }}
{{- with $p.platforms }}
- name: PLATFORMS
  value: {{ join "," . | quote }}
{{- end }}
- name: ATTESTATIONS
  value: {{ $p.attestations | quote }}
- name: REFERRERS
  value: {{ $p.referrers | quote }}
{{- with $p.minAge }}
- name: MIN_AGE
  value: {{ . | quote }}
{{- end }}
{{- with $p.backupTag }}
- name: BACKUP_TAG
  value: {{ . | quote }}
- name: BACKUP_KEEP
  value: {{ $p.backupKeep | int64 | quote }}
{{- end }}
{{- with $p.immutableTags }}
- name: IMMUTABLE_TAGS
  value: {{ join " " . | quote }}
{{- end }}
{{- with $p.keepTags }}
- name: KEEP_TAGS
  value: {{ join " " . | quote }}
{{- end }}
{{- with $v.registries.rateLimits }}
{{- $limits := list }}
{{- range $registry, $limit := . }}{{ $limits = append $limits (printf "%s=%s" $registry $limit) }}{{ end }}
- name: RATE_LIMITS
  value: {{ join "," $limits | quote }}
{{- end }}
{{- with $p.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Environment of the pods that send requests to registries and have a scratch volume: worker, planner, console and test. */}}
{{- define "skopeo-worker.registryEnv" -}}
- name: HOME
  value: /var/lib/skopeo-worker
- name: TMPDIR
  value: /var/lib/skopeo-worker
- name: XDG_RUNTIME_DIR
  value: /var/lib/skopeo-worker
{{- $secrets := include "skopeo-worker.credentials" . | fromJsonArray }}
{{- /* Two are found below XDG_RUNTIME_DIR and HOME. */}}
{{- if eq (len $secrets) 1 }}
- name: REGISTRY_AUTH_FILE
  value: /etc/skopeo-worker/auth/auth.json
{{- end }}
{{- if include "skopeo-worker.policyMap" . }}
- name: SIGNATURE_POLICY
  value: /etc/skopeo-worker/policy/{{ include "skopeo-worker.policyKey" . }}
{{- end }}
{{- end }}

{{/* Environment of what copies images: the worker. */}}
{{- define "skopeo-worker.copyEnv" -}}
{{- with .Values.worker.concurrency }}
- name: WORKER_CONCURRENCY
  value: {{ int64 . | quote }}
{{- end }}
- name: COPY_ENGINE
  value: {{ .Values.worker.copyEngine | quote }}
- name: SKOPEO_PATH
  value: {{ .Values.worker.skopeoPath | quote }}
- name: MAX_ATTEMPTS
  value: {{ .Values.worker.maxAttempts | int64 | quote }}
- name: STALL_TIMEOUT
  value: {{ .Values.worker.stallTimeout | quote }}
- name: COPY_TIMEOUT
  value: {{ .Values.worker.copyTimeout | quote }}
{{- end }}

{{/*
The Secrets with the registries' credentials, as volumes: a JSON list of {name, secret,
key, path, mountPath}. skopeo and the worker search several files in a fixed order, so two
Secrets are two of these files: they need not be merged, and each follows its Secret.
*/}}
{{- define "skopeo-worker.credentials" -}}
{{- $c := .Values.registries.credentials -}}
{{- $all := list -}}
{{- if or $c.existingSecret $c.logins $c.authFile }}
{{- $key := ternary "auth.json" ".dockerconfigjson" (empty $c.logins) }}
{{- if $c.existingSecret }}{{ $key = $c.key }}{{ end }}
{{- $secret := $c.existingSecret | default (printf "%s-registries" (include "skopeo-worker.fullname" .)) }}
{{- $all = append $all (dict "name" "registries" "secret" $secret "key" $key "path" "auth.json" "mountPath" "/etc/skopeo-worker/auth") }}
{{- end }}
{{- with $c.destination.existingSecret }}
{{- $all = append $all (dict "name" "destination" "secret" . "key" $c.destination.key "path" "auth.json" "mountPath" "/etc/skopeo-worker/auth") }}
{{- end }}
{{- if eq (len $all) 2 }}
{{- $_ := set (index $all 0) "path" "config.json" }}
{{- $_ := set (index $all 0) "mountPath" "/var/lib/skopeo-worker/.docker" }}
{{- $_ := set (index $all 1) "mountPath" "/var/lib/skopeo-worker/containers" }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{/* Name of the ConfigMap with the signature policy; empty if there is none. */}}
{{- define "skopeo-worker.policyMap" -}}
{{- $s := .Values.signaturePolicy -}}
{{- if $s.existingConfigMap }}{{ $s.existingConfigMap }}
{{- else if $s.policy }}{{ include "skopeo-worker.fullname" . }}-policy
{{- end }}
{{- end }}

{{- define "skopeo-worker.policyKey" -}}
{{- if .Values.signaturePolicy.existingConfigMap }}{{ .Values.signaturePolicy.key }}{{ else }}policy.json{{ end }}
{{- end }}

{{/* The volume source of the additional CAs; empty if there are none. */}}
{{- define "skopeo-worker.caSource" -}}
{{- $ca := .Values.caBundle -}}
{{- $items := list (dict "key" $ca.key "path" "ca.crt") -}}
{{- if $ca.existingSecret }}
{{- dict "secret" (dict "secretName" $ca.existingSecret "items" $items) | toYaml }}
{{- else if $ca.existingConfigMap }}
{{- dict "configMap" (dict "name" $ca.existingConfigMap "items" $items) | toYaml }}
{{- else if $ca.pem }}
{{- dict "configMap" (dict "name" (printf "%s-ca" (include "skopeo-worker.fullname" .)) "items" (list (dict "key" "ca.crt" "path" "ca.crt"))) | toYaml }}
{{- end }}
{{- end }}

{{/* Volumes: root, and which to add to those of the broker and the CAs: list, registries. scratch is the size limit and medium of the volume that comes with registries. */}}
{{- define "skopeo-worker.volumes" -}}
{{- $root := .root -}}
{{- range include "skopeo-worker.natsFiles" $root | fromJsonArray }}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 288 # 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- with include "skopeo-worker.caSource" $root }}
- name: ca
  {{- . | nindent 2 }}
{{- end }}
{{- if and .list $root.Values.list }}
- name: list
  configMap:
    name: {{ include "skopeo-worker.fullname" $root }}-list
{{- end }}
{{- if .registries }}
- name: scratch
  emptyDir:
    {{- $scratch := dict }}
    {{- range $name, $value := .scratch }}{{ if $value }}{{ $_ := set $scratch $name $value }}{{ end }}{{ end }}
    {{- toYaml $scratch | nindent 4 }}
{{- range include "skopeo-worker.credentials" $root | fromJsonArray }}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 288 # 0440
    items:
      - {key: {{ .key }}, path: {{ .path }}}
{{- end }}
{{- with include "skopeo-worker.policyMap" $root }}
- name: policy
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Mounts of these volumes. Never by subPath: a mount by subPath does not follow a changed Secret. */}}
{{- define "skopeo-worker.volumeMounts" -}}
{{- $root := .root -}}
{{- range include "skopeo-worker.natsFiles" $root | fromJsonArray }}
- name: {{ .name }}
  mountPath: /etc/skopeo-worker/{{ .name }}
  readOnly: true
{{- end }}
{{- if include "skopeo-worker.caSource" $root }}
- name: ca
  mountPath: /etc/skopeo-worker/ca
  readOnly: true
{{- end }}
{{- if and .list $root.Values.list }}
- name: list
  mountPath: /etc/skopeo-worker/list
  readOnly: true
{{- end }}
{{- if .registries }}
- name: scratch
  mountPath: /var/lib/skopeo-worker
{{- range include "skopeo-worker.credentials" $root | fromJsonArray }}
- name: {{ .name }}
  mountPath: {{ .mountPath }}
  readOnly: true
{{- end }}
{{- if include "skopeo-worker.policyMap" $root }}
- name: policy
  mountPath: /etc/skopeo-worker/policy
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{/*
Checksums of what pods read only at their start, so that a change restarts them:
credentials in the environment, and the signature policy. Other files change without a
restart.
*/}}
{{- define "skopeo-worker.checksums" -}}
{{ include "skopeo-worker.natsChecksums" . }}
{{- with .Values.signaturePolicy.policy }}
checksum/signature-policy: {{ sha256sum . }}
{{- end }}
{{- end }}

{{- define "skopeo-worker.natsChecksums" -}}
{{- with include "skopeo-worker.natsAuthData" . }}
checksum/nats-auth: {{ sha256sum . }}
{{- end }}
{{- end }}
