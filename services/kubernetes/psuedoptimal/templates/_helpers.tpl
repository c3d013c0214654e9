{{/* Labels of one room: (dict "root" $ "room" "decoder"). */}}
{{- define "lab.selector" -}}
app.kubernetes.io/name: psuedoptimal
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .room }}
{{- end }}

{{- define "lab.labels" -}}
{{ include "lab.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "lab.image" -}}
{{ .root.Values.images.registry }}/{{ .room }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "lab.secret" -}}
{{ .Values.existingSecret | default (printf "%s-tokens" .Release.Name) }}
{{- end }}

{{/* What every pod has: no account, no root, nothing to write on, pull secrets. */}}
{{- define "lab.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "lab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{- define "lab.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Ready when it can work, alive when it answers; both without a token. A model may take long to load. */}}
{{- define "lab.probes" -}}
startupProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  failureThreshold: {{ .startup }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end }}

{{/* One key of the secret as a file: (dict "root" $ "keys" (list "decoder")). */}}
{{- define "lab.tokens" -}}
- name: tokens
  secret:
    secretName: {{ include "lab.secret" .root }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}

{{- define "lab.models" -}}
- name: models
  {{- if .Values.models.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.models.claim }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{- define "lab.env" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "lab.hub" -}}
- {name: HF_HUB_OFFLINE, value: {{ ternary "0" "1" .Values.models.egress | quote }}}
- {name: HF_HOME, value: /models}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "lab.secret" . }}, key: hf, optional: true}
{{- end }}
