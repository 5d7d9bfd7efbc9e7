package deletion

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// TestExplain: the error of a refusal names the setting or permission that the registry requires.
func TestExplain(t *testing.T) {
	refused := func(status int, err error) error {
		return &registry.Error{Op: registry.OpDelete, Status: status, Err: err}
	}
	unsupported := refused(405, fmt.Errorf("%w: the operation is unsupported", registry.ErrUndeletable))
	for _, test := range []struct {
		at   string
		err  error
		says string
	}{
		{"docker.io/team/app", unsupported, "(405); Docker Hub deletes tags at hub.docker.com"},
		{"ghcr.io/team/app", unsupported, "(405); GitHub deletes versions"},
		{"1.dkr.ecr.eu-central-1.amazonaws.com/app", refused(403, registry.ErrDenied), "(403); Amazon ECR needs the permission ecr:BatchDeleteImage"},
		{"public.ecr.aws/a/app", unsupported, "ecr-public:BatchDeleteImage"},
		{"registry.example.com/app", unsupported, "storage.delete.enabled"},
		{"registry.example.com/app", refused(401, registry.ErrUnauthorized), "the account needs the permission to delete"},
		{"registry.example.com/app", refused(409, registry.ErrRejected), "may protect the tag as immutable"},
	} {
		err := explain(reference.MustRepository(test.at), test.err)
		require.ErrorContains(t, err, test.says)
		require.ErrorIs(t, err, test.err)
	}
	for _, err := range []error{refused(503, registry.ErrUnavailable), refused(412, registry.ErrReferenced), nil} {
		require.Equal(t, err, explain(reference.MustRepository("docker.io/team/app"), err))
	}
}
