package cloud

import (
	"context"
	"strings"

	oauth2google "golang.org/x/oauth2/google"
)

const (
	// googleUser is the user name that goes with an access token:
	// https://cloud.google.com/artifact-registry/docs/docker/authentication#token
	googleUser = "oauth2accesstoken"

	// googleScope permits everything that the roles of the account permit.
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
)

// isGoogle reports whether a registry is Artifact Registry, or gcr.io, which it serves.
func isGoogle(registry string) bool {
	return registry == "gcr.io" || strings.HasSuffix(registry, ".gcr.io") || strings.HasSuffix(registry, ".pkg.dev")
}

// loginGoogle logs in with Application Default Credentials: from the metadata server of GKE and
// Compute Engine, or from the file in GOOGLE_APPLICATION_CREDENTIALS, which may be one of workload
// identity federation. It uses a new source of tokens each time, because a source keeps its token
// until shortly before the token expires.
func loginGoogle(ctx context.Context, _ string) (Login, error) {
	found, err := oauth2google.FindDefaultCredentials(ctx, googleScope)
	if err != nil {
		return Login{}, err
	}
	token, err := found.TokenSource.Token()
	if err != nil {
		return Login{}, err
	}
	return Login{Username: googleUser, Password: token.AccessToken, Expires: token.Expiry}, nil
}
