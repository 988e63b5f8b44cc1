{{- /*
What the operator may do in the namespaces of its caches. Children are applied (create and patch) and go with
their cache by owner references, so that most need no delete; a user's spec is never written.
*/ -}}
{{- define "kvtide.rules.namespaced" -}}
- apiGroups: [kvtide.dev]
  resources: [tieredcaches]
  verbs: [get, list, watch]
- apiGroups: [kvtide.dev]
  resources: [cacheplans]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [kvtide.dev]
  resources: [tieredcaches/status, cacheplans/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# Those that a cache names, and the token it makes for each cache's nodes.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list, create, patch]
{{- end -}}

{{- /* What is of no namespace: read only. */ -}}
{{- define "kvtide.rules.cluster" -}}
- apiGroups: [kvtide.dev]
  resources: [tierclasses]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get, list, watch]
# Whether another operator lives that a cache names in its status.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [kvtide-operator]
  verbs: [get]
{{- end -}}
