package cloud

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

const privateRegistry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"

// web is a server with handlers by path. It records the requests.
type web struct {
	*httptest.Server
	requests atomic.Int64
	down     atomic.Bool
}

func serve(t *testing.T, handler func(w http.ResponseWriter, r *http.Request)) *web {
	s := &web{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if s.down.Load() {
			http.Error(w, "away", http.StatusBadRequest)
			return
		}
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func writeFile(t *testing.T, content string) string {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// amazon answers like STS, ECR and ECR Public, to a role of a Kubernetes service account.
func amazon(t *testing.T, lifetime time.Duration) *web {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		expires := float64(time.Now().Add(lifetime).Unix())
		token := base64.StdEncoding.EncodeToString([]byte("AWS:password-" + fmt.Sprint(time.Now().UnixNano())))
		switch target := r.Header.Get("X-Amz-Target"); target {
		case "": // STS
			if r.FormValue("WebIdentityToken") != "projected" || r.FormValue("RoleArn") != "arn:aws:iam::123456789012:role/mirror" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Type", "text/xml")
			_ = xml.NewEncoder(w).Encode(struct {
				XMLName xml.Name  `xml:"AssumeRoleWithWebIdentityResponse"`
				ID      string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
				Key     string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
				Token   string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
				Expires time.Time `xml:"AssumeRoleWithWebIdentityResult>Credentials>Expiration"`
			}{ID: "ASIA", Key: "key", Token: "session", Expires: time.Now().Add(time.Hour)})
		case "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken":
			require.Contains(t, r.Header.Get("Authorization"), "/eu-central-1/ecr/")
			_ = json.NewEncoder(w).Encode(map[string]any{"authorizationData": []any{map[string]any{"authorizationToken": token, "expiresAt": expires}}})
		case "SpencerFrontendService.GetAuthorizationToken":
			require.Contains(t, r.Header.Get("Authorization"), "/us-east-1/ecr-public/")
			_ = json.NewEncoder(w).Encode(map[string]any{"authorizationData": map[string]any{"authorizationToken": token, "expiresAt": expires}})
		default:
			t.Errorf("unexpected target %q", target)
		}
	})
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_ENDPOINT_URL_STS": s.URL, "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/mirror", "AWS_WEB_IDENTITY_TOKEN_FILE": writeFile(t, "projected"),
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_REGION": "eu-central-1",
	} {
		t.Setenv(name, value)
	}
	return s
}

// TestAmazon: the role of the pod gets a token for each registry, and keeps it until shortly before
// it expires, even if AWS is away by then.
func TestAmazon(t *testing.T) {
	s := amazon(t, 12*time.Hour)
	l := New("ecr", "ecr-public")
	first, ok, err := l.Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "AWS", first.Username)
	require.True(t, strings.HasPrefix(first.Password, "password-"))
	public, ok, err := l.Find(t.Context(), "public.ecr.aws")
	require.NoError(t, err)
	require.True(t, ok)
	require.NotEqual(t, first.Password, public.Password)

	asked := s.requests.Load()
	again, _, err := l.Find(t.Context(), strings.ToUpper(privateRegistry))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, asked, s.requests.Load(), "a login is kept")

	now := time.Now()
	l.now = func() time.Time { return now.Add(11*time.Hour + time.Minute) }
	s.down.Store(true)
	again, _, err = l.Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.Equal(t, first, again, "it has not expired")
	s.down.Store(false)
	renewed, _, err := l.Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.NotEqual(t, first.Password, renewed.Password)

	l.Forget(privateRegistry)
	forgotten, _, err := l.Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.NotEqual(t, renewed.Password, forgotten.Password)
}

// TestRefusal: the error names the registry and the setting, and is not cached.
func TestRefusal(t *testing.T) {
	s := amazon(t, time.Hour)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other")
	l := New("ecr")
	_, ok, err := l.Find(t.Context(), privateRegistry)
	require.True(t, ok)
	require.ErrorIs(t, err, ErrLogin)
	require.ErrorContains(t, err, "no credentials from the cloud for "+privateRegistry+" (CLOUD_CREDENTIALS has ecr): ")
	require.NotContains(t, err.Error(), "projected")
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mirror")
	_, _, err = l.Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.Positive(t, s.requests.Load())
}

// TestGoogle: the metadata server of a pod or machine returns the token.
func TestGoogle(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		if strings.HasSuffix(r.URL.Path, "/token") {
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"})
		}
	})
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(s.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())
	l := New("gar")
	for _, registry := range []string{"europe-docker.pkg.dev", "gcr.io", "eu.gcr.io"} {
		login, ok, err := l.Find(t.Context(), registry)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "oauth2accesstoken", login.Username)
		require.Equal(t, "ya29.token", login.Password)
		require.WithinDuration(t, time.Now().Add(time.Hour), login.Expires, 10*time.Minute)
	}
	asked := s.requests.Load()
	l.Forget("gcr.io")
	_, _, err := l.Find(t.Context(), "gcr.io")
	require.NoError(t, err)
	require.Greater(t, s.requests.Load(), asked, "a login that is refused is replaced")
}

