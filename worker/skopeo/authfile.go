package skopeo

import (
	"context"
	"encoding/json"

	"github.com/osism/skopeo-worker/shared/reference"
)

// authFile makes a file of containers-auth.json(5) with the credentials of a repository that
// skopeo does not find itself. It returns nil if there are none. The caller closes it.
func (r *Runner) authFile(ctx context.Context, repository reference.Repository) (*secretFile, error) {
	if r.Credentials == nil {
		return nil, nil
	}
	found, err := r.Credentials(ctx, repository.String())
	if err != nil || found.Anonymous() {
		return nil, err
	}
	type entry struct {
		Auth []byte `json:"auth"`
	}
	content, err := json.Marshal(map[string]map[string]entry{
		"auths": {repository.Registry(): {[]byte(found.Username + ":" + found.Password)}},
	})
	if err != nil {
		return nil, err
	}
	return newSecretFile(content)
}
