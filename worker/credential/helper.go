package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// ErrHelper says that a credential helper failed. It names the helper and
// never what it printed.
var ErrHelper = errors.New("credential helper")

const (
	// helperPrefix and a suffix from the file are the name of the program.
	helperPrefix = "docker-credential-"

	// helperTimeout is for helpers that ask a cloud; one that waits for a
	// person at a keyboard has no use here.
	helperTimeout = 30 * time.Second

	// identityTokenUser is the user name by which helpers mark an identity token.
	identityTokenUser = "<token>"
)

// program is a helper's process, as the client of docker-credential-helpers
// wants it, but ended with its context.
type program struct{ *exec.Cmd }

func (p program) Input(in io.Reader) { p.Stdin = in }

// ask gets a registry's credentials from a helper; none are empty.
func ask(ctx context.Context, helper, server string) (types.AuthConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	name := helperPrefix + helper
	if _, err := exec.LookPath(name); err != nil {
		return types.AuthConfig{}, fmt.Errorf("%w %s for %s: not found in PATH", ErrHelper, name, server)
	}
	found, err := client.Get(func(args ...string) client.Program {
		return program{exec.CommandContext(ctx, name, args...)}
	}, server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return types.AuthConfig{}, nil
	case ctx.Err() != nil:
		return types.AuthConfig{}, fmt.Errorf("%w %s for %s: %w", ErrHelper, name, server, ctx.Err())
	case err != nil:
		return types.AuthConfig{}, fmt.Errorf("%w %s for %s failed", ErrHelper, name, server)
	case found.Username == identityTokenUser:
		return types.AuthConfig{IdentityToken: found.Secret}, nil
	}
	return types.AuthConfig{Username: found.Username, Password: found.Secret}, nil
}
