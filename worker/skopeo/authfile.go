package skopeo

import (
	"encoding/json"

	"github.com/osism/skopeo-worker/worker/containers"
)

// login gives the process the credentials of a host in a file of containers-auth.json(5), unless
// they are anonymous. closed must be called after the copy.
func (c *copying) login(flag, host string, found containers.Credential) (closed func(), err error) {
	if found.Anonymous() {
		return func() {}, nil
	}
	type entry struct {
		Auth []byte `json:"auth"`
	}
	content, err := json.Marshal(map[string]map[string]entry{
		"auths": {host: {[]byte(found.Username + ":" + found.Password)}},
	})
	if err != nil {
		return nil, err
	}
	return c.file(flag, content)
}

// file gives the process a file that no other user can read, named by a flag.
func (c *copying) file(flag string, content []byte) (closed func(), err error) {
	file, err := newSecretFile(content)
	if err != nil {
		return nil, err
	}
	var path string
	c.inherited, path = file.inherit(c.inherited)
	c.arguments = append(c.arguments, flag+path)
	return func() { _ = file.Close() }, nil
}
