{{- define "kvtide.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whose caches are looked after, as a list in JSON; an empty one is all of them. */ -}}
{{- define "kvtide.watched" -}}
{{- if not .Values.watchAllNamespaces -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toJson -}}
{{- else if .Values.watchNamespaces -}}
{{- fail "watchAllNamespaces is true and watchNamespaces names some: leave one of them out" -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{- /* A quantity in bytes, as a decimal number. */ -}}
{{- define "kvtide.bytes" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- if kindIs "string" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]*$" .)) -}}
{{- else -}}
{{- float64 . -}}
{{- end -}}
{{- end -}}

{{- define "kvtide.resources" -}}
{{- $least := "512Mi" -}}
{{- $requests := default (dict) .Values.resources.requests -}}
{{- $limits := default (dict) .Values.resources.limits -}}
{{- range $name, $limit := $limits -}}
{{- if and (eq $name "memory") (lt (include "kvtide.bytes" $limit | float64) (include "kvtide.bytes" $least | float64)) -}}
{{- fail (printf "resources.limits.memory %v is less than the operator needs: give at least %s" $limit $least) -}}
{{- end -}}
{{- $request := get $requests $name | default 0 -}}
{{- if gt (include "kvtide.bytes" $request | float64) (include "kvtide.bytes" $limit | float64) -}}
{{- fail (printf "resources.requests.%s %v is more than its limit %v: lower one or raise the other" $name $request $limit) -}}
{{- end -}}
{{- end -}}
{{- toYaml .Values.resources -}}
{{- end -}}

{{- define "kvtide.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kvtide.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The operator lets only pods of this name through to its nodes' admin port. */ -}}
{{- define "kvtide.selector" -}}
app.kubernetes.io/name: kvtide-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvtide.labels" -}}
{{ include "kvtide.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kvtide
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "kvtide.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}
