{{/* Names, and what every pod has in common. */}}
{{- define "shoal.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of the pods of a part: (dict "root" $ "part" "serve"). */}}
{{- define "shoal.labels" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/instance: {{ include "shoal.name" .root }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "shoal.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s-cpu" .Chart.AppVersion) -}}
{{ .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "shoal.index" -}}
{{- if .Values.index -}}
{{ .Values.index }}
{{- else if .Values.store.enabled -}}
s3://{{ .Values.store.bucket }}/index
{{- else -}}
{{ fail "set index to the URI of the index root, or store.enabled to true" }}
{{- end -}}
{{- end }}

{{/* The Secret of credentials; empty if there is none. */}}
{{- define "shoal.storageSecret" -}}
{{- if .Values.storage.secret -}}
{{ .Values.storage.secret }}
{{- else if .Values.store.enabled -}}
{{ include "shoal.name" . }}-store
{{- end -}}
{{- end }}

{{- define "shoal.endpoint" -}}
{{- if .Values.storage.endpoint -}}
{{ .Values.storage.endpoint }}
{{- else if .Values.store.enabled -}}
http://{{ include "shoal.name" . }}-store:9000
{{- end -}}
{{- end }}

{{- define "shoal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "shoal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The same amounts as requests and limits. */}}
{{- define "shoal.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
limits:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
{{- end }}

{{/* How the index root is reached, in every container that reads or writes it. */}}
{{- define "shoal.env" -}}
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
- name: AWS_REGION
  value: {{ .Values.storage.region | quote }}
{{- with include "shoal.endpoint" . }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "shoal.envFrom" -}}
{{- with include "shoal.storageSecret" . }}
- secretRef:
    name: {{ . }}
{{- end }}
- secretRef:
    name: shoal-signing-key
    optional: true
{{- end }}

{{/* Whom the pods may ask beside each other: the cluster's names, an object store by HTTPS, and what is named in the values. Not the
     addresses at which a cloud hands out the roles of its machines. */}}
{{- define "shoal.egress" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [169.254.0.0/16]
  ports:
    - port: 443
    {{- range .Values.storage.ports }}
    - port: {{ . }}
    {{- end }}
{{- if .Values.store.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "shoal.labels" (dict "root" . "part" "store") | nindent 10 }}
  ports:
    - port: 9000
{{- end }}
{{- end }}
