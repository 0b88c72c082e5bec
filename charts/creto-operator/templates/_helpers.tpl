{{- /* One operator acts in a namespace, so its objects have a fixed name by default. */ -}}
{{- define "creto-operator.name" -}}
{{- .Values.fullnameOverride | default .Values.nameOverride | default "creto-operator" -}}
{{- end -}}

{{- /* Objects outside the release's namespace also carry that namespace in their name. */ -}}
{{- define "creto-operator.wide" -}}{{ .Release.Namespace }}-{{ include "creto-operator.name" . }}{{- end -}}

{{- define "creto-operator.selector" -}}
app.kubernetes.io/name: creto-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The chart's own labels come before commonLabels, so that no key appears twice. */ -}}
{{- define "creto-operator.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" "creto-operator"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) -}}
{{- merge $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "creto-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "creto-operator.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- /* A repository's first part is its registry if it has a dot or a port or is localhost, as for docker. */ -}}
{{- define "creto-operator.repository" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" .image.repository -}}
{{- if not $registry -}}
{{- .image.repository -}}
{{- else if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) -}}
{{- $registry }}/{{ rest $parts | join "/" -}}
{{- else -}}
{{- $registry }}/{{ .image.repository -}}
{{- end -}}
{{- end -}}

{{- /* The image to run. Takes {root, image}. */ -}}
{{- define "creto-operator.image" -}}
{{- $repository := include "creto-operator.repository" . -}}
{{- if .image.digest -}}
{{- $repository }}@{{ .image.digest -}}
{{- else -}}
{{- $repository }}:{{ .image.tag | default .root.Chart.AppVersion -}}
{{- end -}}
{{- end -}}

{{- /* A security context without the fields that are null: the platform fills these in. */ -}}
{{- define "creto-operator.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- with $kept }}{{ toYaml . }}{{ end -}}
{{- end -}}
