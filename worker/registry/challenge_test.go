package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestPingOnce: a registry is pinged once, not once for each repository.
func TestPingOnce(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
	for i := range 3 {
		repository := fmt.Sprintf("team/app%d", i)
		_, err := r.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		_, err = client.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.NoError(t, err)
	}
	require.Equal(t, 1, r.Count(registrytest.Kinds(registrytest.KindPing)))
	require.Equal(t, 3, r.Count(registrytest.Kinds(registrytest.KindToken)))
}

// TestAlive: a registry is alive, whatever it answers about a repository, unless its answers are
// not those of a registry or it refuses the credentials.
func TestAlive(t *testing.T) {
	bob := &fixed{Credential: containers.Credential{Username: "bob", Password: "hunter2"}}
	wrong := &fixed{Credential: containers.Credential{Username: "bob", Password: "wrong"}}
	token := registrytest.WithTokenAuth(registrytest.TokenAuth{User: bob.Credential.Username, Password: bob.Credential.Password, Anonymous: true})
	private := registrytest.WithTokenAuth(registrytest.TokenAuth{User: bob.Credential.Username, Password: bob.Credential.Password})
	basic := registrytest.WithBasicAuth(bob.Credential.Username, bob.Credential.Password)
	ping, tokens := registrytest.Kinds(registrytest.KindPing), registrytest.Kinds(registrytest.KindToken)
	html := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	for name, test := range map[string]struct {
		option   registrytest.Option
		keychain registry.Keychain
		fault    registrytest.Fault
		stop     bool
		sure     bool
		want     error
	}{
		"open":                      {},
		"token":                     {option: token},
		"token for us":              {option: token, keychain: bob},
		"basic":                     {option: basic, keychain: bob},
		"no stranger":               {option: basic},
		"no token for a stranger":   {option: private},
		"wrong password":            {option: private, keychain: wrong, want: registry.ErrUnauthorized},
		"wrong password, basic":     {option: basic, keychain: wrong, want: registry.ErrUnauthorized},
		"repositories fail":         {fault: registrytest.Fault{Match: registrytest.In("a/b"), Status: 503}},
		"403 for a token":           {option: token, keychain: bob, fault: registrytest.Fault{Match: tokens, Status: 403}},
		"503":                       {fault: registrytest.Fault{Status: 503}, want: registry.ErrUnavailable},
		"token server 503":          {option: token, fault: registrytest.Fault{Match: tokens, Status: 503}, want: registry.ErrUnavailable},
		"reset":                     {fault: registrytest.Fault{Match: ping, Reset: true}, want: registry.ErrUnavailable},
		"refused":                   {stop: true, want: registry.ErrUnavailable},
		"a page":                    {fault: registrytest.Fault{Match: ping, Status: 200, Header: html, Body: "<html>"}, want: registry.ErrPage},
		"400 for all":               {fault: registrytest.Fault{Status: 400}, want: registry.ErrUnexpected},
		"404 for all":               {fault: registrytest.Fault{Status: 404, Body: "404 page not found"}, want: registry.ErrUnexpected},
		"redirects":                 {fault: registrytest.Fault{Status: 302, Header: http.Header{"Location": {"/login"}}}, want: registry.ErrUnexpected},
		"401 for all":               {fault: registrytest.Fault{Status: 401}, want: registry.ErrUnauthorized},
		"403 for all":               {fault: registrytest.Fault{Status: 403}, want: registry.ErrDenied},
		"a page instead of a token": {option: token, fault: registrytest.Fault{Match: tokens, Status: 200, Header: html, Body: "<html>"}, want: registry.ErrPage},
		"nothing":                   {fault: registrytest.Fault{Match: ping, Status: 200}},
		"nothing, to be sure":       {fault: registrytest.Fault{Match: ping, Status: 200}, sure: true, want: registry.ErrPage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var options []registrytest.Option
			if test.option != nil {
				options = append(options, test.option)
			}
			r := registrytest.New(t, options...)
			client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Keychain: test.keychain})
			repository := reference.MustRepository(r.Host() + "/a/b")
			_, _ = client.Head(t.Context(), repository, reference.MustTag("1"))
			r.Inject(test.fault)
			if test.stop {
				r.Stop()
			}
			err := client.Alive(t.Context(), repository, test.sure)
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, test.want)
			require.Contains(t, err.Error(), "reach "+r.Host()+": ")
			var named *registry.Error
			require.ErrorAs(t, err, &named)
			require.Equal(t, repository, named.Repository)
		})
	}
}

// TestHandshakesAtOnce: requests that start together share a ping, and a token for each repository.
// If the registry limits pings, each request returns the wait.
func TestHandshakesAtOnce(t *testing.T) {
	const repositories, each = 4, 4
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
	together := func(check func(err error)) {
		t.Helper()
		var heads sync.WaitGroup
		for i := range repositories * each {
			source := reference.MustRepository(fmt.Sprintf("%s/team/app%d", r.Host(), i%repositories))
			heads.Go(func() {
				_, err := client.Head(t.Context(), source, reference.MustTag("1"))
				check(err)
			})
		}
		heads.Wait()
	}
	remove := r.Inject(registrytest.Fault{
		Match: pings, Delay: 200 * time.Millisecond,
		Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}},
	})
	together(func(err error) {
		var failed *registry.Error
		if !errors.As(err, &failed) || !errors.Is(err, registry.ErrLimited) || failed.RetryAfter != 7*time.Second {
			t.Errorf("%v", err)
		}
	})
	require.Equal(t, 1, r.Count(pings))
	remove()
	r.ResetRequests()

	for i := range repositories {
		_, err := r.PushImage(fmt.Sprintf("team/app%d", i), "1", registrytest.Image{})
		require.NoError(t, err)
	}
	r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindPing, registrytest.KindToken), Delay: 200 * time.Millisecond})
	together(func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	require.Equal(t, 1, r.Count(pings))
	require.Equal(t, repositories, r.Count(tokenRequests))
}
