{{/*
What other templates ask for. "longshore.pools" is the one place where a pool's own values meet the defaults, and
"longshore.check" the one that refuses values which the schema cannot judge alone.
*/}}

{{/* The beginning of every name. Never cut off: two long names could become one. A Service's begins with a letter. */}}
{{- define "longshore.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if not (contains $name $release) -}}{{- $release = printf "%s-%s" $release $name -}}{{- end -}}
{{- if regexMatch "^[a-z]" $release -}}{{- $release -}}{{- else -}}{{- printf "l%s" $release -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of what is not in a namespace: namespaces have no dots, so that no two releases share one. */}}
{{- define "longshore.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "longshore.fullname" .) -}}
{{- end -}}

{{- define "longshore.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "longshore.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* What every object and pod of the release has, and every selector of ours names. */}}
{{- define "longshore.selectorLabels" -}}
app.kubernetes.io/name: longshore
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of objects. Not of pods: versions there would change pinned pods with every release of the chart. */}}
{{- define "longshore.labels" -}}
{{ include "longshore.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Selects one pool's pods; takes (dict "root" $ "pool" $pool). The busy label is never part of it. */}}
{{- define "longshore.poolSelector" -}}
{{ include "longshore.selectorLabels" .root }}
app.kubernetes.io/component: worker
longshore.dev/pool: {{ .pool.name }}
longshore.dev/kind: {{ .pool.kind }}
{{- end -}}

{{- define "longshore.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The enabled pools as JSON: {"pools": [{name, fullname, grace, scaled, …its values, else the defaults}]}, by name. */}}
{{- define "longshore.pools" -}}
{{- $pools := list -}}
{{- range $name, $own := .Values.pools -}}
{{- if and $own (dig "enabled" true $own) -}}
{{- $pool := deepCopy $.Values.poolDefaults -}}
{{- range $key, $value := $own -}}{{- $_ := set $pool $key $value -}}{{- end -}}
{{- $grace := 60 -}}
{{- if eq $pool.kind "pinned" -}}{{- $grace = 120 -}}{{- end -}}
{{- if hasKey $own "terminationGracePeriodSeconds" -}}{{- $grace = int $own.terminationGracePeriodSeconds -}}{{- end -}}
{{- $_ := set $pool "grace" $grace -}}
{{- $_ := set $pool "name" $name -}}
{{- $_ := set $pool "fullname" (printf "%s-%s" (include "longshore.fullname" $) $name) -}}
{{- $_ := set $pool "scaled" (dig "autoscaling" "enabled" false $own) -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- end -}}
{{- dict "pools" $pools | toJson -}}
{{- end -}}

{{/* Where workers keep what they have of their bundle. A container that ends and starts again in its pod finds it there. */}}
{{- define "longshore.bundleFolder" -}}
{{- if .Values.embedded.enabled -}}/var/lib/longshore/bundles{{- else -}}/var/lib/longshore-bundles{{- end -}}
{{- end -}}

{{/* The ConfigMap of a source of the bundle; takes (dict "root" $ "name" NAME "source" SOURCE). */}}
{{- define "longshore.bundleConfigMap" -}}
{{- .source.configMap | default (printf "%s-bundle-%s" (include "longshore.fullname" .root) .name) -}}
{{- end -}}

{{/* longshore.toml. JSON's strings and lists are TOML's too. A budget is not here: it fits one pool's grace alone. */}}
{{- define "longshore.toml" -}}
{{ .Values.config | trim }}
{{- if .Values.bundle.enabled }}

[bundle]
name = {{ .Values.bundle.name | toJson }}
folder = {{ include "longshore.bundleFolder" . | toJson }}
look_every = {{ .Values.bundle.lookEvery | toJson }}
late_after = {{ .Values.bundle.lateAfter | toJson }}
{{- with .Values.bundle.sources }}
quiet_min = {{ $.Values.bundle.quietMin | toJson }}
quiet_max = {{ $.Values.bundle.quietMax | toJson }}

[bundle.sources]
{{- range $name, $_ := . }}
{{ $name | toJson }} = {{ printf "/etc/longshore-bundle/%s" $name | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- range (include "longshore.pools" . | fromJson).pools }}

[pools.{{ .name }}]
kind = {{ .kind | toJson }}
queues = {{ .queues | toJson }}
{{- with .slots }}
slots = {{ int . }}
{{- end }}
{{- with .overrunQueue }}
overrun_queue = {{ . | toJson }}
{{- end }}
{{- end }}
{{ end -}}

{{/* Refuses what would fail later or elsewhere, each with its reason. */}}
{{- define "longshore.check" -}}
{{- $pools := (include "longshore.pools" . | fromJson).pools -}}
{{- if not $pools -}}
{{- fail "pools has no pool: see ci/embedded-values.yaml and ci/squad-values.yaml of the chart for the small and the large end" -}}
{{- end -}}
{{- $config := .Values.config | fromToml -}}
{{- if hasKey $config "Error" -}}
{{- fail (printf "config is no TOML: %s" $config.Error) -}}
{{- end -}}
{{- include "longshore.checkConfig" (dict "root" . "config" $config) -}}
{{- $margin := include "longshore.milliseconds" (dig "worker" "margin" "2s" $config) | int -}}
{{- range $pools -}}{{- include "longshore.checkPool" (merge (dict "margin" $margin) .) -}}{{- end -}}
{{- if .Values.embedded.enabled -}}
{{- $pool := first $pools -}}
{{- if or (gt (len $pools) 1) (ne $pool.kind "pinned") (gt (int $pool.replicas) 1) -}}
{{- fail "embedded.enabled needs exactly one pool, pinned and with at most one replica: one pod alone has the SQLite file; give that pool all queues" -}}
{{- end -}}
{{- end -}}
{{- include "longshore.checkBundle" . -}}
{{- if .Values.api.enabled -}}{{- include "longshore.checkApi" (dict "root" . "config" $config "pools" $pools) -}}{{- end -}}
{{- if and .Values.kubernetes.admissionPolicy (not .Values.kubernetes.enabled) -}}
{{- fail "kubernetes.admissionPolicy guards what kubernetes.enabled permits: enable both or none" -}}
{{- end -}}
{{- if and .Values.kubernetes.admissionPolicy (eq (include "longshore.serviceAccount" .) "default") -}}
{{- fail "kubernetes.admissionPolicy binds all that use the workers' service account: give it a name of its own, not default" -}}
{{- end -}}
{{- end -}}

{{/* A duration like 20s in milliseconds. */}}
{{- define "longshore.milliseconds" -}}
{{- $number := regexFind "^[0-9]+" (toString .) | int64 -}}
{{- mul $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) (regexFind "[a-z]+$" (toString .)) | default 0) -}}
{{- end -}}

{{- define "longshore.checkConfig" -}}
{{- $config := .config -}}
{{- range $path, $instead := dict
  "pools" "the value pools"
  "api" "the value api"
  "bundle" "the value bundle"
  "worker.grace" "terminationGracePeriodSeconds of the pool"
  "http.listen" "the value http.port"
  "kubernetes.pod" "the downward API" "kubernetes.namespace" "the downward API"
  "kubernetes.uid" "the downward API" "kubernetes.node" "the downward API" -}}
{{- $at := $config -}}
{{- range splitList "." $path -}}
{{- if kindIs "map" $at -}}{{- $at = get $at . -}}{{- else -}}{{- $at = "" -}}{{- end -}}
{{- end -}}
{{- if $at -}}{{- fail (printf "config has %s, which comes from %s: remove it there" $path $instead) -}}{{- end -}}
{{- end -}}
{{- with .root.Values -}}
{{- if .embedded.enabled -}}
{{- if or (hasKey $config "broker") (dig "store" "url" "" $config) .store.urlKey .broker.urlKey -}}
{{- fail "embedded.enabled sets store and broker: remove [broker] and store.url from config, and the urlKeys" -}}
{{- end -}}
{{- else -}}
{{- if not (or (and .store.existingSecret .store.urlKey) (hasPrefix "postgres" (dig "store" "url" "" $config))) -}}
{{- fail "pods share no files, so the store is PostgreSQL: write [store] url = \"postgres://user@host/database\" into config, or name store.existingSecret and store.urlKey, or use embedded.enabled" -}}
{{- end -}}
{{- if not (or (and .broker.existingSecret .broker.urlKey) (hasPrefix "amqp" (dig "broker" "url" "" $config))) -}}
{{- fail "the broker is RabbitMQ: write [broker] url = \"amqp://user@host:5672/vhost\" into config, or name broker.existingSecret and broker.urlKey, or use embedded.enabled" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "longshore.checkBundle" -}}
{{- with .Values.bundle -}}
{{- if and .enabled (not .name) -}}
{{- fail "bundle.enabled needs bundle.name: the bundle that `longshore config publish --bundle NAME` publishes" -}}
{{- end -}}
{{- if and .sources (not .enabled) -}}
{{- fail "bundle.sources mean nothing without bundle.enabled: enable it, or remove them" -}}
{{- end -}}
{{- if gt (include "longshore.milliseconds" .quietMin | int64) (include "longshore.milliseconds" .quietMax | int64) -}}
{{- fail "bundle.quietMin is more than bundle.quietMax: lower one or raise the other" -}}
{{- end -}}
{{- $own := false -}}{{- $others := false -}}
{{- range $name, $source := .sources -}}
{{- if hasKey $source "files" -}}{{- $own = true -}}{{- else -}}{{- $others = true -}}{{- end -}}
{{- end -}}
{{- if and $own $others -}}
{{- fail "bundle.sources has both files and ConfigMaps of others, which no mark makes one set: give all of them files, or none" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "longshore.checkApi" -}}
{{- with .root.Values -}}
{{- if .embedded.enabled -}}
{{- fail "api.enabled needs a store that several pods share, and embedded.enabled keeps it in one: disable one of them" -}}
{{- end -}}
{{- if and .api.ingress.enabled (not .api.ingress.hosts) -}}
{{- fail "api.ingress has no hosts: write the names that producers call it by" -}}
{{- end -}}
{{- end -}}
{{- $budget := .root.Values.api.podDisruptionBudget -}}
{{- $most := get $budget "maxUnavailable" | toString -}}
{{- $least := get $budget "minAvailable" -}}
{{- if or (has $most (list "0" "0%")) (eq (toString $least) "100%") (and $least (not (kindIs "string" $least)) (ge (int $least) (int .root.Values.api.replicas))) -}}
{{- fail "api.podDisruptionBudget lets no pod go, so that every drain would wait for ever: raise api.replicas, or let one be unavailable" -}}
{{- end -}}
{{- if eq (dig "testjobs" "store" "" .config) "squad" -}}
{{- fail "with testjobs.store = \"squad\", SQUAD's own web server answers producers: remove api.enabled" -}}
{{- end -}}
{{- range .pools -}}
{{- if eq .name "api" -}}{{- fail "pools.api would have the name of the api's Deployment: give the pool another name" -}}{{- end -}}
{{- end -}}
{{- if gt (include "longshore.apiName" .root | len) 63 -}}
{{- fail "the name of the api's Service is longer than the 63 letters that Kubernetes leaves it; set fullnameOverride" -}}
{{- end -}}
{{- end -}}

{{- define "longshore.checkPool" -}}
{{- $place := printf "pools.%s" .name -}}
{{- if gt (len .fullname) 52 -}}
{{- fail (printf "%s: the name %s is longer than the 52 letters that Kubernetes leaves a pool; set fullnameOverride" $place .fullname) -}}
{{- end -}}
{{- $room := sub (mul 1000 .grace) .margin -}}
{{- if le $room 0 -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is not more than worker.margin of config" $place) -}}
{{- end -}}
{{- if and .budget (gt (include "longshore.milliseconds" .budget | int64) $room) -}}
{{- fail (printf "%s: budget is more than a stopping worker has: terminationGracePeriodSeconds less worker.margin; lower one or raise the other" $place) -}}
{{- end -}}
{{- if .scaled -}}
{{- with .autoscaling -}}
{{- if gt (int $.grace) 600 -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is at most 600 where a pool is scaled: the cluster-autoscaler grants no more; work that takes longer is handed off" $place) -}}
{{- end -}}
{{- if gt (int (.minReplicas | default 0)) (int .maxReplicas) -}}
{{- fail (printf "%s: autoscaling.minReplicas is more than maxReplicas" $place) -}}
{{- end -}}
{{- if and (eq .type "hpa") (not (or .cpuUtilization .metrics)) -}}
{{- fail (printf "%s: autoscaling by hpa needs cpuUtilization or metrics" $place) -}}
{{- end -}}
{{- if and (eq .type "hpa") (hasKey . "minReplicas") (eq (int .minReplicas) 0) -}}
{{- fail (printf "%s: autoscaling by hpa never ends at no pod: raise minReplicas to 1, or use keda" $place) -}}
{{- end -}}
{{- if and (eq .type "hpa") .keda -}}
{{- fail (printf "%s: autoscaling.keda means nothing with type hpa: remove it, or write type: keda" $place) -}}
{{- end -}}
{{- if and (eq .type "keda") (not (or (dig "rabbitmq" false (.keda | default dict)) (dig "postgresql" false (.keda | default dict)))) -}}
{{- fail (printf "%s: autoscaling by keda needs keda.rabbitmq or keda.postgresql" $place) -}}
{{- end -}}
{{- if and (eq .type "keda") (or .cpuUtilization .metrics) -}}
{{- fail (printf "%s: autoscaling.cpuUtilization and metrics mean nothing with type keda" $place) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
