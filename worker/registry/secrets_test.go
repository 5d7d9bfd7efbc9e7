package registry_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

// TestEchoedCredentials: a registry and its token server that show what they were sent.
func TestEchoedCredentials(t *testing.T) {
	const user, password = "robot", "correct-horse-battery"
	inBase64 := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for name, test := range map[string]struct {
		option registrytest.Option
		kind   registrytest.Kind
	}{
		"password": {registrytest.WithBasicAuth(user, password), registrytest.KindManifestGet},
		"password at the token server": {
			registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}), registrytest.KindToken},
		"token": {registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}), registrytest.KindManifestGet},
	} {
		t.Run(name, func(t *testing.T) {
			var sent []string
			echo := func(write func(scheme, value string) string) func(string, string) string {
				return func(scheme, value string) string {
					if value != "" {
						sent = append(sent, value)
					}
					return write(scheme, value)
				}
			}
			for _, write := range []func(scheme, value string) string{
				func(scheme, value string) string { return scheme + " " + value },
				func(_, value string) string { return value },
				func(_, value string) string { return `{"errors":[{"code":"DENIED","message":"no ` + value + `"}]}` },
				func(_, value string) string { return "<title>" + url.QueryEscape(value) + "</title>" },
				func(_, value string) string {
					decoded, _ := base64.StdEncoding.DecodeString(value)
					return "not " + string(decoded)
				},
			} {
				r := registrytest.New(t, test.option)
				_, _ = pushImage(t, r, "1")
				keychain := new(fixed)
				keychain.set(user, password)
				r.Inject(registrytest.Fault{Match: registrytest.Kinds(test.kind), Status: http.StatusForbidden, Echo: echo(write)})
				_, err := insecure(r, keychain).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
				require.Error(t, err)
				for _, secret := range append(sent, password, inBase64) {
					require.NotContains(t, err.Error(), secret)
				}
			}
			require.NotEmpty(t, sent)
		})
	}
}
