{{/* Secret with the certificate of the servers that the chart installs. */}}
{{- define "skopeo-worker.natsServerTLSSecret" -}}
{{- .Values.nats.server.tls.existingSecret | default (printf "%s-nats-server-tls" (include "skopeo-worker.fullname" .)) }}
{{- end }}

{{/* Whether clients take the CA from the Secret of the servers: nats.tls has none of its own. */}}
{{- define "skopeo-worker.natsServerCA" -}}
{{- $n := .Values.nats -}}
{{- if and $n.install $n.server.tls.enabled $n.server.tls.keys.ca (not $n.tls.existingSecret) (not $n.tls.ca) }}true{{ end }}
{{- end }}

{{/* Whether the broker's monitoring is reachable: KEDA reads it. */}}
{{- define "skopeo-worker.natsMonitored" -}}
{{- if or .Values.nats.server.monitoring.enabled (and .Values.worker.keda.enabled (not .Values.worker.keda.monitoringEndpoint)) }}true{{ end }}
{{- end }}

{{/* The names by which clients and other servers reach the servers: a JSON list. */}}
{{- define "skopeo-worker.natsServerNames" -}}
{{- $name := printf "%s-nats" (include "skopeo-worker.fullname" .) }}
{{- $names := list "localhost" }}
{{- range $service := prepend (list (printf "%s-headless" $name)) $name }}
{{- $names = concat $names (list $service (printf "%s.%s" $service $.Release.Namespace) (printf "%s.%s.svc" $service $.Release.Namespace)) }}
{{- end }}
{{- range $i := until (int .Values.nats.server.replicas) }}
{{- $pod := printf "%s-%d.%s-headless" $name $i $name }}
{{- $names = concat $names (list $pod (printf "%s.%s.svc" $pod $.Release.Namespace)) }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/*
The data of the Secret with a certificate that Helm generates: what the Secret has
already, or a new CA, whose key is not kept, and a certificate of it. Ten years: to renew
it, delete the Secret and upgrade.
*/}}
{{- define "skopeo-worker.natsServerCertificate" -}}
{{- $tls := .Values.nats.server.tls }}
{{- $keys := $tls.keys }}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "skopeo-worker.natsServerTLSSecret" .) | default dict }}
{{- $there := $secret.data | default dict }}
{{- if and (get $there $keys.cert) (get $there $keys.key) (get $there $keys.ca) }}
{{- pick $there $keys.cert $keys.key $keys.ca | toYaml }}
{{- else }}
{{- $ca := genCA (printf "%s-nats" (include "skopeo-worker.fullname" .)) 3650 }}
{{- $names := include "skopeo-worker.natsServerNames" . | fromJsonArray }}
{{- $made := genSignedCert (last $names) (list "127.0.0.1") $names 3650 $ca }}
{{- dict $keys.cert ($made.Cert | b64enc) $keys.key ($made.Key | b64enc) $keys.ca ($ca.Cert | b64enc) | toYaml }}
{{- end }}
{{- end }}

{{/* Where servers have their certificate: whether to verify that of the other side, as servers do with each other. */}}
{{- define "skopeo-worker.natsServerTLS" -}}
{{- $keys := .root.Values.nats.server.tls.keys -}}
tls {
  cert_file: /etc/nats-tls/{{ $keys.cert }}
  key_file: /etc/nats-tls/{{ $keys.key }}
  {{- if .verify }}
  ca_file: /etc/nats-tls/{{ $keys.ca }}
  verify: true
  {{- end }}
  timeout: 5
}
{{- end }}

{{/* Configuration of the servers that the chart installs. */}}
{{- define "skopeo-worker.natsConf" -}}
{{- $s := .Values.nats.server -}}
{{- $clustered := gt (int $s.replicas) 1 -}}
server_name: $POD_NAME
port: 4222
{{- if include "skopeo-worker.natsMonitored" . }}
http_port: 8222
{{- end }}
# In lame duck mode, a server gives its leaderships to others, and sends its clients
# away one by one. If there is no other server, they better not wait for it.
lame_duck_grace_period: {{ ternary "10s" "1s" $clustered }}
lame_duck_duration: 30s
jetstream {
  store_dir: /data
  # A power cut must not lose an acknowledged message.
  sync_interval: always
  max_memory_store: 64Mi
  # 80 % of the volume. A server whose volume is full stores nothing until it is restarted;
  # below this limit, it goes on as soon as there is room.
  max_file_store: {{ divf (mulf (include "skopeo-worker.bytes" $s.persistence.size) 0.8) 1048576 | floor | int64 }}Mi
}
authorization {
  user: $QUOTED_USER
  password: $QUOTED_PASSWORD
}
{{- if $s.tls.enabled }}
{{ include "skopeo-worker.natsServerTLS" (dict "root" . "verify" false) }}
{{- end }}
{{- if $clustered }}
cluster {
  name: {{ include "skopeo-worker.fullname" . }}
  port: 6222
  # Clients and KEDA connect to servers by name, not by the addresses of pods.
  no_advertise: true
  authorization {
    user: $QUOTED_USER
    password: $QUOTED_PASSWORD
  }
  {{- if $s.tls.enabled }}
  {{- include "skopeo-worker.natsServerTLS" (dict "root" . "verify" true) | nindent 2 }}
  {{- end }}
  routes: [
    {{- range $i := until (int $s.replicas) }}
    $ROUTE_{{ $i }}
    {{- end }}
  ]
}
{{- end }}
{{- end }}

