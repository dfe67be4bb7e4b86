{{/* What the containers of workers, migration and test share. */}}

{{/* Passwords and addresses, from Secrets that exist. */}}
{{- define "longshore.secretEnv" -}}
{{- range $section := list "store" "broker" -}}
{{- $values := get $.Values $section -}}
{{- if $values.existingSecret -}}
{{- range $key, $name := dict "passwordKey" "PASSWORD" "urlKey" "URL" "readerPasswordKey" "READER_PASSWORD" -}}
{{- with get $values $key }}
- name: LONGSHORE__{{ upper $section }}__{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $values.existingSecret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.embedded.enabled }}
- name: LONGSHORE__STORE__URL
  value: sqlite:/var/lib/longshore/longshore.db
{{- end }}
{{- end -}}

{{/* The configuration and the files of secrets as one volume; takes (dict "root" $ "configMap" NAME), and "tokens" of the api. */}}
{{- define "longshore.configVolume" -}}
- name: config
  projected:
    sources:
      - configMap:
          name: {{ .configMap }}
      {{- range $name, $from := .root.Values.secretFiles }}
      - secret:
          name: {{ $from.existingSecret }}
          items:
            - key: {{ $from.key }}
              path: secrets/{{ $name }}
      {{- end }}
      {{- range $name, $from := .tokens }}
      - secret:
          name: {{ $from.existingSecret }}
          items:
            - key: {{ $from.key }}
              path: api-tokens/{{ $name }}
      {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .tmpSize | default "64Mi" }}
{{- end -}}

{{- define "longshore.configMounts" -}}
- name: config
  mountPath: /etc/longshore
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- define "longshore.container" -}}
image: {{ include "longshore.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{- define "longshore.podSettings" -}}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Where pods run; takes (dict "of" VALUES "selector" LABELS), the labels of the pods themselves. */}}
{{- define "longshore.placement" -}}
{{- $own := dict "labelSelector" (dict "matchLabels" (fromYaml .selector)) -}}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml (merge (deepCopy .) $own) | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Who this worker is, how long it has and what its pool may take; takes (dict "root" $ "pool" $pool). */}}
{{- define "longshore.workerEnv" -}}
- name: LONGSHORE__WORKER__GRACE
  value: {{ .pool.grace }}s
- name: LONGSHORE__HTTP__LISTEN
  value: 0.0.0.0:{{ .root.Values.http.port }}
{{- with .pool.budget }}
- name: LONGSHORE__POOLS__{{ $.pool.name | upper | replace "-" "_" }}__BUDGET
  value: {{ . | quote }}
{{- end }}
{{- if .root.Values.kubernetes.enabled }}
{{- $fields := dict "POD" "metadata.name" "NAMESPACE" "metadata.namespace" "UID" "metadata.uid" }}
{{- if .root.Values.kubernetes.nodes }}{{ $_ := set $fields "NODE" "spec.nodeName" }}{{ end }}
{{- range $name, $field := $fields }}
- name: LONGSHORE__KUBERNETES__{{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $field }}
{{- end }}
{{- end }}
{{- include "longshore.secretEnv" .root }}
{{- end -}}

{{- define "longshore.workerContainer" -}}
- name: worker
  {{- include "longshore.container" .root | nindent 2 }}
  args: [run, --pool, {{ .pool.name | quote }}, --config, /etc/longshore/longshore.toml]
  env:
    {{- include "longshore.workerEnv" . | nindent 4 }}
    {{- with .pool.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .pool.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: http
      containerPort: {{ .root.Values.http.port }}
  {{- range $probe, $path := dict "startup" "/startupz" "liveness" "/livez" "readiness" "/readyz" }}
  {{ $probe }}Probe:
    httpGet:
      path: {{ $path }}
      port: http
    {{- toYaml (get $.root.Values.probes $probe) | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml .pool.resources | nindent 4 }}
  volumeMounts:
    {{- include "longshore.configMounts" .root | nindent 4 }}
    {{- if .root.Values.embedded.enabled }}
    - name: data
      mountPath: /var/lib/longshore
    {{- end }}
    {{- with include "longshore.bundleMounts" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .pool.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The bundle's ConfigMaps, each whole and in a directory of its own: what is mounted by subPath never changes. */}}
{{- define "longshore.bundleMounts" -}}
{{- if .Values.bundle.enabled }}
{{- if not .Values.embedded.enabled }}
- name: bundles
  mountPath: {{ include "longshore.bundleFolder" . }}
{{- end }}
{{- range $name, $_ := .Values.bundle.sources }}
- name: bundle-{{ $name }}
  mountPath: /etc/longshore-bundle/{{ $name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "longshore.bundleVolumes" -}}
{{- if .Values.bundle.enabled }}
{{- if not .Values.embedded.enabled }}
- name: bundles
  emptyDir:
    sizeLimit: 1Gi
{{- end }}
{{- range $name, $source := .Values.bundle.sources }}
- name: bundle-{{ $name }}
  configMap:
    name: {{ include "longshore.bundleConfigMap" (dict "root" $ "name" $name "source" $source) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The pod template of a pool. Nothing that a bundle says is in it. A pinned one depends on nothing but its own pool's values, the image, and
which sources its bundle has. */}}
{{- define "longshore.podTemplate" -}}
{{- $elastic := eq .pool.kind "elastic" -}}
metadata:
  labels:
    {{- include "longshore.poolSelector" . | nindent 4 }}
    {{- with .pool.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- if $elastic }}
    checksum/config: {{ include "longshore.toml" .root | sha256sum }}
    cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: tmp{{ if .root.Values.bundle.enabled }},bundles{{ end }}
    {{- else }}
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
    {{- end }}
    {{- with .pool.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "longshore.serviceAccount" .root }}
  automountServiceAccountToken: {{ .root.Values.kubernetes.enabled }}
  {{- include "longshore.podSettings" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ .pool.grace }}
  {{- with include "longshore.placement" (dict "of" .pool "selector" (include "longshore.poolSelector" .)) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .root.Values.embedded.enabled }}
  initContainers:
    - name: migrate
      {{- include "longshore.container" .root | nindent 6 }}
      args: [migrate, --config, /etc/longshore/longshore.toml]
      {{- with include "longshore.secretEnv" .root | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .root.Values.migration.resources | nindent 8 }}
      volumeMounts:
        {{- include "longshore.configMounts" .root | nindent 8 }}
        - name: data
          mountPath: /var/lib/longshore
  {{- end }}
  containers:
    {{- include "longshore.workerContainer" . | nindent 4 }}
  volumes:
    {{- include "longshore.configVolume" (dict "root" .root "configMap" (include "longshore.fullname" .root) "tmpSize" .pool.tmpSize) | nindent 4 }}
    {{- if and .root.Values.embedded.enabled .root.Values.embedded.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .root.Values.embedded.existingClaim }}
    {{- end }}
    {{- with include "longshore.bundleVolumes" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .pool.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
