{{- define "longlook.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Long enough to be told apart, short enough for the suffixes of components and of pods. */}}
{{- define "longlook.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains (include "longlook.name" .) .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "longlook.name" .) | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The next three take (dict "root" $ "component" "gateway"). */}}
{{- define "longlook.component" -}}
{{- printf "%s-%s" (include "longlook.fullname" .root) .component }}
{{- end }}

{{- define "longlook.selector" -}}
app.kubernetes.io/name: {{ include "longlook.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "longlook.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "longlook.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: longlook
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of pods: none that an update of the chart changes by itself, for it would restart every pod. */}}
{{- define "longlook.podLabels" -}}
{{ include "longlook.selector" . }}
app.kubernetes.io/part-of: longlook
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "longlook.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "longlook.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Takes (dict "root" $ "image" .Values.gateway.image). */}}
{{- define "longlook.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{- define "longlook.valkeySecret" -}}
{{- .Values.valkey.existingSecret.name | default (include "longlook.component" (dict "root" . "component" "valkey")) }}
{{- end }}

{{/* Where the bus is, as environment variables. The kubelet puts the password into the URL; no template sees it. */}}
{{- define "longlook.busEnv" -}}
{{- if gt (len (compact (list .Values.valkey.enabled .Values.redis.existingSecret.name .Values.redis.url))) 1 }}
{{- fail "the bus: set only one of redis.url, redis.existingSecret.name and valkey.enabled" }}
{{- end }}
{{- if .Values.valkey.enabled -}}
- name: VALKEY_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "longlook.valkeySecret" . }}
      key: {{ .Values.valkey.existingSecret.key }}
- name: LONGLOOK_REDIS_URL
  value: redis://:$(VALKEY_PASSWORD)@{{ include "longlook.component" (dict "root" . "component" "valkey") }}:6379/0
{{- else if .Values.redis.existingSecret.name -}}
- name: LONGLOOK_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret.name }}
      key: {{ .Values.redis.existingSecret.key }}
{{- else -}}
- name: LONGLOOK_REDIS_URL
  value: {{ required "the bus: set redis.url, redis.existingSecret.name, or for a trial valkey.enabled" .Values.redis.url | quote }}
{{- end }}
{{- end }}

{{/* More settings and variables of a component; takes .Values.gateway or .Values.worker. */}}
{{- define "longlook.moreEnv" -}}
{{- range $name, $value := .settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "longlook.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "longlook.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods go; takes (dict "root" $ "component" "gateway" "values" .Values.gateway). */}}
{{- define "longlook.scheduling" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
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
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "longlook.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* How many workers' memory is reserved. Every gateway reports the same, and max takes the newest word among them. */}}
{{- define "longlook.workersReserved" -}}
{{- $model := printf "{namespace=%q,model=%q}" .Release.Namespace .Values.worker.model -}}
max(longlook_reserved_tokens{{ $model }}) * max(longlook_workers{{ $model }}) / max(longlook_capacity_tokens{{ $model }})
{{- end }}

{{/* Requests and limits of a worker with its GPUs in both, as Kubernetes wants extended resources. Takes .Values.worker. */}}
{{- define "longlook.workerResources" -}}
{{- $gpus := dict }}
{{- if .gpu.count }}
{{- $gpus = dict .gpu.resource .gpu.count }}
{{- end }}
{{- $requests := merge (dict) $gpus (.resources.requests | default dict) }}
{{- $limits := merge (dict) $gpus (.resources.limits | default dict) }}
{{- toYaml (dict "requests" $requests "limits" $limits) }}
{{- end }}

{{/* Workers come fast and go slowly: one that goes hands its sessions to the others. Takes .Values.worker.autoscaling. */}}
{{- define "longlook.workerScaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Pods, value: 4, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDownStabilizationSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 300}
{{- end }}
