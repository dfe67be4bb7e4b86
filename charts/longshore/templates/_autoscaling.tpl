{{/* What scales an elastic pool; takes (dict "root" $ "pool" $pool). */}}
{{- define "longshore.autoscaling" -}}
{{- if eq .pool.autoscaling.type "hpa" }}
{{- include "longshore.hpa" . }}
{{- else }}
{{- include "longshore.keda" . }}
{{- end }}
{{- end -}}

{{- define "longshore.hpa" -}}
{{- $pool := .pool }}
{{- with .pool.autoscaling }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $pool.fullname }}
  labels:
    {{- include "longshore.labels" $.root | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $pool.fullname }}
  minReplicas: {{ int (.minReplicas | default 1) }}
  maxReplicas: {{ int .maxReplicas }}
  metrics:
    {{- with .cpuUtilization }}
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ int . }}
    {{- end }}
    {{- with .metrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "longshore.keda" -}}
{{- $pool := .pool }}
{{- $keda := .pool.autoscaling.keda }}
{{- with .pool.autoscaling }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $pool.fullname }}
  labels:
    {{- include "longshore.labels" $.root | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ $pool.fullname }}
  minReplicaCount: {{ int (.minReplicas | default 0) }}
  maxReplicaCount: {{ int .maxReplicas }}
  pollingInterval: {{ int ($keda.pollingInterval | default 30) }}
  cooldownPeriod: {{ dig "cooldownPeriod" 300 $keda | int }}
  {{- with .behavior }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- toYaml . | nindent 8 }}
  {{- end }}
  triggers:
    {{- with $keda.rabbitmq }}
    {{- range $pool.queues }}
    # Over HTTP: messages that workers hold count too, where AMQP counts only those that wait.
    - type: rabbitmq
      metadata:
        protocol: http
        mode: QueueLength
        queueName: {{ . | quote }}
        value: {{ dig "value" 8 $keda.rabbitmq | int | quote }}
        activationValue: {{ dig "activationValue" 0 $keda.rabbitmq | int | quote }}
      authenticationRef:
        name: {{ $pool.fullname }}-rabbitmq
    {{- end }}
    {{- end }}
    {{- with $keda.postgresql }}
    # What may run now or runs, also after its message is acknowledged. A task that no worker has met yet has no row.
    - type: postgresql
      metadata:
        query: {{ include "longshore.backlog" $ | quote }}
        targetQueryValue: {{ dig "value" 8 . | int | quote }}
        activationTargetQueryValue: {{ dig "activationValue" 0 . | int | quote }}
      authenticationRef:
        name: {{ $pool.fullname }}-postgresql
    {{- end }}
{{- with $keda.rabbitmq }}
---
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: {{ $pool.fullname }}-rabbitmq
  labels:
    {{- include "longshore.labels" $.root | nindent 4 }}
spec:
  secretTargetRef:
    - parameter: host
      name: {{ .existingSecret }}
      key: {{ .hostKey }}
{{- end }}
{{- with $keda.postgresql }}
---
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: {{ $pool.fullname }}-postgresql
  labels:
    {{- include "longshore.labels" $.root | nindent 4 }}
spec:
  secretTargetRef:
    - parameter: connection
      name: {{ .existingSecret }}
      key: {{ .connectionKey }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The number of a pool's tasks that run, may run, or are due; each part has an index of its own. */}}
{{- define "longshore.backlog" -}}
{{- $schema := dig "store" "schema" "longshore" (.root.Values.config | fromToml) -}}
{{- $quoted := list -}}
{{- range .pool.queues -}}{{- $quoted = append $quoted (printf "'%s'" (replace "'" "''" .)) -}}{{- end -}}
select count(*) from {{ $schema }}.tasks where queue in ({{ join ", " $quoted }}) and (state = 'queued' or state = 'running' or (state = 'waiting' and run_at <= extract(epoch from now()) * 1000))
{{- end -}}
