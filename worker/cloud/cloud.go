// Package cloud gets credentials for the registries of clouds from the identity of this process: a
// role of its pod, its machine or its environment. It needs no credential helper.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// ErrLogin is returned if a cloud gives no credentials. The error contains the registry and the
// answer of the cloud.
var ErrLogin = errors.New("no credentials from the cloud")

const (
	// timeout limits a login, with all retries of the cloud's SDK.
	timeout = 30 * time.Second

	// maxMargin is how long before its expiry a login is replaced at the earliest. A copy keeps the
	// login with which it has begun.
	maxMargin = time.Hour
)

// Login is a user name and password that are valid until a time.
type Login struct {
	Username, Password string
	Expires            time.Time
}

// provider logs in to the registries of one cloud.
type provider struct {
	name string
	// of reports whether a registry, host[:port], is one of the cloud.
	of    func(registry string) bool
	login func(ctx context.Context, registry string) (Login, error)
}

// providers returns the clouds that can be enabled.
func providers() []provider {
	return []provider{
		{"ecr", isECR, loginECR},
		{"ecr-public", func(registry string) bool { return registry == publicECR }, loginPublicECR},
		{"gar", isGoogle, loginGoogle},
		{"acr", isACR, new(azure).login},
	}
}

// Names returns the names of the clouds' registries: Amazon ECR (ecr), its public gallery
// (ecr-public), Google's Artifact Registry (gar) and Azure Container Registry (acr).
func Names() []string {
	var names []string
	for _, p := range providers() {
		names = append(names, p.name)
	}
	return names
}

// Logins logs in to registries, and keeps each login until it is about to expire. It is safe for
// concurrent use.
type Logins struct {
	providers []provider
	now       func() time.Time
	flight    singleflight.Group

	mu   sync.Mutex
	kept map[string]kept // by registry
}

// kept is a login and the time at which it is to be replaced.
type kept struct {
	login Login
	until time.Time
}

// New returns the logins of clouds, by their names from Names.
func New(names ...string) *Logins {
	l := &Logins{now: time.Now, kept: map[string]kept{}}
	for _, p := range providers() {
		if slices.Contains(names, p.name) {
			l.providers = append(l.providers, p)
		}
	}
	return l
}

// Find returns the login of a registry, host[:port]. ok is false if the registry belongs to no
// enabled cloud. The error is ErrLogin, or ctx's.
func (l *Logins) Find(ctx context.Context, registry string) (login Login, ok bool, err error) {
	registry = strings.ToLower(registry)
	i := slices.IndexFunc(l.providers, func(p provider) bool { return p.of(registry) })
	if i < 0 {
		return Login{}, false, nil
	}
	l.mu.Lock()
	found, known := l.kept[registry]
	l.mu.Unlock()
	if known && l.now().Before(found.until) {
		return found.login, true, nil
	}
	// Concurrent callers share one login, which continues if one of them is cancelled.
	result := l.flight.DoChan(registry, func() (any, error) {
		return l.renew(context.WithoutCancel(ctx), l.providers[i], registry)
	})
	select {
	case <-ctx.Done():
		return Login{}, true, ctx.Err()
	case done := <-result:
		return done.Val.(Login), true, done.Err
	}
}

// renew logs in. If that fails, it returns the old login if that has not expired yet.
func (l *Logins) renew(ctx context.Context, p provider, registry string) (Login, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	login, err := p.login(ctx, registry)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if err != nil {
		if old, known := l.kept[registry]; known && now.Before(old.login.Expires) {
			return old.login, nil
		}
		return Login{}, fmt.Errorf("%w for %s (CLOUD_CREDENTIALS has %s): %w", ErrLogin, registry, p.name, err)
	}
	l.kept[registry] = kept{login, login.Expires.Add(-min(maxMargin, login.Expires.Sub(now)/4))}
	return login, nil
}

// Forget makes the next Find log in again, because the registry has refused the login.
func (l *Logins) Forget(registry string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.kept, strings.ToLower(registry))
}