{{/* nats.server, with what the chart adds to its pods. */}}
{{- define "skopeo-worker.natsPodValues" -}}
{{- $s := deepCopy .Values.nats.server }}
{{- if not (hasKey $s.lifecycle "preStop") }}
{{- $_ := set $s.lifecycle "preStop" (dict "exec" (dict "command" (list "nats-server" "--signal" "ldm=1"))) }}
{{- end }}
{{- if not $s.persistence.enabled }}
{{- /* The store is in an emptyDir, which has a limit of its own. */}}
{{- $_ := unset ($s.resources.limits | default dict) "ephemeral-storage" }}
{{- end }}
{{- if and (kindIs "invalid" $s.topologySpreadConstraints) (gt (int $s.replicas) 1) }}
{{- $node := dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "DoNotSchedule" }}
{{- $zone := dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway" }}
{{- $_ := set $s "topologySpreadConstraints" (list $node $zone) }}
{{- end }}
{{- toYaml $s }}
{{- end }}

{{/*
What Kubernetes does not let change in a StatefulSet, and what the queue does not
survive: a server that becomes one of three does not take its streams with it.
*/}}
{{- define "skopeo-worker.checkServers" -}}
{{- if .Values.nats.install }}
{{- $name := printf "%s-nats" (include "skopeo-worker.fullname" .) }}
{{- $s := .Values.nats.server }}
{{- if and $s.tls.enabled $s.tls.existingSecret $s.tls.certManager.issuerRef }}
{{- fail "nats.server.tls: set one of existingSecret, certManager.issuerRef; with neither, Helm generates a certificate" }}
{{- end }}
{{- if and $s.tls.enabled (not $s.tls.keys.ca) (or (gt (int $s.replicas) 1) (not $s.tls.existingSecret)) }}
{{- fail "nats.server.tls.keys.ca is required: servers verify each other by it, and clients the servers" }}
{{- end }}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- if ne (int .spec.replicas) (int $s.replicas) }}
{{- fail (printf "nats.server.replicas cannot be changed from %d to %d: the queue would be lost. Install a second release, or use nats.url" (int .spec.replicas) (int $s.replicas)) }}
{{- end }}
{{- $claims := .spec.volumeClaimTemplates | default list }}
{{- if ne (empty $claims) (not $s.persistence.enabled) }}
{{- fail (printf "nats.server.persistence.enabled cannot be changed: Kubernetes refuses it, and the queue would be lost. Let the queue run empty, run kubectl -n %s delete sts %s, and upgrade again" $.Release.Namespace $name) }}
{{- end }}
{{- range $claims }}
{{- $how := printf "Run kubectl -n %s delete sts %s --cascade=orphan, and upgrade again" $.Release.Namespace $name }}
{{- $size := .spec.resources.requests.storage }}
{{- if ne (include "skopeo-worker.bytes" $size) (include "skopeo-worker.bytes" $s.persistence.size) }}
{{- fail (printf "nats.server.persistence.size cannot be changed from %s to %s by Helm: Kubernetes refuses it. To grow the volumes, grow each claim first: kubectl -n %s edit pvc -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=nats. %s" $size $s.persistence.size $.Release.Namespace $.Release.Name $how) }}
{{- end }}
{{- if ne (.spec.storageClassName | default "") $s.persistence.storageClass }}
{{- fail (printf "nats.server.persistence.storageClass cannot be changed from %q to %q: the volumes exist already" (.spec.storageClassName | default "") $s.persistence.storageClass) }}
{{- end }}
{{- if ne (.metadata.annotations | default dict | toJson) (toJson $s.persistence.annotations) }}
{{- fail (printf "nats.server.persistence.annotations cannot be changed by Helm: Kubernetes refuses it. Annotate the claims themselves. To let new claims have them, too: %s" $how) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
