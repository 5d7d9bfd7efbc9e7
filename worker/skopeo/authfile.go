package skopeo

import (
	"encoding/json"

	"github.com/osism/skopeo-worker/worker/containers"
)

// login passes the credentials of a host to the process in a containers-auth.json(5) file, unless
// they are anonymous. The caller must call closed after the copy.
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

// file passes a file to the process, named by a flag. No other user can read the file.
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
