{{/*
The spec of a planner pod: root, name, image and args. It has the registries' credentials:
planning lists namespaces, and planner check looks at all registries. Sidecars are native
ones: a Job would wait for others.
*/}}
{{- define "skopeo-worker.plannerPod" -}}
{{- $p := .root.Values.planner -}}
{{- $sidecars := list }}
{{- range $p.sidecars }}{{ $sidecars = append $sidecars (merge (dict "restartPolicy" "Always") .) }}{{ end }}
{{- include "skopeo-worker.podSpec" (dict "root" .root "component" "planner" "values" $p "podSecurityContext" .root.Values.podSecurityContext "nativeSidecars" $sidecars) }}
restartPolicy: Never
containers:
  - name: {{ .name }}
    {{- include "skopeo-worker.ownImage" (dict "root" .root "image" .image) | nindent 4 }}
    command: [planner]
    args: {{ toJson .args }}
    env:
      {{- include "skopeo-worker.commonEnv" .root | nindent 6 }}
      {{- include "skopeo-worker.registryEnv" .root | nindent 6 }}
      {{- include "skopeo-worker.mirrorEnv" .root | nindent 6 }}
      {{- include "skopeo-worker.goMemLimit" (dict "percent" 90 "resources" $p.resources "env" (concat .root.Values.extraEnv $p.extraEnv)) | nindent 6 }}
    {{- include "skopeo-worker.container" (dict "root" .root "values" $p) | nindent 4 }}
    {{- $what := dict "root" .root "list" true "registries" true }}
    volumeMounts:
      {{- concat (include "skopeo-worker.volumeMounts" $what | fromYamlArray) $p.extraVolumeMounts | toYaml | nindent 6 }}
volumes:
  {{- concat (include "skopeo-worker.volumes" $what | fromYamlArray) $p.extraVolumes | toYaml | nindent 2 }}
{{- end }}

{{/*
A Job that plans. A retry helps only if the list or the broker cannot be reached (exit
code 3): an invalid list stays invalid, and failed images are kept for republish.
*/}}
{{- define "skopeo-worker.plannerJob" -}}
{{- $p := .Values.planner -}}
backoffLimit: {{ $p.backoffLimit }}
{{- with $p.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ int64 . }}
{{- end }}
{{- if not (kindIs "invalid" $p.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int64 $p.ttlSecondsAfterFinished }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
    - action: FailJob
      onExitCodes: {containerName: planner, operator: In, values: [1, 2, 4]}
template:
  metadata:
    {{- include "skopeo-worker.podMetadata" (dict "root" . "component" "planner" "values" $p) | nindent 4 }}
  spec:
    {{- include "skopeo-worker.plannerPod" (dict "root" . "name" "planner" "image" $p.image "args" (concat (list "plan") $p.extraArgs)) | nindent 4 }}
{{- end }}
