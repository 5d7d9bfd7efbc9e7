// Package containers reads the configuration of container tools with the packages of containers/image,
// so that credentials, certificates and settings of registries are the same as in skopeo.
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
	"github.com/osism/skopeo-worker/worker/cloud"
)

const (
	// answersFor is how long the answer of a helper and the content of registries.conf are cached.
	// If a registry refuses the credentials, they are read again at once.
	answersFor = 5 * time.Second

	// stampsFor is how long the stamps of the files are cached: Find is called twice for each
	// request, and would stat four files each time.
	stampsFor = time.Second

	// maxMemo is for how many repositories credentials are cached. A list has some hundreds.
	maxMemo = 4096
)

// Credential authenticates this process to a registry. The zero value is anonymous.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // OAuth2 refresh token, in place of user and password
	Origin        string // file and entry, helper, or cloud

	fromCloud bool
}

// Anonymous reports whether the credential is empty.
func (c Credential) Anonymous() bool {
	return c.IdentityToken == "" && (c.Username == "" || c.Password == "")
}

// Keychain finds credentials in the files and with the helpers of containers-auth.json(5) and
// containers-registries.conf(5). If they have none for a registry of a cloud, it uses the login of this
// process there. Changes of a file take effect within a second, those of a helper's answer within 10
// seconds, and both at once after Forget. A Keychain is safe for concurrent use.
type Keychain struct {
	clouds  *cloud.Logins
	files   []authFile
	now     func() time.Time
	timeout time.Duration // for helpers
	flight  singleflight.Group

	mu      sync.Mutex
	keys    map[string]string  // normalized names, by repository
	found   map[string]finding // by normalized name
	answers map[question]answer
	looked  looked
}

// finding is the result of a search, with its time and the state of the files.
type finding struct {
	credential Credential
	err        error
	at         time.Time
	files      []stamp
}

// looked has the stamps of the files, and when they were taken.
type looked struct {
	files []stamp
	at    time.Time
}

// question identifies an answer of a helper.
type question struct{ helper, registry string }

// answer is the answer of a helper, with its time.
type answer struct {
	credential Credential
	err        error
	at         time.Time
}

// New returns a keychain for the environment of this process. It uses the file that REGISTRY_AUTH_FILE
// names, or otherwise those of containers-auth.json(5) and Docker's, and then the logins of clouds.
func New(clouds *cloud.Logins) *Keychain {
	return &Keychain{
		clouds: clouds,
		files:  authFiles(), now: time.Now, timeout: helperTimeout,
		keys: make(map[string]string), found: make(map[string]finding), answers: make(map[question]answer),
	}
}

