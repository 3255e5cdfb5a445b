{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* The name of all that is the injector's, cluster-wide objects among them. */}}
{{- define "hyvve.name" -}}
{{- printf "%s-injector" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "hyvve.selector" -}}
app.kubernetes.io/name: hyvve-injector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hyvve.labels" -}}
{{ include "hyvve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: hyvve
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "hyvve.metadata" -}}
name: {{ include "hyvve.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "hyvve.labels" . | nindent 2 }}
{{- end -}}

{{/* Of (list image root): its reference. */}}
{{- define "hyvve.image" -}}
{{- $image := index . 0 -}}
{{- $root := index . 1 -}}
{{- with $root.Values.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}
@{{ $image.digest }}
{{- else -}}
:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "hyvve.secret" -}}
{{- if eq .Values.certificates.mode "secret" -}}
{{ .Values.certificates.secretName }}
{{- else -}}
{{ include "hyvve.name" . }}-certificates
{{- end -}}
{{- end -}}

{{/* Of podReaders: NAMESPACE/NAME with commas between them. */}}
{{- define "hyvve.podReaders" -}}
{{- $all := list -}}
{{- range $namespace, $accounts := . -}}
{{- range $accounts -}}
{{- $all = append $all (printf "%s/%s" $namespace .) -}}
{{- end -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}