// TestGoogleFederation: with a file of workload identity federation, the token of a pod on another
// cloud is exchanged for one of Google.
func TestGoogleFederation(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("subject_token") != "projected" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "federated", "expires_in": 3599, "token_type": "Bearer",
			"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
	})
	config, err := json.Marshal(map[string]any{
		"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": s.URL,
		"credential_source": map[string]any{"file": writeFile(t, "projected")},
	})
	require.NoError(t, err)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", writeFile(t, string(config)))
	login, _, err := New("gar").Find(t.Context(), "europe-docker.pkg.dev")
	require.NoError(t, err)
	require.Equal(t, "federated", login.Password)
}

// entra answers like Entra ID and a registry, under every host name.
type entra struct{ t *testing.T }

func (e entra) Do(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	const authority = "https://login.microsoftonline.com/tenant"
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		answer(map[string]any{"tenant_discovery_endpoint": authority + "/v2.0/.well-known/openid-configuration",
			"metadata": []any{map[string]any{"preferred_network": r.URL.Host, "preferred_cache": r.URL.Host, "aliases": []string{r.URL.Host}}}})
	case strings.HasSuffix(r.URL.Path, "openid-configuration"):
		answer(map[string]any{"authorization_endpoint": authority + "/authorize", "token_endpoint": authority + "/token", "issuer": authority + "/v2.0"})
	case strings.HasSuffix(r.URL.Path, "/token"):
		require.Equal(e.t, "projected", r.FormValue("client_assertion"))
		require.Contains(e.t, r.FormValue("scope"), azureScope)
		answer(map[string]any{"access_token": "entra", "expires_in": 3600, "token_type": "Bearer"})
	case r.URL.Host == "mirror.azurecr.io" && r.URL.Path == "/oauth2/exchange":
		require.Equal(e.t, []string{"access_token", "mirror.azurecr.io", "entra"},
			[]string{r.FormValue("grant_type"), r.FormValue("service"), r.FormValue("access_token")})
		claims := jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(time.Now().Add(3 * time.Hour))}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("key"))
		require.NoError(e.t, err)
		answer(map[string]any{"refresh_token": token})
	default:
		return nil, errors.New("nothing is there: " + r.URL.String())
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

// TestAzure: a workload identity gets a refresh token of the registry.
func TestAzure(t *testing.T) {
	for name, value := range map[string]string{
		"AZURE_CLIENT_ID": "client", "AZURE_TENANT_ID": "tenant", "AZURE_FEDERATED_TOKEN_FILE": writeFile(t, "projected"), "AZURE_CLIENT_SECRET": "",
		"AZURE_CLIENT_CERTIFICATE_PATH": "", "AZURE_USERNAME": "", "AZURE_AUTHORITY_HOST": "",
	} {
		t.Setenv(name, value)
	}
	a := &azure{}
	a.options.Transport = entra{t}
	l := New()
	l.providers = []provider{{"acr", isACR, a.login}}
	login, ok, err := l.Find(t.Context(), "mirror.azurecr.io")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "00000000-0000-0000-0000-000000000000", login.Username)
	require.WithinDuration(t, time.Now().Add(3*time.Hour), login.Expires, time.Hour)
}

// TestRegistries: each registry belongs to the right cloud.
func TestRegistries(t *testing.T) {
	require.Equal(t, []string{"ecr", "ecr-public", "gar", "acr"}, Names())
	all := New(Names()...)
	for registry, want := range map[string]string{
		privateRegistry: "ecr",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "ecr",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      "ecr",
		"123456789012.dkr-ecr.eu-west-1.on.aws":                 "ecr",
		"public.ecr.aws":                                        "ecr-public", "europe-west3-docker.pkg.dev": "gar", "gcr.io": "gar", "us.gcr.io": "gar",
		"mirror.azurecr.io": "acr", "mirror.azurecr.cn": "acr", "mirror.azurecr.us": "acr",
		"quay.io": "", "docker.io": "", "evil-gcr.io": "", "azurecr.io": "", "pkg.dev": "", "mcr.microsoft.com": "",
		privateRegistry + ".example.com": "", "12345.dkr.ecr.eu-central-1.amazonaws.com": "", privateRegistry + ":5000": "",
		"mirror.azurecr.io.example.com": "",
	} {
		got := ""
		for _, p := range all.providers {
			if p.of(registry) {
				got += p.name
			}
		}
		require.Equal(t, want, got, registry)
	}
	_, ok, err := New().Find(t.Context(), privateRegistry)
	require.NoError(t, err)
	require.False(t, ok, "none is enabled")
}
