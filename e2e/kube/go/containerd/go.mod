module kvtide.dev/e2e/containerd

go 1.25.0

require github.com/containerd/containerd/v2 v2.2.3