// Find returns the credentials of a repository ("quay.io/osism/osism") or of a whole registry, or
// anonymous ones if none are found. The errors are ErrFile, ErrHelper and cloud.ErrLogin.
func (k *Keychain) Find(ctx context.Context, repository string) (Credential, error) {
	key := k.key(repository)
	files := k.stamps()
	k.mu.Lock()
	known, ok := k.found[key]
	k.mu.Unlock()
	if ok && k.now().Sub(known.at) < answersFor && slices.Equal(known.files, files) {
		return known.credential, known.err
	}
	// Concurrent callers share one search, which continues if one of them is cancelled.
	result := k.flight.DoChan(key, func() (any, error) {
		at := k.now()
		credential, err := k.search(context.WithoutCancel(ctx), key, files)
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

// Readable returns an error if a file with credentials of the registries cannot be read. Without
// registries, it reads all files. It starts no helper. The error is ErrFile or ErrConf.
func (k *Keychain) Readable(registries ...string) error {
	helpers, err := conf.helpers(k.now())
	if err != nil || !slices.Contains(helpers, sysregistriesv2.AuthenticationFileHelper) {
		return err
	}
	for _, file := range k.files {
		if file.required || len(registries) == 0 {
			if _, err := file.read(); err != nil {
				return err
			}
		}
	}
	for _, registry := range registries {
		if err := k.readable(normalize(registry)); err != nil {
			return err
		}
	}
	return nil
}

// readable is searchFiles for a whole registry, up to the first file with a helper for it.
func (k *Keychain) readable(key string) error {
	for _, file := range k.files {
		content, err := file.read()
		if err != nil || content.Helpers[key] != "" {
			return err
		}
		found, err := file.find(key, content)
		if err != nil {
			return fmt.Errorf("%s: %w", file.path, err)
		}
		if !found.Anonymous() {
			return nil
		}
	}
	return nil
}

// key returns the normalized name of a repository. It caches names, because Find is called for each
// request.
func (k *Keychain) key(repository string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[repository]
	if !ok {
		if len(k.keys) >= maxMemo {
			clear(k.keys)
		}
		key = normalize(repository)
		k.keys[repository] = key
	}
	return key
}

// Forget makes the next Find of the repository read everything again. It is called if a registry has
// refused the credentials.
func (k *Keychain) Forget(repository string) {
	key := k.key(repository)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.found, key)
	k.looked = looked{}
	for asked := range k.answers {
		if asked.registry == registryOf(key) {
			delete(k.answers, asked)
		}
	}
	k.clouds.Forget(registryOf(key))
	conf.forget()
}

// Unknown returns the credentials of a repository that skopeo does not find itself: those from a cloud.
// If it has others, or none, the result is anonymous. The errors are Find's.
func (k *Keychain) Unknown(ctx context.Context, repository string) (Credential, error) {
	found, err := k.Find(ctx, repository)
	if err != nil || !found.fromCloud {
		return Credential{}, err
	}
	return found, nil
}

// search asks the helpers of registries.conf, in order; the files count as one of them. If one fails, it
// asks the next, like containers/image. The cloud is the last. stamps are those of the files.
func (k *Keychain) search(ctx context.Context, key string, stamps []stamp) (Credential, error) {
	helpers, err := conf.helpers(k.now())
	if err != nil {
		return Credential{}, err
	}
	var failed []error
	for _, helper := range helpers {
		var found Credential
		var err error
		if helper == sysregistriesv2.AuthenticationFileHelper {
			found, err = k.searchFiles(ctx, key, stamps)
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
	login, ok, err := k.clouds.Find(ctx, registryOf(key))
	switch {
	case err != nil:
		failed = append(failed, err)
	case ok:
		redact.AddRecentLogin(login.Username, login.Password)
		return Credential{Username: login.Username, Password: login.Password, Origin: "the cloud (CLOUD_CREDENTIALS)", fromCloud: true}, nil
	}
	return Credential{}, errors.Join(failed...)
}

// searchFiles returns the credentials of the first file that has some for the key.
func (k *Keychain) searchFiles(ctx context.Context, key string, stamps []stamp) (Credential, error) {
	for i, file := range k.files {
		if stamps[i].missing && !file.required {
			continue
		}
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

// ask returns a helper's answer, which is cached.
func (k *Keychain) ask(ctx context.Context, asked question) (Credential, error) {
	k.mu.Lock()
	known, ok := k.answers[asked]
	k.mu.Unlock()
	if ok && k.now().Sub(known.at) < answersFor {
		return known.credential, known.err
	}
	result, err, _ := k.flight.Do(asked.helper+" "+asked.registry, func() (any, error) {
		credential, err := askHelper(ctx, k.timeout, asked.helper, asked.registry)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.answers[asked] = answer{credential, err, k.now()}
		return credential, err
	})
	return result.(Credential), err
}

// normalize returns the name under which containers/image looks for a repository's credentials. Of an
// invalid name, it changes only the host.
func normalize(repository string) string {
	host, path, inside := strings.Cut(repository, "/")
	host = reference.CanonicalHost(host)
	if !inside {
		return host
	}
	if host != reference.DockerHub && strings.ContainsAny(host, ".:") && !strings.ContainsAny(path, ":@") {
		return host + "/" + path // as the library does, but without its slow patterns
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

// ErrHelper is returned if a credential helper failed. The error names the helper and does not
// contain its output.
var ErrHelper = errors.New("credential helper")

const (
	// helperPrefix and the name in the file are the name of the program.
	helperPrefix = "docker-credential-"

	// helperTimeout is how long a helper may take. It is enough for those that ask a cloud, and ends
	// those that wait for input.
	helperTimeout = 30 * time.Second

	// helperGrace is how long a helper may take to end after its timeout.
	helperGrace = time.Second

	// identityTokenUser is the user name that helpers return with an identity token.
	identityTokenUser = "<token>"
)

// program runs a helper for the client of docker-credential-helpers. The helper ends with its context.
// Its stderr is discarded, because it may contain a secret.
type program struct{ *child.Process }

// Input implements client.Program.
func (p program) Input(in io.Reader) { p.Stdin = in }

// Output implements client.Program.
func (p program) Output() ([]byte, error) {
	var output bytes.Buffer
	p.Stdout = &output
	err := p.Run()
	return output.Bytes(), err
}

// askHelper returns a registry's credentials from a helper, or anonymous ones if the helper has none.
func askHelper(ctx context.Context, timeout time.Duration, helper, registry string) (Credential, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
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
