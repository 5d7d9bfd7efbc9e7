package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"

	"github.com/osism/skopeo-worker/worker/child"
)

// ErrHelper says that a credential helper failed. It names the helper and never what it
// printed.
var ErrHelper = errors.New("credential helper")

const (
	// helperPrefix and a suffix from the file are the name of the program.
	helperPrefix = "docker-credential-"

	// helperTimeout is for helpers that ask a cloud; one that waits for a
	// person at a keyboard has no use here.
	helperTimeout = 30 * time.Second

	// helperGrace is how long a helper that hangs may take to end by itself.
	helperGrace = time.Second

	// identityTokenUser is the user name by which helpers mark an identity token.
	identityTokenUser = "<token>"
)

// program is a helper's process, as the client of docker-credential-helpers
// wants it, but ended with its context. What it says on stderr may be a secret.
type program struct{ *child.Process }

// Input implements client.Program.
func (p program) Input(in io.Reader) { p.Stdin = in }

// Output implements client.Program.
func (p program) Output() ([]byte, error) {
	var said bytes.Buffer
	p.Stdout = &said
	err := p.Run()
	return said.Bytes(), err
}

// askHelper gets a registry's credentials from a helper; those of nobody where it knows
// none.
func askHelper(ctx context.Context, patience time.Duration, helper, registry string) (Credential, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	name := helperPrefix + helper
	if _, err := exec.LookPath(name); err != nil {
		return Credential{}, fmt.Errorf("%w %s for %s: not found in PATH", ErrHelper, name, registry)
	}
	found, err := client.Get(func(args ...string) client.Program {
		process := child.New(ctx, name, args...)
		process.Grace = helperGrace
		return program{process}
	}, registry)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return Credential{}, nil
	case ctx.Err() != nil:
		return Credential{}, fmt.Errorf("%w %s for %s: %w", ErrHelper, name, registry, context.Cause(ctx))
	case err != nil:
		return Credential{}, fmt.Errorf("%w %s for %s failed", ErrHelper, name, registry)
	case found.Username == identityTokenUser:
		return Credential{IdentityToken: found.Secret}, nil
	}
	return Credential{Username: found.Username, Password: found.Secret}, nil
}
