package acceptance

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

const robot = "robot"

// newLoggedIn returns a site whose registries require a login. registries.conf names a credential
// helper, which returns what login has written last.
func newLoggedIn(t *testing.T, source, destination []registrytest.Option) (s *site, login func(password string)) {
	t.Helper()
	s = newSite(t, source...)
	s.destination = registrytest.New(t, destination...)
	s.env["MIRROR_DEST_URL"] = s.destination.Host() + "/" + prefix
	s.env["INSECURE_REGISTRIES"] = s.source.Host()
	home := t.TempDir()
	s.env["HOME"], s.env["XDG_CONFIG_HOME"], s.env["PATH"] = home, filepath.Join(home, ".config"), home+":"+os.Getenv("PATH")
	write := func(path, content string, mode os.FileMode) {
		path = filepath.Join(home, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
	}
	// registries.conf allows plain HTTP for the destination.
	write(".config/containers/registries.conf", fmt.Sprintf(
		"credential-helpers = [\"test\"]\n[[registry]]\nlocation = %q\ninsecure = true\n", s.destination.Host()), 0o600)
	write("docker-credential-test", fmt.Sprintf("#!/bin/sh\nexec cat %q\n", filepath.Join(home, "answer")), 0o700)
	return s, func(password string) {
		write("answer", fmt.Sprintf(`{"Username":%q,"Secret":%q}`, robot, password), 0o600)
	}
}

// TestQuayAsDestination: Quay hides missing repositories, and creates one at the first push. A
// check creates none.
func TestQuayAsDestination(t *testing.T) {
	t.Parallel()
	auth := registrytest.TokenAuth{User: robot, Password: "correct-horse", CreateOnPush: true}
	s, login := newLoggedIn(t, nil, []registrytest.Option{registrytest.WithTokenAuth(auth)})
	login(auth.Password)
	s.push("osism/one", "1", "2")
	s.push("osism/two", "1")
	s.write("osism/one", "osism/two")
	s.planner("check").exits(0)
	require.Empty(t, s.destination.Created())
	s.planner("mirror").exits(0)
	s.requireMirrored("osism/one", "osism/two")
}

// TestCredentialsThatEnd: workers renew expired credentials and continue.
func TestCredentialsThatEnd(t *testing.T) {
	t.Parallel()
	s, login := newLoggedIn(t,
		[]registrytest.Option{registrytest.WithTokenAuth(registrytest.TokenAuth{User: robot, Password: "first", EndedStatus: http.StatusBadRequest})},
		[]registrytest.Option{registrytest.WithBasicAuth(robot, "first"), registrytest.WithBasicRefusal(http.StatusForbidden)})
	_, b := newFleet(t)
	s.env["NATS_URL"] = b.URL()
	login("first")
	s.push("osism/one", "1")
	s.write("osism/one")
	s.worker()
	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/one")

	for _, password := range []string{"second", "third"} {
		s.push("osism/one", password)
		s.source.SetLogin(robot, password)
		s.source.ExpireTokens()
		s.destination.SetLogin(robot, password)
		login(password)
		s.planner("plan", "--wait").exits(0)
		s.requireMirrored("osism/one")
	}
}

// TestWrongPassword: the reason names the file of the password, and nothing is pulled.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.destination = registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: robot, Password: "right"}))
	s.env["MIRROR_DEST_URL"] = s.destination.Host() + "/" + prefix
	s.env["INSECURE_REGISTRIES"] = s.source.Host() + "," + s.destination.Host()
	auth := filepath.Join(t.TempDir(), "auth.json")
	secret := base64.StdEncoding.EncodeToString([]byte(robot + ":mistyped"))
	require.NoError(t, os.WriteFile(auth, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, s.destination.Host(), secret), 0o600))
	s.env["REGISTRY_AUTH_FILE"] = auth
	s.push("osism/one", "1")
	s.write("osism/one")
	said := strings.Join(strings.Fields(s.planner("check").exits(1)), " ") // it wraps lines
	require.Contains(t, said, fmt.Sprintf("the registry refused the credentials of entry %q in %s", s.destination.Host(), auth))
	p := s.planner("mirror")
	p.says(fmt.Sprintf("entry \\\"%s\\\" in %s", s.destination.Host(), auth))
	require.Zero(t, s.source.Pulls())
}

// TestPagesForAWhile: registries that answer with HTML pages at first cause no failure.
func TestPagesForAWhile(t *testing.T) {
	t.Parallel()
	for name, page := range map[string]registrytest.Fault{
		"a portal": {Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Guest network</title></html>"},
		"nothing":  {Status: http.StatusOK},
	} {
		for _, side := range []string{"source", "destination"} {
			t.Run(name+" "+side, func(t *testing.T) {
				t.Parallel()
				anonymous := registrytest.WithTokenAuth(registrytest.TokenAuth{User: robot, Password: "x", Anonymous: true})
				s := newSite(t, anonymous)
				s.push("osism/one", "1", "2")
				s.push("osism/two", "1")
				s.write("osism/one", "osism/two:1")
				struck := map[string]*registrytest.Registry{"source": s.source, "destination": s.destination}[side]
				remove := struck.Inject(page)
				p := s.planner("mirror")
				waitFor(t, struck, registrytest.Answered(http.StatusOK))
				p.says("instead of")
				remove()
				p.exits(0)
				s.requireMirrored("osism/one", "osism/two")
			})
		}
	}
}
