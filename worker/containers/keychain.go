// Package containers reads what the files of container tools say of a registry, with
// the packages of containers/image, so that a registry is to us what it is to skopeo:
// the same credentials, certificates and switches.
package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	dist "github.com/distribution/reference"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"golang.org/x/sync/singleflight"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
)

const (
	// answersFor is how long an answer of a helper, and what registries.conf says, are
	// believed. What changes sooner is noticed when a registry refuses us.
	answersFor = 5 * time.Second

	// maxMemo bounds what is remembered: a list has some hundreds of repositories.
	maxMemo = 4096
)

// Credential is what a registry is to know us by. The zero value is nobody.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // an OAuth2 refresh token, instead of both
	Origin        string // where it was found: the file and its entry, or the helper
}

// Anonymous reports whether there is nothing to authenticate with.
func (c Credential) Anonymous() bool {
	return c.IdentityToken == "" && (c.Username == "" || c.Password == "")
}

// Keychain finds credentials in the files and with the helpers that
// containers-auth.json(5) and containers-registries.conf(5) name. A file that has
// changed counts at once, another answer of a helper within 10 seconds, or as soon as
// the one before is forgotten. It is safe for concurrent use.
type Keychain struct {
	files    []authFile
	now      func() time.Time
	patience time.Duration // with helpers
	flight   singleflight.Group

	mu      sync.Mutex
	found   map[string]finding // by repository
	answers map[question]answer
}

// finding is what was found for a repository, when, and in which state of the files.
type finding struct {
	credential Credential
	err        error
	at         time.Time
	files      []stamp
}

// question is what a helper is asked.
type question struct{ helper, registry string }

// answer is what it answered, and when.
type answer struct {
	credential Credential
	err        error
	at         time.Time
}

// New returns a keychain for the environment of this process: the file that
// REGISTRY_AUTH_FILE names and no other, or else those of containers-auth.json(5) and
// Docker's.
func New() *Keychain {
	return &Keychain{
		files: authFiles(), now: time.Now, patience: helperTimeout,
		found: make(map[string]finding), answers: make(map[question]answer),
	}
}

// Find returns the credentials of a repository ("quay.io/osism/osism") or of a registry
// as a whole. Having none is no error. The errors are ErrFile and ErrHelper.
func (k *Keychain) Find(ctx context.Context, repository string) (Credential, error) {
	key := normalize(repository)
	files := k.stamps()
	k.mu.Lock()
	known, ok := k.found[key]
	k.mu.Unlock()
	if ok && k.now().Sub(known.at) < answersFor && slices.Equal(known.files, files) {
		return known.credential, known.err
	}
	// Who asks at the same time shares one search, which goes on when one of them leaves.
	result := k.flight.DoChan(key, func() (any, error) {
		at := k.now()
		credential, err := k.search(context.WithoutCancel(ctx), key)
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.found) >= maxMemo {
			clear(k.found)
		}
		k.found[key] = finding{credential, err, at, files}
		return credential, err
	})
	select {
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	case done := <-result:
		return done.Val.(Credential), done.Err
	}
}

// Forget makes the next Find of the repository look at everything again, because what
// was found was refused.
func (k *Keychain) Forget(repository string) {
	key := normalize(repository)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.found, key)
	for asked := range k.answers {
		if asked.registry == registryOf(key) {
			delete(k.answers, asked)
		}
	}
	conf.forget()
}

// search goes through the helpers of registries.conf, of which the files are one, in
// their order. As for containers/image, one that fails does not hide the next.
func (k *Keychain) search(ctx context.Context, key string) (Credential, error) {
	helpers, err := conf.helpers(k.now())
	if err != nil {
		return Credential{}, err
	}
	var failed []error
	for _, helper := range helpers {
		var found Credential
		var err error
		if helper == sysregistriesv2.AuthenticationFileHelper {
			found, err = k.searchFiles(ctx, key)
		} else {
			found, err = k.ask(ctx, question{helper, registryOf(key)})
			found.Origin = helperPrefix + helper + " (of registries.conf)"
		}
		if err != nil {
			failed = append(failed, err)
		} else if !found.Anonymous() {
			redact.AddRecentLogin(found.Username, found.Password)
			redact.AddRecent(found.IdentityToken)
			return found, nil
		}
	}
	return Credential{}, errors.Join(failed...)
}

// searchFiles returns what the first file says that knows the repository.
func (k *Keychain) searchFiles(ctx context.Context, key string) (Credential, error) {
	for _, file := range k.files {
		content, err := file.read()
		if err != nil {
			return Credential{}, err
		}
		var found Credential
		if helper, ok := content.Helpers[registryOf(key)]; ok {
			found, err = k.ask(ctx, question{helper, registryOf(key)})
			found.Origin = fmt.Sprintf("%s%s (of %s)", helperPrefix, helper, file.path)
		} else {
			found, err = file.find(key, content)
		}
		if err != nil {
			return Credential{}, fmt.Errorf("%s: %w", file.path, err)
		}
		if !found.Anonymous() {
			return found, nil
		}
	}
	return Credential{}, nil
}

// ask asks a helper, or remembers what it has answered to the same question.
func (k *Keychain) ask(ctx context.Context, asked question) (Credential, error) {
	k.mu.Lock()
	known, ok := k.answers[asked]
	k.mu.Unlock()
	if ok && k.now().Sub(known.at) < answersFor {
		return known.credential, known.err
	}
	result, err, _ := k.flight.Do(asked.helper+" "+asked.registry, func() (any, error) {
		credential, err := askHelper(ctx, k.patience, asked.helper, asked.registry)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.answers[asked] = answer{credential, err, k.now()}
		return credential, err
	})
	return result.(Credential), err
}

// normalize is the name of a repository under which containers/image looks for
// credentials; what is none stays as it is.
func normalize(repository string) string {
	host, path, inside := strings.Cut(repository, "/")
	host = reference.CanonicalHost(host)
	if !inside {
		return host
	}
	if named, err := dist.ParseNormalizedNamed(host + "/" + path); err == nil {
		return named.Name()
	}
	return host + "/" + path
}

func registryOf(key string) string {
	host, _, _ := strings.Cut(key, "/")
	return host
}

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
