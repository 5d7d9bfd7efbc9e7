package skopeo

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/osism/skopeo-worker/shared/reference"
)

// authFile writes the credentials of a repository that skopeo does not find itself to a file
// of containers-auth.json(5) that only this user can read, and returns its path; "" if there
// are none. The caller removes it.
func (r *Runner) authFile(ctx context.Context, repository reference.Repository) (path string, err error) {
	if r.Credentials == nil {
		return "", nil
	}
	found, err := r.Credentials(ctx, repository.String())
	if err != nil || found.Anonymous() {
		return "", err
	}
	type entry struct {
		Auth []byte `json:"auth"`
	}
	content, err := json.Marshal(map[string]map[string]entry{
		"auths": {repository.Registry(): {[]byte(found.Username + ":" + found.Password)}},
	})
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "skopeo-auth-*.json")
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}
