package cloud

import (
	"context"
	"strings"
	"sync"

	"golang.org/x/oauth2"
	oauth2google "golang.org/x/oauth2/google"
)

const (
	// googleUser is the user name that goes with an access token:
	// https://cloud.google.com/artifact-registry/docs/docker/authentication#token
	googleUser = "oauth2accesstoken"

	// googleScope lets the token do what the roles of its account allow.
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
)

// isGoogle reports whether a registry is Artifact Registry, or gcr.io, which it serves.
func isGoogle(registry string) bool {
	return registry == "gcr.io" || strings.HasSuffix(registry, ".gcr.io") || strings.HasSuffix(registry, ".pkg.dev")
}

// google logs in with Application Default Credentials: the metadata server of GKE and Compute
// Engine, or the file that GOOGLE_APPLICATION_CREDENTIALS names, which may be one of workload
// identity federation. One token is good for all registries.
type google struct {
	mu     sync.Mutex
	source oauth2.TokenSource
}

func (g *google) login(ctx context.Context, _ string) (Login, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.source == nil {
		// The source keeps its context for requests of later logins.
		found, err := oauth2google.FindDefaultCredentials(context.WithoutCancel(ctx), googleScope)
		if err != nil {
			return Login{}, err
		}
		g.source = found.TokenSource
	}
	token, err := g.source.Token()
	if err != nil {
		return Login{}, err
	}
	return Login{Username: googleUser, Password: token.AccessToken, Expires: token.Expiry}, nil
}
