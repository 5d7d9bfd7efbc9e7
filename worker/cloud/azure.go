package cloud

import (
	"context"
	"os"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/containers/azcontainerregistry"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// azureUser is the user name that goes with a refresh token of a registry:
	// https://learn.microsoft.com/azure/container-registry/container-registry-authentication
	azureUser = "00000000-0000-0000-0000-000000000000"

	// azureScope is the scope of registries in all of Azure's clouds.
	azureScope = "https://containerregistry.azure.net/.default"
)

func isACR(registry string) bool {
	return strings.HasSuffix(registry, ".azurecr.io") || strings.HasSuffix(registry, ".azurecr.cn") || strings.HasSuffix(registry, ".azurecr.us")
}

// azure logs in with a service principal from the environment, a workload identity of Kubernetes,
// or the managed identity of the machine. It never runs the Azure CLI.
type azure struct {
	options azcore.ClientOptions

	mu    sync.Mutex
	chain azcore.TokenCredential
}

// login exchanges a token of Entra ID for a refresh token of the registry, which is valid for about
// three hours.
func (a *azure) login(ctx context.Context, registry string) (Login, error) {
	chain, err := a.credential()
	if err != nil {
		return Login{}, err
	}
	token, err := chain.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azureScope}})
	if err != nil {
		return Login{}, err
	}
	client, err := azcontainerregistry.NewAuthenticationClient("https://"+registry, &azcontainerregistry.AuthenticationClientOptions{ClientOptions: a.options})
	if err != nil {
		return Login{}, err
	}
	answer, err := client.ExchangeAADAccessTokenForACRRefreshToken(ctx, azcontainerregistry.PostContentSchemaGrantTypeAccessToken, registry,
		&azcontainerregistry.AuthenticationClientExchangeAADAccessTokenForACRRefreshTokenOptions{AccessToken: &token.Token})
	if err != nil {
		return Login{}, err
	}
	if answer.RefreshToken == nil {
		return Login{}, errNoToken
	}
	// The registry checks the signature; only the time is needed here.
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(*answer.RefreshToken, &claims); err != nil || claims.ExpiresAt == nil {
		return Login{}, errNoToken
	}
	return Login{Username: azureUser, Password: *answer.RefreshToken, Expires: claims.ExpiresAt.Time}, nil
}

// credential returns the source of Entra ID tokens. It tries the identities that the environment
// configures.
func (a *azure) credential() (azcore.TokenCredential, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.chain != nil {
		return a.chain, nil
	}
	var found []azcore.TokenCredential
	if principal, err := azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: a.options}); err == nil {
		found = append(found, principal)
	}
	if workload, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: a.options}); err == nil {
		found = append(found, workload)
	}
	options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: a.options}
	if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	}
	managed, err := azidentity.NewManagedIdentityCredential(options)
	if err != nil {
		return nil, err
	}
	a.chain, err = azidentity.NewChainedTokenCredential(append(found, managed), nil)
	return a.chain, err
}
