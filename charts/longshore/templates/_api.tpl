{{/* The producers' HTTP, `longshore api`: its names, its configuration and its pods. */}}

{{- define "longshore.apiName" -}}
{{- printf "%s-api" (include "longshore.fullname" .) -}}
{{- end -}}

{{- define "longshore.apiServiceAccount" -}}
{{- if .Values.api.serviceAccount.create -}}
{{- .Values.api.serviceAccount.name | default (include "longshore.apiName" .) -}}
{{- else -}}
{{- .Values.api.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "longshore.apiSelector" -}}
{{ include "longshore.selectorLabels" . }}
app.kubernetes.io/component: api
{{- end -}}

{{/* longshore.toml with the tokens: they are in no worker's. */}}
{{- define "longshore.apiToml" -}}
{{ include "longshore.toml" . | trim }}
{{- range $name, $token := .Values.api.tokens }}

[api.tokens.{{ $name | toJson }}]
token_file = {{ printf "api-tokens/%s" $name | toJson }}
{{- with $token.projects }}
projects = {{ . | toJson }}
{{- end }}
{{- end }}
{{ end -}}

{{- define "longshore.apiPod" -}}
{{- $api := .Values.api -}}
metadata:
  labels:
    {{- include "longshore.apiSelector" . | nindent 4 }}
    {{- with $api.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "longshore.apiToml" . | sha256sum }}
    cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: tmp
    {{- with $api.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "longshore.apiServiceAccount" . }}
  automountServiceAccountToken: false
  {{- include "longshore.podSettings" . | nindent 2 }}
  # The sleep below, the 10 s for what was asked, and some for the outbox.
  terminationGracePeriodSeconds: 30
  {{- with include "longshore.placement" (dict "of" $api "selector" (include "longshore.apiSelector" .)) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: api
      {{- include "longshore.container" . | nindent 6 }}
      args: [api, --config, /etc/longshore/longshore.toml]
      env:
        - name: LONGSHORE__API__LISTEN
          value: 0.0.0.0:{{ int $api.port }}
        {{- with include "longshore.secretEnv" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $api.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $api.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ int $api.port }}
      # It listens on until everybody knows that it is going.
      lifecycle:
        preStop:
          sleep:
            seconds: 5
      {{- range $probe, $path := dict "startup" "/livez" "liveness" "/livez" "readiness" "/readyz" }}
      {{ $probe }}Probe:
        httpGet:
          path: {{ $path }}
          port: http
        {{- toYaml (get $.Values.probes $probe) | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml $api.resources | nindent 8 }}
      volumeMounts:
        {{- include "longshore.configMounts" . | nindent 8 }}
        {{- with $api.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "longshore.configVolume" (dict "root" . "configMap" (include "longshore.apiName" .) "tokens" $api.tokens) | nindent 4 }}
    {{- with $api.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
