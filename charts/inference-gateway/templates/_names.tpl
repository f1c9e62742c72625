{{/* Names, labels and images that several templates share. */}}

{{- define "igw.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Bounded to 52 characters: Pods get a suffix of 17 behind it, and names of Pods are host names too. */}}
{{- define "igw.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "igw.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "igw.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's Pods; never changes, since a Deployment's selector cannot. */}}
{{- define "igw.selector" -}}
app.kubernetes.io/name: {{ include "igw.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "igw.labels" -}}
{{- with .Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "igw.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "igw.serviceAccount" -}}
{{- default (include "igw.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "igw.peering" -}}
{{- default (include "igw.fullname" .) .Values.peering.name -}}
{{- end -}}

{{- define "igw.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Which definitions this release may write, as a JSON object {name: bool}: those that are missing, and those that it
wrote before, unless the inference extension's own were applied over them since (these carry a bundle version).
Without a cluster (helm template) nothing can be looked up, so all of them.
*/}}
{{- define "igw.writableCrds" -}}
{{- $writable := dict -}}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" -}}
{{- $name := ($.Files.Get $path | fromYaml).metadata.name -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name -}}
{{- $notes := dig "metadata" "annotations" (dict) ($found | default dict) -}}
{{- $name_matches := eq (get $notes "meta.helm.sh/release-name") $.Release.Name -}}
{{- $namespace_matches := eq (get $notes "meta.helm.sh/release-namespace") $.Release.Namespace -}}
{{- $upstream := hasKey $notes "inference.networking.k8s.io/bundle-version" -}}
{{- $ours := and $name_matches $namespace_matches (not $upstream) -}}
{{- $_ := set $writable $name (or (not $found) $ours) -}}
{{- end -}}
{{- $writable | toJson -}}
{{- end -}}
