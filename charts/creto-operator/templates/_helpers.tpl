{{- /* One operator a namespace, so its objects have a fixed name. */ -}}
{{- define "creto-operator.name" -}}creto-operator{{- end -}}

{{- /* Cluster-wide objects also carry the namespace. */ -}}
{{- define "creto-operator.wide" -}}{{ .Release.Namespace }}-creto-operator{{- end -}}

{{- define "creto-operator.selector" -}}
app.kubernetes.io/name: creto-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "creto-operator.labels" -}}
{{ include "creto-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
