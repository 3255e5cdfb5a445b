module github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render/readers

go 1.26.0

require (
	github.com/compose-spec/compose-go/v2 v2.9.1
	github.com/docker/cli v28.5.2+incompatible
)

require (
	github.com/sirupsen/logrus v1.9.0 // indirect
	golang.org/x/sys v0.5.0 // indirect
)
